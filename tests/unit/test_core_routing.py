from __future__ import annotations

import pytest

from slipway.core.errors import InputError
from slipway.core.routing import (
    Preview,
    Route,
    Share,
    Slot,
    all_to,
    empty,
    with_preview,
    without_slot,
)

BOTH = frozenset(Slot)


def test_other_slot_of_each_slot_is_the_second_one() -> None:
    assert Slot.BLUE.other is Slot.GREEN
    assert Slot.GREEN.other is Slot.BLUE


def test_empty_route_names_no_slot() -> None:
    route = empty("chat")

    assert route.shares == ()
    assert [route.percent(slot) for slot in Slot] == [0, 0]
    assert not any(route.names(slot) for slot in Slot)


def test_all_to_one_slot_keeps_warm_subsets() -> None:
    route = all_to("chat", Slot.GREEN, subsets=frozenset({Slot.BLUE}))

    assert route.percent(Slot.GREEN) == 100
    assert route.subsets == BOTH
    assert route.names(Slot.GREEN)
    assert not route.names(Slot.BLUE)


@pytest.mark.parametrize(
    ("shares", "problem"),
    [
        ((Share(slot=Slot.BLUE, percent=99),), "not 99"),
        ((Share(slot=Slot.BLUE, percent=101),), "not 101"),
        (
            (Share(slot=Slot.BLUE, percent=100), Share(slot=Slot.GREEN, percent=0)),
            "must be positive",
        ),
        (
            (Share(slot=Slot.BLUE, percent=150), Share(slot=Slot.GREEN, percent=-50)),
            "must be positive",
        ),
        ((Share(slot=Slot.BLUE, percent=50), Share(slot=Slot.BLUE, percent=50)), "appears twice"),
    ],
)
def test_shares_that_are_no_division_of_the_users_are_refused(
    shares: tuple[Share, ...], problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        Route(service="chat", shares=shares, subsets=BOTH)

    assert caught.value.code == "route-invalid"


def test_route_to_a_slot_that_is_no_subset_is_refused() -> None:
    with pytest.raises(InputError, match="no subsets: green"):
        Route(
            service="chat",
            shares=(Share(slot=Slot.BLUE, percent=100),),
            preview=Preview(slot=Slot.GREEN, token="t"),
            subsets=frozenset({Slot.BLUE}),
        )


def test_preview_adds_the_header_route_and_leaves_the_users_alone() -> None:
    route = with_preview(all_to("chat", Slot.BLUE), Slot.GREEN, "t0ken")

    assert route.percent(Slot.BLUE) == 100
    assert route.percent(Slot.GREEN) == 0
    assert route.names(Slot.GREEN)
    assert route.preview == Preview(slot=Slot.GREEN, token="t0ken")


def test_without_slot_drops_its_preview_and_subset() -> None:
    before = all_to("chat", Slot.BLUE)

    assert without_slot(with_preview(before, Slot.GREEN, "t"), Slot.GREEN) == before


def test_without_slot_keeps_the_other_slots_preview() -> None:
    route = with_preview(all_to("chat", Slot.BLUE, subsets=frozenset({Slot.GREEN})), Slot.BLUE, "t")

    assert without_slot(route, Slot.GREEN).preview == Preview(slot=Slot.BLUE, token="t")


def test_without_slot_that_serves_users_is_refused() -> None:
    with pytest.raises(InputError, match="no subsets: blue"):
        without_slot(all_to("chat", Slot.BLUE), Slot.BLUE)


def test_revision_is_the_same_for_the_same_route_whatever_the_order_of_shares() -> None:
    one = Share(slot=Slot.BLUE, percent=90)
    other = Share(slot=Slot.GREEN, percent=10)

    first = Route(service="chat", shares=(one, other), subsets=BOTH)
    second = Route(service="chat", shares=(other, one), subsets=BOTH)

    assert first.revision == second.revision
    assert len(first.revision) == 12


def test_revision_changes_with_every_part_of_a_route() -> None:
    base = all_to("chat", Slot.BLUE)
    routes = [
        base,
        empty("chat"),
        all_to("other", Slot.BLUE),
        all_to("chat", Slot.GREEN),
        all_to("chat", Slot.BLUE, subsets=BOTH),
        with_preview(base, Slot.GREEN, "a"),
        with_preview(base, Slot.GREEN, "b"),
        with_preview(all_to("chat", Slot.BLUE, subsets=BOTH), Slot.BLUE, "a"),
        Route(
            service="chat",
            shares=(Share(slot=Slot.BLUE, percent=60), Share(slot=Slot.GREEN, percent=40)),
            subsets=BOTH,
        ),
    ]

    assert len({route.revision for route in routes}) == len(routes)
