from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.core.release.orphan import (
    GiveUsersBack,
    Leave,
    LockView,
    Reconcile,
    decide_watch,
    retirement_is_due,
)
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.routing import Route, Slot, all_to, split
from tests.examples import record

ALIVE = LockView(holder="me", duration_s=15.0, unchanged_s=6.0)
DEAD = LockView(holder="me", duration_s=15.0, unchanged_s=17.1)
FREE = LockView(holder="", duration_s=15.0, unchanged_s=2.1)
BOTH_READY = {Slot.BLUE: 2, Slot.GREEN: 2}
CANDIDATE_DEAD = {Slot.BLUE: 2, Slot.GREEN: 0}
FIVE = split("chat", stable=Slot.BLUE, candidate_percent=5)


def release(phase: Phase = Phase.RAMPING, **changes: Any) -> ReleaseRecord:
    return replace(record("2"), phase=phase, candidate=Slot.GREEN, stable=Slot.BLUE, **changes)


def decide(
    found: ReleaseRecord | None,
    lock: LockView,
    *,
    route: Route | None = FIVE,
    ready: dict[Slot, int] = BOTH_READY,
    dead_s: float = 0.0,
    now_ns: int = 100,
) -> Any:
    return decide_watch(found, lock, route=route, ready=ready, dead_s=dead_s, now_ns=now_ns)


def test_service_that_was_never_released_is_left_alone() -> None:
    assert decide(None, FREE) == Leave()


def test_release_whose_process_lives_is_left_alone() -> None:
    assert decide(release(), ALIVE) == Leave()


@pytest.mark.parametrize("lock", [DEAD, FREE])
@pytest.mark.parametrize("phase", [Phase.REQUESTED, Phase.RAMPING, Phase.HELD, Phase.ROLLING_BACK])
def test_unfinished_release_without_a_process_is_reconciled(lock: LockView, phase: Phase) -> None:
    decision = decide(release(phase), lock)
    assert isinstance(decision, Reconcile)
    assert f"(phase {phase})" in decision.reason


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.ROLLED_BACK])
def test_lock_that_a_release_left_behind_at_its_end_is_given_back(phase: Phase) -> None:
    decision = decide(release(phase), DEAD)
    assert isinstance(decision, Reconcile)
    assert "died as it ended" in decision.reason
    for lock in (ALIVE, FREE):
        assert decide(release(phase), lock) == Leave()


def test_lock_given_back_a_moment_ago_is_not_abandoned_yet() -> None:
    assert decide(release(), replace(FREE, unchanged_s=1.9)) == Leave()


def test_users_on_a_dead_candidate_are_given_back_before_anything_else() -> None:
    assert isinstance(decide(release(), DEAD, ready=CANDIDATE_DEAD), GiveUsersBack)


def test_living_release_has_a_moment_to_give_them_back_itself() -> None:
    assert decide(release(), ALIVE, ready=CANDIDATE_DEAD, dead_s=2.9) == Leave()
    decision = decide(release(), ALIVE, ready=CANDIDATE_DEAD, dead_s=3.0)
    assert isinstance(decision, GiveUsersBack)


def test_users_that_a_dead_rollback_left_there_are_given_back_too() -> None:
    decision = decide(release(Phase.ROLLING_BACK), DEAD, ready=CANDIDATE_DEAD)
    assert isinstance(decision, GiveUsersBack)


@pytest.mark.parametrize("phase", [Phase.PROMOTED, Phase.BAKING])
def test_users_of_a_promoted_candidate_that_dies_are_given_back_too(phase: Phase) -> None:
    everybody = all_to("chat", Slot.GREEN, subsets=frozenset(Slot))
    decision = decide(release(phase), FREE, route=everybody, ready=CANDIDATE_DEAD)
    assert isinstance(decision, GiveUsersBack)


@pytest.mark.parametrize(
    ("found", "route", "ready"),
    [
        (release(), all_to("chat", Slot.BLUE), CANDIDATE_DEAD),  # nobody is sent there
        (release(), FIVE, {Slot.BLUE: 0, Slot.GREEN: 0}),  # the stable slot serves nobody either
        (release(), None, CANDIDATE_DEAD),
        (replace(release(), stable=None), FIVE, CANDIDATE_DEAD),
    ],
)
def test_users_stay_where_giving_them_back_helps_nobody(
    found: ReleaseRecord, route: Route | None, ready: dict[Slot, int]
) -> None:
    assert isinstance(decide(found, DEAD, route=route, ready=ready, dead_s=9.0), Reconcile)


def test_slot_is_retired_when_its_rollback_window_is_over() -> None:
    done = release(Phase.DONE, retire_after_ns=100)

    assert decide(done, FREE, now_ns=99) == Leave()
    assert isinstance(decide(done, FREE, now_ns=100), Reconcile)
    assert decide(done, ALIVE, now_ns=100) == Leave()


def test_nothing_is_retired_without_a_window_or_an_end() -> None:
    assert decide(release(Phase.DONE), FREE) == Leave()
    assert decide(release(Phase.ROLLED_BACK, retire_after_ns=1), FREE) == Leave()
    assert not retirement_is_due(release(Phase.RAMPING, retire_after_ns=1), now_ns=100)
