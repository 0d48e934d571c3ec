from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slipway.core.release.orders import (
    Leftover,
    Meaning,
    Order,
    OrderKind,
    is_newer,
    leftover,
    meaning,
    order_from_storage,
    order_to_storage,
    overtaken_by,
    stop_by,
)
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.service import WhenBusy
from tests.property.strategies import ended_histories, records, texts, times_ns

versions = st.integers(1, 4).map(str)
orders = st.builds(
    Order,
    order_id=st.text("abc", min_size=1, max_size=3),
    kind=st.sampled_from(list(OrderKind)),
    version=versions,
    by=texts,
    at_ns=times_ns,
    number=st.integers(0, 4),
    release_id=st.sampled_from(["", "chat-v1-1", "chat-v2-1"]),
    weight_percent=st.integers(0, 100),
    reason=texts,
)
policies = st.sampled_from(list(WhenBusy))


@given(orders)
def test_order_stored_is_read_back_equal(order: Order) -> None:
    assert order_from_storage(order_to_storage(order)) == order


@given(orders, orders)
def test_of_two_requests_one_is_newer_unless_they_are_one(one: Order, other: Order) -> None:
    same = (one.number, one.order_id) == (other.number, other.order_id)
    assert is_newer(one, other) + is_newer(other, one) == (0 if same else 1)


@given(st.lists(orders, min_size=1, max_size=5, unique_by=lambda order: order.order_id))
def test_of_all_requests_that_wait_exactly_one_is_not_overtaken(waiting: list[Order]) -> None:
    asked = [replace(order, kind=OrderKind.RELEASE) for order in waiting]
    assert sum(overtaken_by(order, asked) is None for order in asked) == 1


@given(orders, records(ended_histories()), policies, st.none() | orders)
def test_release_that_has_ended_is_stopped_by_no_order(
    order: Order, ended: ReleaseRecord, when_busy: WhenBusy, own: Order | None
) -> None:
    means = meaning(order, ended, when_busy=when_busy, own=own)
    assert means in {Meaning.NOTHING, Meaning.SPENT}
    assert stop_by(order, means, ended) is None


@given(orders, records(), policies, st.none() | orders)
def test_only_an_abort_takes_back_what_users_are_on(
    order: Order, record: ReleaseRecord, when_busy: WhenBusy, own: Order | None
) -> None:
    stop = stop_by(order, meaning(order, record, when_busy=when_busy, own=own), record)
    if stop is not None and record.has_reached(Phase.PROMOTED):
        assert (order.kind, stop.code) == (OrderKind.ABORT, "aborted")


@given(records(), versions, policies)
def test_leftover_is_finished_only_when_users_are_on_it_and_taken_back_only_when_not(
    record: ReleaseRecord, version: str, when_busy: WhenBusy
) -> None:
    left = leftover(record, version=version, when_busy=when_busy)
    if left is Leftover.FINISH:
        assert record.has_reached(Phase.PROMOTED)
    if left is Leftover.TAKE_BACK:
        assert not record.has_reached(Phase.PROMOTED)
    assert (left is Leftover.NONE) == (record.terminal or record.version == version)
