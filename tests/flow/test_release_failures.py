"""Releases that fail: users unharmed on the former version, nothing of the new one left over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slipway.core.errors import ConflictError, PermanentError, SlipwayError, TransientError
from slipway.core.release.record import Phase
from slipway.core.routing import Slot, all_to, empty
from slipway.core.traffic import AccessRow
from tests.examples import holder_on
from tests.fakes.cluster import Fault
from tests.fakes.workloads import quota_refusal
from tests.flow.world import MODEL, SERVICE, World

Trouble = Callable[[World], None]


def _damaged_file(world: World) -> None:
    world.registry.contents[MODEL, "2"]["simulated.json"] += b" "


def _pickle_in_the_version(world: World) -> None:
    world.registry.add(MODEL, {"weights.pkl": b"\x80\x04."})


def _damaged_image(world: World) -> None:
    world.images.damaged = True


def _wrong_answers(world: World) -> None:
    world.model.answer = "I do not know"


def _no_answers(world: World) -> None:
    world.model.answer = ""


def _refused_apply(world: World) -> None:
    world.cluster.refusal = quota_refusal()


def _smoke_500(world: World) -> None:
    world.gateway.status = 500


def _smoke_without_text(world: World) -> None:
    world.gateway.text = ""


def _smoke_without_answer(world: World) -> None:
    world.gateway.broken = True


def _slow(world: World) -> None:
    world.model.ttft_ms = 900.0


def _slower_than_stable(world: World) -> None:
    world.model.ttft_ms = 250.0  # within the SLO, five times the live version's
    world.model.stable_ttft_ms = 50.0


def _erring(world: World) -> None:
    world.model.error_percent = 10


def _pods_replaced(world: World) -> None:
    world.model.while_benchmarked.append(lambda: world.cluster.replace_pods(SERVICE, Slot.GREEN))


def _pods_lost(world: World) -> None:
    world.model.while_benchmarked.append(lambda: world.cluster.break_pods(SERVICE, Slot.GREEN))


def _deploy(fault: Fault) -> Trouble:
    def trouble(world: World) -> None:
        world.cluster.fault = fault

    return trouble


def _test_pod(fault: Fault) -> Trouble:
    def trouble(world: World) -> None:
        world.cluster.test_pod_fault = fault

    return trouble


_BEFORE_PROMOTION: list[tuple[Trouble, str]] = [
    (_damaged_file, "checksum-mismatch"),
    (_damaged_image, "image-damaged"),
    (_wrong_answers, "model-test-failed"),
    (_no_answers, "model-test-failed"),
    (_test_pod(Fault.IMAGE_PULL), "image-pull-failed"),
    (_test_pod(Fault.CRASH_LOOP), "model-does-not-load"),
    (_test_pod(Fault.WEIGHTS), "weights-not-placed"),
    (_test_pod(Fault.NEVER_READY), "not-in-time"),
    (_test_pod(Fault.UNSCHEDULABLE), "not-in-time"),
    (_refused_apply, "quota-exceeded"),
    *((_deploy(fault), fault.value) for fault in Fault if fault is not Fault.NONE),
    (_smoke_500, "smoke-failed"),
    (_smoke_without_text, "smoke-failed"),
    (_smoke_without_answer, "smoke-failed"),
    (_slow, "benchmark-failed"),
    (_slower_than_stable, "benchmark-failed"),
    (_erring, "benchmark-failed"),
    (_pods_replaced, "promotion-refused"),
    (_pods_lost, "benchmark-failed"),
]


@pytest.mark.parametrize(("trouble", "code"), _BEFORE_PROMOTION)
def test_release_that_fails_before_promotion_leaves_the_users_untouched(
    world: World, trouble: Trouble, code: str
) -> None:
    trouble(world)
    with pytest.raises(SlipwayError) as caught:
        world.release("2")
    assert caught.value.code == code
    assert not any(what.startswith("route green 100") for what in world.journal.writes)
    world.assert_taken_back("2", code=code)


def test_pods_lost_before_the_smoke_test_are_never_routed_to(world: World) -> None:
    world.at_write(
        "record deployed: preview route", lambda: world.cluster.break_pods(SERVICE, Slot.GREEN)
    )
    with pytest.raises(PermanentError):
        world.release("2")
    assert not any("preview green" in what for what in world.journal.writes)
    world.assert_taken_back("2", code="candidate-unhealthy")


@pytest.mark.parametrize(
    ("trouble", "code"), [(_deploy(Fault.CRASH_LOOP), "crash-loop"), (_slow, "benchmark-failed")]
)
def test_first_release_that_fails_leaves_the_service_as_never_released(
    fresh: World, trouble: Trouble, code: str
) -> None:
    trouble(fresh)
    with pytest.raises(PermanentError):
        fresh.release("1")
    assert fresh.record.phase is Phase.ROLLED_BACK
    assert fresh.record.failure_code == code
    assert fresh.cluster.routes[SERVICE] == fresh.cluster.gateway_routes[SERVICE] == empty(SERVICE)
    assert fresh.replicas(Slot.BLUE) == 0
    assert fresh.alias is None


def test_first_release_after_a_failed_one_succeeds_in_the_same_slot(fresh: World) -> None:
    fresh.cluster.fault = Fault.CRASH_LOOP
    with pytest.raises(PermanentError):
        fresh.release("1")
    fresh.cluster.fault = Fault.NONE
    outcome = fresh.release("1")
    assert (outcome["outcome"], outcome["slot"]) == ("done", "blue")


def test_pickle_in_the_version_is_refused_before_anything_runs(world: World) -> None:
    _pickle_in_the_version(world)
    with pytest.raises(PermanentError) as caught:
        world.release("4")
    assert caught.value.code == "model-unsafe"
    assert not any(what.startswith(("push", "apply")) for what in world.journal.writes)


def _users(slot: Slot, *, good: int, bad: int) -> list[AccessRow]:
    begin_ns = 2_000_000_000_000_000_000
    statuses = [200] * good + [500] * bad
    return [
        AccessRow(started_ns=begin_ns + index, status=status, slot=slot.value)
        for index, status in enumerate(statuses)
    ]


def _unhealthy(world: World) -> None:
    world.cluster.break_pods(SERVICE, Slot.GREEN)


def _failing_users(world: World) -> None:
    world.cluster.rows += _users(Slot.GREEN, good=90, bad=10)


@pytest.mark.parametrize(
    ("trouble", "code"), [(_unhealthy, "candidate-unhealthy"), (_failing_users, "bake-failed")]
)
def test_failure_during_the_bake_gives_users_and_alias_back(
    world: World, trouble: Trouble, code: str
) -> None:
    world.set_policy(bake_s=5.0)
    world.at_write("record baking", lambda: trouble(world))
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == code
    writes = world.journal.writes
    back = writes.index("route blue 100, subsets blue+green")
    assert writes.index("alias live to 2") < back < writes.index("alias live to 1")
    assert writes.index("alias live to 1") < writes.index("scale chat-green to 0")
    world.assert_taken_back("2", code=code)


def test_users_failing_for_a_moment_below_the_limit_do_not_end_the_release(world: World) -> None:
    world.at_write(
        "record baking", lambda: world.cluster.rows.extend(_users(Slot.GREEN, good=200, bad=1))
    )
    assert world.release("2")["outcome"] == "done"


def test_rollback_during_the_bake_waits_for_streams_on_the_new_slot(world: World) -> None:
    world.cluster.streams[Slot.GREEN] = [3, 2, 1, 0]
    world.at_write("record baking", lambda: _failing_users(world))
    with pytest.raises(PermanentError):
        world.release("2")
    assert world.cluster.streams[Slot.GREEN] == [0]
    world.assert_taken_back("2", code="bake-failed")


def test_rollback_killed_after_it_gave_the_users_back_still_waits_for_their_streams(
    world: World,
) -> None:
    world.at_write("record baking", lambda: _failing_users(world))
    world.die_at_write("route blue 100, subsets")
    world.die_in_release("2")
    streams = world.cluster.streams[Slot.GREEN] = [2, 1, 0]
    open_when_forgotten: list[int] = []
    world.at_write("route blue 100, subsets", lambda: open_when_forgotten.extend(streams))
    with pytest.raises(PermanentError):
        world.release_after_death("2")
    assert open_when_forgotten == [0]
    world.assert_taken_back("2", code="bake-failed")


def test_route_the_gateway_never_takes_over_is_taken_back(world: World) -> None:
    world.at_write("route green 100", lambda: _stick(world))
    with pytest.raises(TransientError) as caught:
        world.release("2")
    assert caught.value.code == "route-not-confirmed"
    world.assert_taken_back("2", code="route-not-confirmed")


def _stick(world: World) -> None:
    world.cluster.gateway_stuck = True
    world.at_write("record rolling_back", lambda: setattr(world.cluster, "gateway_stuck", False))


def test_failed_release_says_why_in_record_event_and_evidence(world: World) -> None:
    _slow(world)
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    record = world.record
    assert record.reason == caught.value.message
    assert "900 ms" in record.reason
    event = world.cluster.events[-1]
    assert (event.reason, event.warning) == ("RolledBack", True)
    assert caught.value.message in event.message
    assert "record.json" in world.evidence()


def test_version_that_failed_may_be_released_again(world: World) -> None:
    _slow(world)
    with pytest.raises(PermanentError):
        world.release("2")
    world.model.ttft_ms = 50
    outcome = world.release("2")
    assert (outcome["release"], outcome["outcome"]) == ("chat-v2-3", "done")


def test_version_changed_in_the_registry_during_its_release_is_refused(world: World) -> None:
    world.journal.die_after = 8
    world.die_in_release("2")
    world.registry.change(MODEL, "2", {"simulated.json": b'{"seed": 22}'})
    with pytest.raises(PermanentError) as caught:
        world.release_after_death("2")
    assert caught.value.code == "version-changed"
    world.assert_taken_back("2", code="version-changed")


def test_old_slot_that_does_not_end_in_time_leaves_the_users_on_the_new_one(world: World) -> None:
    """The release has served well: what is left over is finished later, never taken back."""
    world.cluster.streams[Slot.BLUE] = [1]
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "not-in-time"
    assert world.cluster.routes[SERVICE].percent(Slot.GREEN) == 100
    assert (world.replicas(Slot.BLUE), world.alias) == (2, "2")
    assert world.record.phase is Phase.BAKING
    event = world.cluster.events[-1]
    assert (event.reason, event.warning) == ("Unfinished", True)
    world.cluster.streams[Slot.BLUE] = [0]
    assert world.release("2")["outcome"] == "done"
    assert world.replicas(Slot.BLUE) == 0


def test_lock_lost_midway_stops_every_write(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.session.LockKeeper", world.keeper_on_the_fake_clock)
    writes_then: list[int] = []
    events = list(world.cluster.events)

    def take_over() -> None:
        world.take_over()
        writes_then.append(len(world.journal.writes))

    world.model.while_benchmarked.append(take_over)
    with pytest.raises(ConflictError) as caught:
        world.release("2")
    assert caught.value.code == "lock-lost"
    assert len(world.journal.writes) == writes_then[0]
    assert world.cluster.events == events
    assert world.cluster.leases[SERVICE].holder == holder_on("heir")


def test_record_written_by_another_process_stops_every_write(world: World) -> None:
    writes_then: list[int] = []

    def write_first() -> None:
        stored = world.releases.load(SERVICE)
        assert stored is not None
        world.releases.save(stored.record, version=stored.version)
        writes_then.append(len(world.journal.writes))

    world.at_write("put releases/chat/chat-v2-2/000002/benchmark.md", write_first)
    with pytest.raises(ConflictError) as caught:
        world.release("2")
    assert caught.value.code == "conflict"
    assert len(world.journal.writes) == writes_then[0]


def test_rollback_finds_the_former_slot_scaled_down_and_brings_it_back_first(world: World) -> None:
    """The candidate dies while the old slot is being retired: nobody is left without a server."""
    world.die_at_write("scale chat-blue to 0")
    world.die_in_release("2")
    world.cluster.break_pods(SERVICE, Slot.GREEN)
    with pytest.raises(PermanentError):
        world.release_after_death("2")
    assert world.cluster.ready_count(SERVICE, Slot.BLUE) == 2
    assert world.cluster.gateway_routes[SERVICE] == all_to(SERVICE, Slot.BLUE)
    world.assert_taken_back("2", code="candidate-unhealthy")


def test_release_refused_before_its_slot_was_touched_leaves_no_warm_slot_behind(
    world: World,
) -> None:
    world.set_policy(rollback_window_s=600.0)
    world.release("2")
    assert world.replicas(Slot.BLUE) == 2  # kept warm
    world.model.answer = "nonsense"
    world.cluster.streams[Slot.BLUE] = [2, 1, 0]
    open_at_scaling: list[int] = []
    world.at_write("scale", lambda: open_at_scaling.extend(world.cluster.streams[Slot.BLUE]))
    with pytest.raises(PermanentError):
        world.release("3")
    assert open_at_scaling == [0], "users' streams on the warm slot ended first"
    assert world.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
    assert (world.replicas(Slot.BLUE), world.replicas(Slot.GREEN)) == (0, 2)
