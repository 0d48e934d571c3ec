"""Several requests for one service: one is released at a time, the newest of those that wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slipway.core.errors import ConflictError, PermanentError, TransientError
from slipway.core.release.orders import OrderKind
from slipway.core.release.record import FORWARD, Phase
from slipway.core.routing import Slot
from slipway.core.service import RampPolicy, RampStep, Strategy, WhenBusy
from tests.examples import holder_on
from tests.fakes.journal import ProcessDied
from tests.flow.sweeps import swept
from tests.flow.world import SERVICE, World

BEFORE_PROMOTION = FORWARD[: FORWARD.index(Phase.RAMPING) + 1]
FROM_PROMOTION_ON = (Phase.PROMOTED, Phase.BAKING)
SETTLED_WRITES = 51
"""Writes of a release that takes a dead one back first."""


def _newer_waits(world: World, *, version: str = "3") -> None:
    world.order(OrderKind.RELEASE, version=version, number=99)


def _newer_at(world: World, phase: Phase) -> None:
    world.at_write(f"record {phase}", lambda: _newer_waits(world))


# -- the holder ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phase", [phase for phase in BEFORE_PROMOTION if phase is not Phase.RAMPING]
)
def test_holder_gives_way_to_a_newer_version_before_it_promotes(world: World, phase: Phase) -> None:
    world.set_policy(when_busy=WhenBusy.SUPERSEDE)
    _newer_at(world, phase)
    with pytest.raises(PermanentError, match="gave way to version 3, asked for by pat") as caught:
        world.release("2")
    assert caught.value.code == "superseded"
    assert not any(what.startswith("route green 100") for what in world.journal.writes)
    world.assert_taken_back("2", code="superseded")
    assert len(world.ordered()) == 1  # the one that waits


@pytest.mark.parametrize("phase", FROM_PROMOTION_ON)
def test_promoted_holder_finishes_though_a_newer_version_waits(world: World, phase: Phase) -> None:
    world.set_policy(when_busy=WhenBusy.SUPERSEDE, bake_s=5.0)
    _newer_at(world, phase)
    assert world.release("2")["outcome"] == "done"
    assert len(world.ordered()) == 1


@pytest.mark.parametrize("when_busy", [WhenBusy.QUEUE, WhenBusy.REFUSE])
def test_holder_that_need_not_give_way_finishes(world: World, when_busy: WhenBusy) -> None:
    world.set_policy(when_busy=when_busy)
    _newer_at(world, Phase.TESTED)
    assert world.release("2")["outcome"] == "done"


def test_holder_does_not_give_way_to_its_own_version(world: World) -> None:
    world.set_policy(when_busy=WhenBusy.SUPERSEDE)
    world.at_write("record tested", lambda: _newer_waits(world, version="2"))
    assert world.release("2")["outcome"] == "done"


def test_holder_does_not_give_way_to_a_request_older_than_its_own(world: World) -> None:
    """Such as one whose process was killed while it waited: its order stayed behind."""
    world.set_policy(when_busy=WhenBusy.SUPERSEDE)
    world.order(OrderKind.RELEASE, version="3", number=4)
    assert world.release("2")["outcome"] == "done"
    assert world.ordered() == []


def test_abort_counts_for_more_than_a_newer_request(world: World) -> None:
    world.set_policy(when_busy=WhenBusy.SUPERSEDE)

    def both() -> None:
        _newer_waits(world)
        world.order(OrderKind.ABORT)

    world.at_write("record tested", both)
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "aborted"


# -- the newcomer -------------------------------------------------------------------------------


def _hold(world: World, *, then: Callable[[], None], looks: int = 40) -> list[int]:
    """Let somebody hold the lock, and do something after some waits of the newcomer's."""
    found = world.releases.lock(SERVICE)
    lease = world.releases.take(found, holder=holder_on("first"), duration_s=15)
    seen = [0]

    def live() -> None:
        seen[0] += 1
        if seen[0] < looks:
            world.releases.renew(lease)
        elif seen[0] == looks:
            then()

    world.clock.while_waiting.append(live)
    return seen


def _free(world: World) -> None:
    world.releases.release(world.cluster.leases[SERVICE])


@pytest.mark.parametrize("when_busy", [WhenBusy.QUEUE, WhenBusy.SUPERSEDE])
def test_newcomer_waits_for_the_lock_says_so_and_then_releases(
    world: World, caplog: pytest.LogCaptureFixture, when_busy: WhenBusy
) -> None:
    caplog.set_level("INFO", "slipway.release")
    world.set_policy(when_busy=when_busy)
    seen = _hold(world, then=lambda: _free(world))
    assert world.release("2")["outcome"] == "done"
    assert seen[0] >= 40
    assert "order release 2" in world.journal.writes[0]
    assert caplog.text.count("version 2 waits for its turn: service chat is being released") == 1
    assert world.ordered() == []


def test_newcomer_that_waits_is_overtaken_by_a_newer_request_and_takes_its_order_back(
    world: World,
) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)
    _hold(world, then=lambda: _newer_waits(world))
    with pytest.raises(ConflictError, match="overtaken by version 3, asked for by pat") as caught:
        world.release("2")
    assert caught.value.code == "overtaken"
    assert world.record.version == "1"
    assert world.cluster.leases[SERVICE].holder == holder_on("first")
    assert len(world.ordered()) == 1


def test_newcomer_whose_order_was_cleared_away_was_overtaken(world: World) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)
    _hold(world, then=world.cluster.orders[SERVICE].clear)
    with pytest.raises(ConflictError) as caught:
        world.release("2")
    assert caught.value.code == "overtaken"


def test_newcomer_overtaken_as_it_takes_the_lock_gives_it_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)
    take = world.releases.take

    def take_late(*args: Any, **more: Any) -> object:
        _newer_waits(world)
        return take(*args, **more)

    monkeypatch.setattr(world.releases, "take", take_late)
    with pytest.raises(ConflictError) as caught:
        world.release("2")
    assert caught.value.code == "overtaken"
    assert world.cluster.leases[SERVICE].holder == ""
    assert world.record.version == "1"


def test_newcomer_waits_no_longer_than_its_policy_says(world: World) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE, queue_timeout_s=120.0)
    began_ns = world.clock.now_ns
    _hold(world, then=lambda: None, looks=10_000)
    with pytest.raises(ConflictError, match="120 s") as caught:
        world.release("2")
    assert caught.value.code == "queue-timeout"
    assert 120 <= (world.clock.now_ns - began_ns) / 1e9 < 150
    assert world.ordered() == []


def test_newcomer_waits_through_an_outage_of_the_api_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)
    lock, away = world.releases.lock, [True] * 20

    def sometimes(service: str) -> object:
        if away and away.pop():
            raise TransientError("no answer", code="api-unreachable", hint="wait")
        return lock(service)

    monkeypatch.setattr(world.releases, "lock", sometimes)
    assert world.release("2")["outcome"] == "done"


def test_error_that_waiting_does_not_mend_ends_the_wait_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)

    def refuse(*_: object, **__: object) -> object:
        raise ConflictError("odd", code="phase-order", hint="look")

    monkeypatch.setattr("tasks.turn.take_lock", refuse)
    with pytest.raises(ConflictError, match="odd"):
        world.release("2")
    assert world.clock.waits_s == []


def test_service_whose_orders_are_not_installed_is_refused_before_any_write(world: World) -> None:
    world.cluster.orders.clear()
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "not-installed"
    assert world.journal.writes == []


def test_version_that_is_live_by_its_turn_is_not_released_again(world: World) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)
    assert world.release("1")["already_done"]
    written = [what for what in world.journal.writes if not what.startswith("stamp")]
    assert written == ["order release 1", "order removed: release"]


# -- what a dead process left -------------------------------------------------------------------

_LEFT = [
    *(
        (when, phase, "rolled_back")
        for phase in BEFORE_PROMOTION
        for when in ("queue", "supersede")
    ),
    *((when, phase, "done") for phase in FROM_PROMOTION_ON for when in ("queue", "supersede")),
]


@pytest.mark.parametrize(("when_busy", "phase", "ends"), _LEFT)
def test_newcomer_first_brings_a_dead_release_to_its_end(
    world: World, when_busy: str, phase: Phase, ends: str
) -> None:
    world.set_policy(when_busy=WhenBusy(when_busy))
    ended: list[str] = []
    world.die_at_write(f"record {phase}")
    world.die_in_release("2")
    world.at_write(f"record {ends}", lambda: ended.append(world.record.version))
    assert world.release_after_death("3")["outcome"] == "done"
    assert ended == ["2"]
    assert (world.record.version, world.alias) == ("3", "3")
    assert world.ordered() == []
    assert world.cluster.violations == []
    assert sum(world.replicas(slot) for slot in Slot) == 2


def test_dead_release_that_cannot_be_finished_is_taken_back_and_the_newer_one_goes_on(
    world: World,
) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)
    world.die_at_write("record baking")
    world.die_in_release("2")
    world.cluster.break_pods(SERVICE, Slot.GREEN)
    taken_back: list[str] = []
    world.at_write("record rolled_back", lambda: taken_back.append(world.record.failure_code))
    assert world.release_after_death("3")["outcome"] == "done"
    assert taken_back == ["candidate-unhealthy"]
    assert world.alias == "3"


def test_dead_release_that_comes_to_no_end_stops_the_newer_one(world: World) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)
    world.die_at_write("record baking")
    world.die_in_release("2")
    world.cluster.streams[Slot.BLUE] = [1]
    with pytest.raises(PermanentError) as caught:
        world.release_after_death("3")
    assert caught.value.code == "not-in-time"
    assert (world.record.version, world.record.phase) == ("2", Phase.BAKING)


def test_dead_release_is_left_alone_by_a_policy_that_refuses(world: World) -> None:
    world.die_at_write("record tested")
    world.die_in_release("2")
    with pytest.raises(ConflictError, match="chat-v2-2") as caught:
        world.release_after_death("3")
    assert caught.value.code == "release-unfinished"
    assert "slipway abort chat" in caught.value.hint


@pytest.fixture
def left_benchmarked(world: World) -> World:
    """Return a world with a dead release of version 2, and a policy that supersedes."""
    world.set_policy(when_busy=WhenBusy.SUPERSEDE)
    world.die_at_write("record benchmarked")
    world.die_in_release("2")
    world.journal.next_process()
    world.clock.advance(60)
    return world


def test_sweep_of_superseding_covers_every_write(left_benchmarked: World) -> None:
    left_benchmarked.release("3")
    assert len(left_benchmarked.journal.writes) == SETTLED_WRITES


@pytest.mark.parametrize("write", swept(range(1, SETTLED_WRITES + 1)))
def test_superseding_release_killed_after_a_write_is_finished_by_a_rerun(
    left_benchmarked: World, write: int
) -> None:
    world = left_benchmarked
    world.journal.die_after = write
    with pytest.raises(ProcessDied):
        world.release("3")
    assert world.release_after_death("3")["outcome"] == "done"
    assert (world.record.version, world.alias, world.ordered()) == ("3", "3", [])
    assert (world.replicas(Slot.BLUE), world.replicas(Slot.GREEN)) == (0, 2)
    assert world.cluster.pods == {}
    assert world.cluster.leases[SERVICE].holder == ""
    assert world.cluster.violations == []


# -- a yes to a step of the canary --------------------------------------------------------------


def test_yes_to_a_step_goes_into_the_record_and_then_its_order_is_removed(world: World) -> None:
    step = RampStep(weight_percent=25, bake_s=1.0, approval=True)
    world.set_policy(strategy=Strategy.CANARY, ramp=RampPolicy(steps=(step,)))
    world.at_write("record tested", lambda: world.order(OrderKind.APPROVE, weight_percent=25))
    world.die_at_write("record smoked")
    world.die_in_release("2")
    assert [(item.weight_percent, item.by) for item in world.record.approvals] == [(25, "pat@desk")]
    assert world.record.is_approved(step)
    assert world.ordered() == []
    written = next(i for i, what in enumerate(world.journal.writes) if "order removed" in what)
    assert world.journal.writes[written - 1].startswith("record tested")
