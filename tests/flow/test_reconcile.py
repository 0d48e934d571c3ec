"""What a dead process left is finished, by reconcile and by the watcher before it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.errors import TransientError
from slipway.core.release.holder import refuse_stranger
from slipway.core.release.orders import OrderKind
from slipway.core.release.record import Phase
from slipway.core.routing import Slot, all_to
from slipway.core.service import RampStep
from tasks.session import new_holder
from tests.fakes.cluster import Fault
from tests.fakes.journal import ProcessDied
from tests.flow.world import SERVICE, World

STEPS = (RampStep(weight_percent=10, bake_s=5.0), RampStep(weight_percent=50, bake_s=5.0))


@pytest.fixture
def canary(world: World) -> World:
    """Return a world in which version 1 serves 50 users' requests a second."""
    world.set_canary(*STEPS)
    world.let_users_stream(per_s=50)
    return world


def _left_at_10_percent(world: World) -> None:
    world.die_at_write("record ramping: 50 % of the users")
    world.die_in_release("2")
    assert world.cluster.routes[SERVICE].percent(Slot.GREEN) == 10


def test_service_that_was_never_released_is_left_alone(fresh: World) -> None:
    assert fresh.reconcile()[SERVICE] == "never released"
    assert fresh.journal.writes == []


def test_release_that_ended_is_left_alone(world: World) -> None:
    assert world.reconcile()[SERVICE] == "chat-v1-1 done: nothing was left"
    assert world.journal.writes == []


def test_release_whose_process_died_is_finished(canary: World) -> None:
    _left_at_10_percent(canary)
    assert canary.reconcile()[SERVICE].startswith("chat-v2-2: done")
    assert canary.record.phase is Phase.DONE
    assert canary.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
    assert canary.cluster.violations == []


def test_lock_of_a_dead_process_is_watched_once_and_not_again(canary: World) -> None:
    _left_at_10_percent(canary)
    canary.clock.waits_s.clear()
    began_s = canary.clock.monotonic()
    locked: list[float] = []
    canary.at_write("stamp", lambda: locked.append(canary.clock.monotonic() - began_s))
    canary.reconcile()
    assert locked[0] - 60.0 <= 17.0  # 60 s of them passed before reconcile began


def test_release_that_cannot_be_finished_is_taken_back(canary: World) -> None:
    _left_at_10_percent(canary)
    canary.cluster.break_pods(SERVICE, Slot.GREEN)
    assert "0 ready pods" in canary.reconcile()[SERVICE]
    canary.assert_taken_back("2", code="candidate-unhealthy")


def test_rollback_whose_process_died_is_finished(world: World) -> None:
    world.release("2")
    world.die_at_write("route blue 100, subsets")
    with pytest.raises(ProcessDied):
        world.rollback()
    assert world.reconcile()[SERVICE].startswith("chat-v1-3: done")
    assert (world.record.rollback, world.alias) == (True, "1")


def test_release_that_lives_is_left_alone(world: World) -> None:
    world.die_at_write("record smoked")
    world.die_in_release("2")
    world.journal.next_process()
    lock = world.releases.lock(SERVICE)

    def renew() -> None:
        world.releases.renew(lock)

    world.clock.while_waiting.append(renew)
    world.clock.advance(-60)  # the head start that reconcile gives to the dead
    assert "somebody works on it" in world.reconcile()[SERVICE]
    assert world.journal.writes == []


def test_slot_is_retired_when_its_rollback_window_is_over(world: World) -> None:
    world.set_policy(rollback_window_s=600.0)
    world.release("2")
    assert "nothing was left" in world.reconcile()[SERVICE]
    assert world.replicas(Slot.BLUE) == 2
    world.clock.advance(600)
    assert "scaled to zero" in world.reconcile()[SERVICE]
    assert (world.replicas(Slot.BLUE), world.record.retire_after_ns) == (0, 0)
    assert world.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
    assert world.cluster.leases[SERVICE].holder == ""


def test_slot_is_not_retired_while_streams_are_open_on_it(world: World) -> None:
    world.set_policy(rollback_window_s=1.0)
    world.release("2")
    world.cluster.streams[Slot.BLUE] = [2, 1, 0]
    open_streams: list[int] = []
    world.at_write("scale", lambda: open_streams.extend(world.cluster.streams[Slot.BLUE]))
    world.reconcile()
    assert open_streams == [0]


# -- the watcher ----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["record done", "put releases/chat/chat-v2-2/000002/record.json"])
def test_release_whose_process_died_right_after_its_end_is_closed(world: World, last: str) -> None:
    world.die_at_write(last)
    world.die_in_release("2")
    assert world.record.phase is Phase.DONE
    assert world.cluster.leases[SERVICE].holder
    world.order(OrderKind.ABORT)  # it comes too late
    world.journal.next_process()
    assert world.reconcile()[SERVICE] == "chat-v2-2 done: closed, its process died"
    assert (world.cluster.leases[SERVICE].holder, world.ordered()) == ("", [])
    assert "record.json" in world.evidence()
    assert world.reconcile()[SERVICE] == "chat-v2-2 done: nothing was left"


def test_watcher_has_the_lock_of_a_release_that_has_ended_given_back(world: World) -> None:
    world.die_at_write("record done")
    world.die_in_release("2")
    world.journal.next_process()
    world.watch(world.watcher(), seconds=20)
    assert world.started == [SERVICE]


def test_watcher_leaves_a_service_at_rest_alone(world: World) -> None:
    world.watch(world.watcher(), seconds=30)
    assert (world.started, world.journal.writes) == ([], [])


def test_watcher_starts_reconcile_when_a_lock_has_run_out(canary: World) -> None:
    _left_at_10_percent(canary)
    watcher = canary.watcher()
    canary.watch(watcher, seconds=16)
    assert canary.started == []
    canary.watch(watcher, seconds=4)
    assert canary.started == [SERVICE]
    canary.watch(watcher, seconds=30)
    assert canary.started == [SERVICE], "the one that was started has time to begin"
    canary.watch(watcher, seconds=40)
    assert canary.started == [SERVICE, SERVICE], "it did not begin: it may have died"


@pytest.mark.parametrize("dies_s", [0, 10, 30])
def test_watcher_gives_users_of_a_dead_candidate_back_within_five_seconds(
    canary: World, dies_s: int
) -> None:
    _left_at_10_percent(canary)
    watcher = canary.watcher()
    canary.watch(watcher, seconds=dies_s)
    canary.cluster.break_pods(SERVICE, Slot.GREEN)
    canary.watch(watcher, seconds=5)
    assert canary.cluster.look_at_gateway(SERVICE).percent(Slot.BLUE) == 100
    record = canary.record
    assert (record.phase, record.failure_code) == (Phase.ROLLING_BACK, "candidate-unhealthy")
    assert canary.cluster.leases[SERVICE].holder == ""
    assert "0 ready pods" not in canary.reconcile()[SERVICE]
    canary.assert_taken_back("2", code="candidate-unhealthy")


@pytest.mark.parametrize("write", range(1, 9))
def test_watcher_killed_after_a_write_is_followed_by_another_one(canary: World, write: int) -> None:
    _left_at_10_percent(canary)
    canary.watch(canary.watcher(), seconds=30)
    canary.cluster.break_pods(SERVICE, Slot.GREEN)
    with pytest.raises(ProcessDied):
        canary.watch(canary.watcher(), seconds=10, die_after=write)
    canary.watch(canary.watcher(), seconds=25)
    assert canary.cluster.look_at_gateway(SERVICE).percent(Slot.BLUE) == 100
    canary.reconcile()
    canary.assert_taken_back("2", code="candidate-unhealthy")


def test_watcher_leaves_users_where_they_are_when_the_candidate_serves_again_meanwhile(
    canary: World,
) -> None:
    def heal() -> None:
        for pod in canary.cluster.pods_of(SERVICE, Slot.GREEN):
            pod.fault = Fault.NONE

    _left_at_10_percent(canary)
    canary.watch(canary.watcher(), seconds=30)
    canary.cluster.break_pods(SERVICE, Slot.GREEN)
    canary.at_write("record rolling_back: users back", heal)
    canary.watch(canary.watcher(), seconds=6)
    assert canary.cluster.routes[SERVICE].percent(Slot.GREEN) == 10
    assert any("serves again" in said for said in canary.told)
    canary.reconcile()
    canary.assert_taken_back("2", code="candidate-unhealthy")


def test_watcher_needs_no_model_registry_to_give_users_back(
    canary: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise TransientError("MLflow is away", code="registry-unreachable", hint="start it")

    _left_at_10_percent(canary)
    canary.cluster.break_pods(SERVICE, Slot.GREEN)
    monkeypatch.setattr(canary.registry, "alias", away)
    canary.watch(canary.watcher(), seconds=6)
    assert canary.cluster.look_at_gateway(SERVICE).percent(Slot.BLUE) == 100


def test_watcher_starts_reconcile_when_a_rollback_window_is_over(world: World) -> None:
    world.set_policy(rollback_window_s=60.0)
    world.release("2")
    watcher = world.watcher()
    world.watch(watcher, seconds=50)
    assert world.started == []
    world.watch(watcher, seconds=20)
    assert world.started == [SERVICE]


def test_watcher_goes_on_when_a_service_cannot_be_seen(world: World) -> None:
    del world.cluster.leases[SERVICE]
    world.watch(world.watcher(), seconds=5)
    (told,) = world.told
    assert "does not exist" in told


def test_watcher_leaves_a_service_whose_lock_a_stranger_holds_alone(canary: World) -> None:
    _left_at_10_percent(canary)
    held = canary.cluster.leases[SERVICE]
    canary.cluster.leases[SERVICE] = replace(held, holder="kube-scheduler")
    canary.watch(canary.watcher(), seconds=60)
    assert canary.started == []
    assert "held by 'kube-scheduler', which is no process of Slipway" in canary.told[0]


def test_own_processes_are_no_strangers() -> None:
    refuse_stranger(SERVICE, new_holder())
