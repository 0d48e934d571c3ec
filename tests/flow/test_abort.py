"""A person stops a release: whatever it was doing, users end on the former version."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prefect.exceptions import TerminationSignal

from slipway.core.errors import PermanentError, TransientError
from slipway.core.release.orders import OrderKind
from slipway.core.release.record import FORWARD, Phase
from slipway.core.routing import Slot
from tests.fakes.journal import ProcessDied
from tests.flow.sweeps import swept
from tests.flow.world import SERVICE, World

UNDER_WAY = [phase for phase in FORWARD if phase is not Phase.DONE]
ABORTED_WRITES = 42
"""Writes of a release that is aborted during its bake, up to the phase `rolled_back`."""

ABORTING_WRITES = 13
"""Writes of an abort that takes a release back itself, up to the phase `rolled_back`."""


def _abort_at(world: World, phase: Phase) -> None:
    world.at_write(f"record {phase}", lambda: world.order(OrderKind.ABORT, reason="odd answers"))


@pytest.fixture
def aborted_in_bake(world: World) -> World:
    """Return a world in which the next release is aborted when its bake begins."""
    world.set_policy(bake_s=5.0)
    _abort_at(world, Phase.BAKING)
    return world


@pytest.mark.parametrize("phase", UNDER_WAY)
def test_abort_in_a_phase_takes_the_release_back_and_names_who_asked(
    world: World, phase: Phase
) -> None:
    world.set_policy(bake_s=5.0)
    _abort_at(world, phase)
    with pytest.raises(PermanentError, match="aborted by pat@desk: odd answers") as caught:
        world.release("2")
    assert caught.value.code == "aborted"
    world.assert_taken_back("2", code="aborted")
    assert world.ordered() == []


def test_abort_before_the_switch_never_moves_a_user(world: World) -> None:
    _abort_at(world, Phase.SMOKED)
    with pytest.raises(PermanentError):
        world.release("2")
    assert world.model.benchmarks == 0
    assert not any(what.startswith("route green 100") for what in world.journal.writes)


def test_abort_during_a_long_bake_is_obeyed_within_seconds(world: World) -> None:
    world.set_policy(bake_s=3600.0)
    world.clock.while_waiting.append(_once(lambda: world.order(OrderKind.ABORT)))
    began_ns = world.clock.now_ns
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "aborted"
    assert (world.clock.now_ns - began_ns) / 1e9 < 5
    world.assert_taken_back("2", code="aborted")


def test_abort_while_pods_are_waited_for_does_not_wait_for_them(world: World) -> None:
    world.cluster.looks_until_ready = 10_000
    world.clock.while_waiting.append(_once(lambda: world.order(OrderKind.ABORT)))
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "aborted"
    world.assert_taken_back("2", code="aborted")


def test_abort_while_the_old_slot_drains_brings_the_users_back_to_it(world: World) -> None:
    world.cluster.streams[Slot.BLUE] = [1]
    world.clock.while_waiting.append(_once(lambda: world.order(OrderKind.ABORT)))
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "aborted"
    world.assert_taken_back("2", code="aborted")


def _once(happening: Callable[[], object]) -> Callable[[], None]:
    left = [happening]

    def happen() -> None:
        while left:
            left.pop()()

    return happen


def test_abort_of_a_release_that_is_taken_back_already_changes_nothing(world: World) -> None:
    world.model.ttft_ms = 900.0
    _abort_at(world, Phase.ROLLING_BACK)
    with pytest.raises(PermanentError):
        world.release("2")
    world.assert_taken_back("2", code="benchmark-failed")
    assert world.ordered() == []


def test_order_about_a_release_that_has_ended_is_cleared_and_stops_no_other(world: World) -> None:
    world.order(OrderKind.ABORT)
    assert world.release("2")["outcome"] == "done"
    assert world.ordered() == []


def test_order_that_cannot_be_read_is_told_and_left_and_stops_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.cluster.orders[SERVICE]["abort-0"] = '{"kind":"abort"'
    assert world.release("2")["outcome"] == "done"
    assert caplog.text.count("order abort-0 is left alone: the order cannot") == 1
    assert world.ordered() == ["abort"]


def test_orders_out_of_reach_for_a_while_do_not_stop_a_release(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, answers = world.orders.read, [True, False, False]

    def flicker(service: str) -> object:
        if not (answers.pop(0) if answers else True):
            raise TransientError("no answer", code="api-unreachable", hint="wait")
        return read(service)

    monkeypatch.setattr(world.orders, "read", flicker)
    assert world.release("2")["outcome"] == "done"
    assert answers == []


def test_sweep_of_aborts_covers_every_write(aborted_in_bake: World) -> None:
    with pytest.raises(PermanentError):
        aborted_in_bake.release("2")
    assert _end_of(aborted_in_bake) == ABORTED_WRITES


def test_sweep_of_aborts_by_themselves_covers_every_write(left_baking: World) -> None:
    left_baking.abort()
    assert _end_of(left_baking) == ABORTING_WRITES


def _end_of(world: World) -> int:
    writes = world.journal.writes
    return 1 + max(at for at, what in enumerate(writes) if what.startswith("record rolled_back"))


@pytest.mark.parametrize("write", swept(range(1, ABORTED_WRITES)))
def test_aborted_release_killed_after_a_write_ends_taken_back(
    aborted_in_bake: World, write: int
) -> None:
    aborted_in_bake.journal.die_after = write
    aborted_in_bake.die_in_release("2")
    with pytest.raises(PermanentError) as caught:
        aborted_in_bake.release_after_death("2")
    assert caught.value.code == "aborted"
    aborted_in_bake.assert_taken_back("2", code="aborted")


@pytest.mark.parametrize("phase", UNDER_WAY)
def test_release_of_a_dead_process_is_taken_back_by_the_abort_itself(
    world: World, phase: Phase
) -> None:
    world.die_at_write(f"record {phase}")
    world.die_in_release("2")
    world.journal.next_process()
    outcome = world.abort("it hangs")
    assert (outcome["release"], outcome["phase"]) == ("chat-v2-2", "rolled_back")
    assert outcome["aborted"]
    assert outcome["reason"].endswith("it hangs")
    world.assert_taken_back("2", code="aborted")
    assert world.ordered() == []


@pytest.fixture
def left_baking(world: World) -> World:
    """Return a world in which a process died as its bake began."""
    world.die_at_write("record baking")
    world.die_in_release("2")
    world.journal.next_process()
    return world


@pytest.mark.parametrize("write", swept(range(1, ABORTING_WRITES)))
def test_abort_killed_after_a_write_is_finished_by_the_next_one(
    left_baking: World, write: int
) -> None:
    left_baking.journal.die_after = write
    with pytest.raises(ProcessDied):
        left_baking.abort()
    left_baking.journal.next_process()
    left_baking.clock.advance(60)
    assert left_baking.abort()["aborted"]
    left_baking.assert_taken_back("2", code="aborted")


def test_abort_that_died_is_obeyed_by_the_next_process_of_the_release(left_baking: World) -> None:
    left_baking.die_at_write("order abort")
    with pytest.raises(ProcessDied):
        left_baking.abort()
    with pytest.raises(PermanentError) as caught:
        left_baking.release_after_death("2")
    assert caught.value.code == "aborted"
    left_baking.assert_taken_back("2", code="aborted")
    assert left_baking.ordered() == []


def test_abort_leaves_a_living_holder_its_lock_and_waits_for_its_end(left_baking: World) -> None:
    world = left_baking
    looks = [0]

    def live() -> None:
        looks[0] += 1
        lease = world.cluster.leases[SERVICE]
        if looks[0] < 40:
            world.releases.renew(lease)
        elif looks[0] == 40:
            world.releases.release(lease)  # the same process, going on with its work
            with pytest.raises(PermanentError) as caught:
                world.release("2")
            assert caught.value.code == "aborted"

    world.clock.while_waiting.append(live)
    assert world.abort()["aborted"]
    assert looks[0] >= 40
    world.assert_taken_back("2", code="aborted")


def test_abort_that_is_not_obeyed_in_time_says_so_and_its_order_stands(left_baking: World) -> None:
    world = left_baking
    world.clock.while_waiting.append(lambda: _renewed(world))
    with pytest.raises(TransientError, match="phase baking") as caught:
        world.abort()
    assert caught.value.code == "abort-unconfirmed"
    assert world.ordered() == ["abort"]


def _renewed(world: World) -> None:
    world.releases.renew(world.cluster.leases[SERVICE])


def test_abort_with_nothing_under_way_says_so_and_writes_nothing(world: World) -> None:
    assert world.abort() == {
        "release": "chat-v1-1",
        "phase": "done",
        "reason": world.record.reason,
        "aborted": False,
    }
    assert world.journal.writes == []


def test_abort_of_a_service_never_released_says_so(fresh: World) -> None:
    assert fresh.abort()["reason"] == "never released"


def test_abort_twice_equals_once(left_baking: World) -> None:
    first = left_baking.abort()
    left_baking.journal.next_process()
    assert left_baking.abort() == first
    assert left_baking.journal.writes == []


@pytest.mark.parametrize("phase", UNDER_WAY)
def test_run_cancelled_in_a_phase_gives_its_lock_back_and_is_finished_by_a_rerun(
    world: World, phase: Phase
) -> None:
    """What Prefect raises in a flow whose run is cancelled: no error of ours, no `Exception`."""

    def cancel() -> None:
        raise TerminationSignal(signal=15)

    world.at_write(f"record {phase}", cancel)
    with pytest.raises(TerminationSignal):
        world.release("2")
    assert (world.record.phase, world.cluster.leases[SERVICE].holder) == (phase, "")
    world.journal.next_process()
    assert world.release("2")["outcome"] == "done"
    assert world.cluster.violations == []
    assert world.cluster.pods == {}


def test_old_slot_that_comes_back_is_told_in_the_record_before_it_is_scaled(world: World) -> None:
    world.die_at_write("scale chat-blue to 0")
    world.die_in_release("2")
    world.journal.next_process()
    before = len(world.journal.writes)
    assert world.abort()["aborted"]
    since = world.journal.writes[before:]
    back = next(number for number, what in enumerate(since) if what.startswith("scale chat-blue"))
    assert "slot blue comes back" in since[back - 1]
    assert world.replicas(Slot.BLUE) == 2
