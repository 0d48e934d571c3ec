"""Killed after any write, a release is finished by the next process as if nothing had happened."""

from __future__ import annotations

import pytest

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.release.record import Phase
from slipway.core.routing import Slot
from tests.examples import holder_on
from tests.flow.sweeps import swept
from tests.flow.world import SERVICE, World

FIRST_WRITES = 35
"""Writes of a first release that goes well."""

SECOND_WRITES = 41
"""Writes of a second release that goes well."""

ROLLED_BACK_WRITES = 42
"""Writes of a release whose users fail during the bake, up to the phase `rolled_back`."""


@pytest.fixture
def fails_in_bake(world: World) -> World:
    """Return a world in which the next release is promoted and then fails its bake."""
    world.at_write("record baking", lambda: world.cluster.break_pods(SERVICE, Slot.GREEN))
    return world


def test_sweeps_cover_every_write(fresh: World) -> None:
    fresh.release("1")
    assert len(fresh.journal.writes) == FIRST_WRITES
    fresh.journal.next_process()
    fresh.release("2")
    assert len(fresh.journal.writes) == SECOND_WRITES


def test_rollback_sweep_covers_every_write(fails_in_bake: World) -> None:
    with pytest.raises(PermanentError):
        fails_in_bake.release("2")
    last = max(i for i, what in enumerate(fails_in_bake.journal.writes) if "rolled_back" in what)
    assert last + 1 == ROLLED_BACK_WRITES


def test_record_names_a_failure_only_while_it_is_taken_back(fails_in_bake: World) -> None:
    seen: set[tuple[str, Phase]] = set()
    fails_in_bake.journal.checks.append(
        lambda _: seen.add((fails_in_bake.record.failure_code, fails_in_bake.record.phase))
    )
    with pytest.raises(PermanentError):
        fails_in_bake.release("2")
    failed = {phase for code, phase in seen if code}
    assert failed == {Phase.ROLLING_BACK, Phase.ROLLED_BACK}


@pytest.fixture(scope="module")
def first_done(fresh_world: World, prefect_server: None) -> World:
    """Return the end of a first release that nobody killed."""
    world = fresh_world.copy()
    with pytest.MonkeyPatch.context() as patch:
        world.enter(patch)
        world.release("1")
    return world


@pytest.fixture(scope="module")
def second_done(released_world: World) -> World:
    """Return the end of a second release that nobody killed."""
    world = released_world.copy()
    with pytest.MonkeyPatch.context() as patch:
        world.enter(patch)
        world.release("2")
    return world


@pytest.mark.parametrize("write", swept(range(1, FIRST_WRITES + 1)))
def test_first_release_killed_after_a_write_ends_as_if_never_killed(
    fresh: World, first_done: World, write: int
) -> None:
    _assert_killed_equals_unkilled(fresh, first_done, version="1", write=write)


@pytest.mark.parametrize("write", swept(range(1, SECOND_WRITES + 1)))
def test_second_release_killed_after_a_write_ends_as_if_never_killed(
    world: World, second_done: World, write: int
) -> None:
    _assert_killed_equals_unkilled(world, second_done, version="2", write=write)


def _assert_killed_equals_unkilled(world: World, done: World, *, version: str, write: int) -> None:
    world.journal.die_after = write
    world.die_in_release(version)
    assert world.release_after_death(version)["outcome"] == "done"
    assert world.final_state() == done.final_state()


@pytest.mark.parametrize("write", swept(range(1, SECOND_WRITES + 1)))
def test_write_whose_answer_is_lost_changes_no_outcome(
    world: World, second_done: World, write: int
) -> None:
    world.journal.lose_answer_of = write
    outcome = world.release("2")
    assert outcome["outcome"] == "done"
    assert world.final_state() == second_done.final_state()


@pytest.mark.parametrize("write", swept(range(1, ROLLED_BACK_WRITES)))
def test_failing_release_killed_after_a_write_ends_rolled_back(
    fails_in_bake: World, write: int
) -> None:
    fails_in_bake.journal.die_after = write
    fails_in_bake.die_in_release("2")
    with pytest.raises(PermanentError) as caught:
        fails_in_bake.release_after_death("2")
    assert caught.value.code == "candidate-unhealthy"
    fails_in_bake.assert_taken_back("2", code="candidate-unhealthy")


@pytest.mark.parametrize("write", swept(range(1, SECOND_WRITES + 1)))
def test_lock_lost_after_a_write_stops_every_further_write(
    world: World, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    monkeypatch.setattr("tasks.session.LockKeeper", world.keeper_on_the_fake_clock)
    later: list[str] = []

    def watch(what: str) -> None:
        if len(world.journal.writes) == write:
            world.take_over()
        elif len(world.journal.writes) > write:
            later.append(what)

    world.journal.checks.append(watch)
    if write < SECOND_WRITES - 1:  # the last two: the release is done, only its report is left
        with pytest.raises(ConflictError) as caught:
            world.release("2")
        assert caught.value.code == "lock-lost"
    else:
        world.release("2")
    # Its own test pod is the one thing that a release may still clear away.
    assert [what for what in later if what != "delete Pod chat-test"] == []
    assert world.cluster.leases[SERVICE].holder == holder_on("heir")
