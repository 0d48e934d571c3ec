from __future__ import annotations

import json
from dataclasses import replace

import pytest

from slipway.core.errors import PermanentError
from slipway.core.release.orders import (
    Leftover,
    Meaning,
    Order,
    OrderKind,
    about,
    is_newer,
    leftover,
    meaning,
    next_number,
    order_from_storage,
    order_to_storage,
    overtaken_by,
    stop_by,
)
from slipway.core.release.record import (
    FORWARD,
    Approval,
    Phase,
    ReleaseRecord,
    hold,
    with_approval,
)
from slipway.core.service import RampStep, WhenBusy
from tests.examples import advanced, record

ABORT = Order(
    order_id="abort-1",
    kind=OrderKind.ABORT,
    version="2",
    by="pat@desk",
    at_ns=5,
    release_id="chat-v2-1",
    reason="odd answers",
)
NEWER = Order(
    order_id="release-b", kind=OrderKind.RELEASE, version="3", by="pat@desk", at_ns=5, number=4
)
OWN = replace(NEWER, order_id="release-a", version="2", number=3)
APPROVE = replace(ABORT, order_id="approve-1", kind=OrderKind.APPROVE, weight_percent=25)


def under_way(*phases: Phase) -> ReleaseRecord:
    """Return the record of a release of version 2 after `phases`."""
    return advanced(record("2"), *phases)


def at(phase: Phase) -> ReleaseRecord:
    """Return the record of a release of version 2 in `phase`."""
    if phase is Phase.HELD:
        return hold(under_way(*FORWARD[1:7]), reason="asks", timeout_s=9.0, now_ns=9)
    if phase in {Phase.ROLLING_BACK, Phase.ROLLED_BACK}:
        taken_back = under_way(Phase.BUILT, Phase.ROLLING_BACK)
        return taken_back if phase is Phase.ROLLING_BACK else advanced(taken_back, phase)
    return under_way(*FORWARD[1 : FORWARD.index(phase) + 1])


def means(
    order: Order,
    found: ReleaseRecord,
    *,
    when_busy: WhenBusy = WhenBusy.SUPERSEDE,
    own: Order | None = OWN,
) -> Meaning:
    return meaning(order, found, when_busy=when_busy, own=own)


ENDED = frozenset({Phase.DONE, Phase.ROLLED_BACK})
USERS_ARE_ON_IT = frozenset({Phase.PROMOTED, Phase.BAKING})


@pytest.mark.parametrize("phase", list(Phase))
def test_abort_stops_a_release_in_every_phase_on_its_way_forward(phase: Phase) -> None:
    expected = Meaning.ABORT
    if phase in ENDED:
        expected = Meaning.SPENT
    elif phase is Phase.ROLLING_BACK:
        expected = Meaning.NOTHING
    assert means(ABORT, at(phase)) is expected


def test_abort_of_another_release_is_spent() -> None:
    assert means(replace(ABORT, release_id="chat-v2-9"), at(Phase.TESTED)) is Meaning.SPENT


@pytest.mark.parametrize("phase", list(Phase))
def test_release_gives_way_to_a_newer_version_until_users_are_on_it(phase: Phase) -> None:
    stays = phase in ENDED | USERS_ARE_ON_IT | {Phase.ROLLING_BACK}
    expected = Meaning.NOTHING if stays else Meaning.GIVE_WAY
    assert means(NEWER, at(phase)) is expected
    assert means(NEWER, at(phase), own=None) is expected


@pytest.mark.parametrize("when_busy", [WhenBusy.QUEUE, WhenBusy.REFUSE])
@pytest.mark.parametrize("phase", list(Phase))
def test_release_gives_way_under_no_other_policy(phase: Phase, when_busy: WhenBusy) -> None:
    assert means(NEWER, at(phase), when_busy=when_busy) is Meaning.NOTHING


def test_release_gives_way_neither_to_its_own_version_nor_as_a_rollback() -> None:
    assert means(replace(NEWER, version="2"), at(Phase.TESTED)) is Meaning.NOTHING
    assert means(NEWER, replace(at(Phase.TESTED), rollback=True)) is Meaning.NOTHING


def test_own_order_stands_and_an_older_one_is_spent() -> None:
    assert means(OWN, at(Phase.TESTED)) is Meaning.NOTHING
    assert means(replace(NEWER, number=2), at(Phase.TESTED)) is Meaning.SPENT


def canary() -> ReleaseRecord:
    return replace(at(Phase.RAMPING), steps=(RampStep(weight_percent=25, bake_s=1.0),))


def test_yes_to_a_step_of_the_canary_is_delivered_once() -> None:
    assert means(APPROVE, canary()) is Meaning.APPROVE
    given = with_approval(canary(), Approval(weight_percent=25, by="pat", at_ns=1))
    assert means(APPROVE, given) is Meaning.SPENT


def test_yes_to_a_step_that_there_is_not_is_spent() -> None:
    assert means(replace(APPROVE, weight_percent=30), canary()) is Meaning.SPENT
    assert means(APPROVE, at(Phase.RAMPING)) is Meaning.SPENT


def test_number_decides_which_request_is_newer_and_the_id_between_equal_ones() -> None:
    assert is_newer(NEWER, OWN)
    assert not is_newer(OWN, NEWER)
    assert is_newer(NEWER, replace(OWN, number=4))
    assert not is_newer(NEWER, NEWER)


def test_next_number_is_beyond_all_that_stand() -> None:
    assert next_number(()) == 1
    assert next_number((NEWER, OWN, ABORT)) == 5


def test_request_is_overtaken_by_the_newest_and_by_no_other_order() -> None:
    newest = replace(NEWER, order_id="release-c", version="7", number=8)
    assert overtaken_by(OWN, (ABORT, OWN)) is None
    assert overtaken_by(OWN, (newest, NEWER, OWN)) == newest
    assert overtaken_by(newest, (newest, NEWER, OWN)) is None


def test_order_about_a_release_names_it_and_its_version() -> None:
    found = at(Phase.RAMPING)
    order = about(found, OrderKind.APPROVE, order_id="a", by="pat@desk", at_ns=7, weight_percent=25)
    assert (order.release_id, order.version) == (found.release_id, found.version)
    assert (order.kind, order.weight_percent, order.by) == (OrderKind.APPROVE, 25, "pat@desk")


def test_stop_names_who_ordered_it_and_why() -> None:
    found = at(Phase.BAKING)
    stop = stop_by(ABORT, Meaning.ABORT, found)
    assert stop is not None
    assert (stop.code, stop.message) == (
        "aborted",
        "release chat-v2-1 was aborted by pat@desk: odd answers",
    )
    silent = stop_by(replace(ABORT, reason=""), Meaning.ABORT, found)
    assert silent is not None
    assert silent.message.endswith("by pat@desk")


def test_stop_by_a_newer_request_names_its_version() -> None:
    stop = stop_by(NEWER, Meaning.GIVE_WAY, at(Phase.TESTED))
    assert stop is not None
    assert stop.code == "superseded"
    assert "gave way to version 3, asked for by pat@desk" in stop.message


@pytest.mark.parametrize("other", [Meaning.APPROVE, Meaning.NOTHING, Meaning.SPENT])
def test_nothing_else_stops_a_release(other: Meaning) -> None:
    assert stop_by(NEWER, other, at(Phase.TESTED)) is None


_TABLE = {
    **dict.fromkeys(ENDED, Leftover.NONE),
    **dict.fromkeys(USERS_ARE_ON_IT, Leftover.FINISH),
}


@pytest.mark.parametrize("when_busy", [WhenBusy.QUEUE, WhenBusy.SUPERSEDE])
@pytest.mark.parametrize("phase", list(Phase))
def test_leftover_is_taken_back_until_users_are_on_it_and_then_finished(
    phase: Phase, when_busy: WhenBusy
) -> None:
    expected = _TABLE.get(phase, Leftover.TAKE_BACK)
    assert leftover(at(phase), version="3", when_busy=when_busy) is expected


@pytest.mark.parametrize("phase", list(Phase))
def test_leftover_is_left_alone_by_a_policy_that_refuses(phase: Phase) -> None:
    expected = Leftover.NONE if phase in ENDED else Leftover.REFUSE
    assert leftover(at(phase), version="3", when_busy=WhenBusy.REFUSE) is expected


def test_leftover_of_the_same_version_is_gone_on_with_unless_it_is_a_rollback() -> None:
    found = at(Phase.TESTED)
    assert leftover(found, version="2", when_busy=WhenBusy.QUEUE) is Leftover.NONE
    going_back = replace(found, rollback=True)
    assert leftover(going_back, version="2", when_busy=WhenBusy.QUEUE) is Leftover.TAKE_BACK


@pytest.mark.parametrize("order", [ABORT, NEWER, APPROVE], ids=lambda order: order.kind)
def test_order_is_stored_canonically_and_read_back_equal(order: Order) -> None:
    text = order_to_storage(order)
    assert order_from_storage(text) == order
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_order_without_what_has_a_default_is_read() -> None:
    text = '{"order_id":"a","kind":"abort","version":"2","by":"pat","at_ns":1}'
    assert order_from_storage(text).reason == ""


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        "{}",
        '{"order_id":"a","kind":"abort","version":"2","by":"pat","at_ns":1,"more":1}',
        '{"order_id":"a","kind":"explode","version":"2","by":"pat","at_ns":1}',
        '{"order_id":"a","kind":[],"version":"2","by":"pat","at_ns":1}',
        '{"order_id":"a","kind":"abort","version":2,"by":"pat","at_ns":1}',
        '{"order_id":"a","kind":"abort","version":"2","by":"pat","at_ns":true}',
    ],
    ids=lambda text: text[:40],
)
def test_order_that_cannot_be_read_is_never_guessed(text: str) -> None:
    with pytest.raises(PermanentError) as caught:
        order_from_storage(text)
    assert caught.value.code == "order-damaged"
