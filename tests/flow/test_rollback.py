"""One step back: to the version in the other slot, warm or cold, and never further by itself."""

from __future__ import annotations

import pytest

from slipway.core.errors import ConflictError, InputError, PermanentError
from slipway.core.release.orders import OrderKind
from slipway.core.release.record import FORWARD, Phase
from slipway.core.routing import Slot, all_to
from slipway.core.service import WhenBusy
from tests.fakes.journal import ProcessDied
from tests.flow.sweeps import swept
from tests.flow.world import SERVICE, World

COLD_WRITES = 30
"""Writes of a rollback to a slot that was scaled to zero."""

WARM_WRITES = 27
"""Writes of a rollback to a slot whose pods are still ready."""


@pytest.fixture(scope="module")
def twice_released_world(released_world: World) -> World:
    """Return the world after a second release, version 2 in slot green; only ever copied."""
    world = released_world.copy()
    with pytest.MonkeyPatch.context() as patch:
        world.enter(patch)
        world.release("2")
    return world


@pytest.fixture
def cold(twice_released_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world of one's own: version 2 is live, the slot of version 1 is empty."""
    world = twice_released_world.copy()
    world.enter(monkeypatch)
    return world


@pytest.fixture
def warm(cold: World) -> World:
    """Return a world of one's own: version 2 is live, the pods of version 1 are still there."""
    (deployment,) = cold.cluster.slot_deployments(SERVICE, Slot.BLUE)
    cold.workloads.scale(
        "serving",
        "chat-blue",
        2,
        uid=deployment.uid,
        resource_version=str(deployment.resource_version),
        fence=cold.cluster.leases[SERVICE].fence,
    )
    cold.journal.next_process()
    return cold


def _assert_back_on_1(world: World) -> None:
    record = world.record
    assert (record.version, record.phase, record.candidate) == ("1", Phase.DONE, Slot.BLUE)
    assert record.rollback
    assert world.cluster.routes[SERVICE] == all_to(SERVICE, Slot.BLUE)
    assert world.cluster.gateway_routes[SERVICE] == all_to(SERVICE, Slot.BLUE)
    assert (world.replicas(Slot.BLUE), world.replicas(Slot.GREEN)) == (2, 0)
    pods = world.cluster.pods_of(SERVICE, Slot.BLUE)
    assert {pod.uid for pod in pods} == set(record.tested_pod_uids)
    assert {pod.image.rpartition("@")[2] for pod in pods} == {record.digests.image}
    assert world.alias == "1"
    assert world.cluster.leases[SERVICE].holder == ""
    assert world.cluster.violations == []


def test_rollback_to_an_empty_slot_deploys_its_image_and_moves_the_users(cold: World) -> None:
    image = cold.record.slot(Slot.BLUE).image
    outcome = cold.rollback()
    assert (outcome["release"], outcome["outcome"]) == ("chat-v1-3", "done")
    _assert_back_on_1(cold)
    assert cold.record.slot(Slot.BLUE).image == image
    assert cold.record.slot(Slot.BLUE).release_id == "chat-v1-3"
    assert "apply Deployment chat-blue" in cold.journal.writes


def test_rollback_to_a_warm_slot_takes_its_pods_as_they_run(warm: World) -> None:
    pods = {pod.uid for pod in warm.cluster.pods_of(SERVICE, Slot.BLUE)}
    assert warm.rollback()["outcome"] == "done"
    _assert_back_on_1(warm)
    assert {pod.uid for pod in warm.cluster.pods_of(SERVICE, Slot.BLUE)} == pods
    assert "apply Deployment chat-blue" not in warm.journal.writes


def test_rollback_neither_tests_nor_measures_and_its_record_says_so(cold: World) -> None:
    cold.model.answer, cold.model.ttft_ms = "", 9000.0
    assert cold.rollback()["outcome"] == "done"
    assert cold.model.benchmarks == 0
    assert not any("Pod chat-test" in what for what in cold.journal.writes)
    reasons = {entry.phase: entry.reason for entry in cold.record.history}
    assert tuple(reasons) == FORWARD
    assert reasons[Phase.REQUESTED] == "rollback from version 2 to version 1"
    assert reasons[Phase.TESTED] == "served before: not tested again"
    assert reasons[Phase.BENCHMARKED].startswith("served before: not measured again")
    assert [item.stage for item in cold.record.verdicts] == ["bake"]


def test_former_version_is_asked_until_it_is_fast_before_users_come(cold: World) -> None:
    cold.model.warm_after = 3
    left: list[int] = []
    cold.at_write("record benchmarked", lambda: left.append(cold.model.warm_after))
    assert cold.rollback()["outcome"] == "done"
    assert left == [3 - 6], "both pods three times: the second of the second round was warm"
    reasons = {entry.phase: entry.reason for entry in cold.record.history}
    assert "slowest first token 50 ms, at most 500 ms asked" in reasons[Phase.BENCHMARKED]


def test_former_version_that_stays_slow_gets_the_users_after_a_minute(cold: World) -> None:
    cold.model.ttft_ms = 9000.0
    began_s = cold.clock.monotonic()
    assert cold.rollback()["outcome"] == "done"
    assert 60 < cold.clock.monotonic() - began_s < 180
    reasons = {entry.phase: entry.reason for entry in cold.record.history}
    assert "slowest first token 9000 ms" in reasons[Phase.BENCHMARKED]


def test_warm_pods_of_another_image_are_not_trusted(warm: World) -> None:
    for pod in warm.cluster.pods_of(SERVICE, Slot.BLUE):
        pod.image = "127.0.0.1:5000/models/demo@sha256:" + "0" * 64
    warm.cluster.deployments["serving", "chat-blue"].manifest["spec"]["template"]["metadata"][
        "labels"
    ]["edited"] = "yes"
    assert warm.rollback()["outcome"] == "done"
    assert "apply Deployment chat-blue" in warm.journal.writes
    _assert_back_on_1(warm)


def test_rollback_twice_equals_once(cold: World) -> None:
    cold.rollback()
    before = cold.final_state()
    cold.journal.next_process()
    assert cold.rollback()["already_done"]
    assert cold.final_state() == before
    assert [what for what in cold.journal.writes if not what.startswith("stamp")] == []


def test_first_version_has_none_before_it(world: World) -> None:
    with pytest.raises(InputError, match="no other version ever served") as caught:
        world.rollback()
    assert caught.value.code == "no-earlier-version"
    assert [what for what in world.journal.writes if not what.startswith("stamp")] == []
    assert world.cluster.leases[SERVICE].holder == ""


def test_service_never_released_cannot_be_rolled_back(fresh: World) -> None:
    with pytest.raises(InputError, match="never released"):
        fresh.rollback()


def test_slot_of_a_version_that_was_refused_is_nothing_to_go_back_to(cold: World) -> None:
    cold.model.ttft_ms = 900.0
    with pytest.raises(PermanentError):
        cold.release("3")
    with pytest.raises(InputError, match="chat-v3-3, taken back, used its slot"):
        cold.rollback()
    assert cold.record.version == "3"


def test_rollback_that_fails_keeps_the_users_and_may_be_tried_again(cold: World) -> None:
    cold.gateway.status = 500
    with pytest.raises(PermanentError):
        cold.rollback()
    assert cold.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
    assert (cold.replicas(Slot.BLUE), cold.replicas(Slot.GREEN), cold.alias) == (0, 2, "2")
    cold.gateway.status = 200
    assert cold.rollback()["release"] == "chat-v1-4"
    _assert_back_on_1(cold)


def test_image_gone_from_the_registry_is_said_before_anything_is_deployed(cold: World) -> None:
    cold.images.images.clear()
    with pytest.raises(InputError) as caught:
        cold.rollback()
    assert caught.value.code == "image-unknown"
    assert cold.record.phase is Phase.ROLLED_BACK
    assert not any(what.startswith("apply") for what in cold.journal.writes)


def test_release_after_a_rollback_goes_to_the_slot_that_was_left(cold: World) -> None:
    cold.rollback()
    outcome = cold.release("3")
    assert (outcome["release"], outcome["slot"]) == ("chat-v3-4", "green")
    assert not cold.record.rollback


# -- an unfinished release ----------------------------------------------------------------------


@pytest.mark.parametrize("phase", [phase for phase in FORWARD if phase is not Phase.DONE])
def test_rollback_of_an_unfinished_release_aborts_it(world: World, phase: Phase) -> None:
    world.die_at_write(f"record {phase}")
    world.die_in_release("2")
    world.journal.next_process()
    outcome = world.rollback()
    assert outcome["aborted"]
    assert outcome["reason"].endswith(": rollback")
    world.assert_taken_back("2", code="aborted")


def test_unfinished_rollback_is_finished_by_a_rollback_and_not_by_a_release(cold: World) -> None:
    cold.die_at_write("record smoked")
    with pytest.raises(ProcessDied):
        cold.rollback()
    with pytest.raises(ConflictError, match="chat-v1-3") as caught:
        cold.release_after_death("1")
    assert caught.value.code == "release-unfinished"
    assert "slipway rollback chat" in caught.value.hint
    assert cold.rollback()["release"] == "chat-v1-3"
    _assert_back_on_1(cold)


def test_rollback_gives_way_to_no_newer_request(cold: World) -> None:
    cold.set_policy(when_busy=WhenBusy.SUPERSEDE)
    cold.at_write("record tested", lambda: cold.order(OrderKind.RELEASE, version="3", number=9))
    assert cold.rollback()["outcome"] == "done"


def test_release_that_begins_as_a_rollback_is_asked_for_stops_the_rollback(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.die_at_write("record tested")
    world.die_in_release("2")
    world.journal.next_process()
    monkeypatch.setattr("flows.rollback.abort_unfinished", lambda *_, **__: None)
    with pytest.raises(ConflictError, match="began meanwhile"):
        world.rollback()
    assert world.record.phase is Phase.TESTED


def test_aborted_rollback_to_a_warm_slot_waits_for_its_streams_and_empties_it(
    warm: World,
) -> None:
    warm.set_policy(bake_s=5.0)
    warm.cluster.streams[Slot.BLUE] = [2, 1, 0]
    warm.at_write("record baking", lambda: warm.order(OrderKind.ABORT))
    with pytest.raises(PermanentError) as caught:
        warm.rollback()
    assert caught.value.code == "aborted"
    assert warm.cluster.streams[Slot.BLUE] == [0]
    assert warm.cluster.gateway_routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
    assert (warm.replicas(Slot.BLUE), warm.replicas(Slot.GREEN), warm.alias) == (0, 2, "2")


# -- killed after any write ---------------------------------------------------------------------


def test_sweeps_cover_every_write_of_a_cold_rollback(cold: World) -> None:
    cold.rollback()
    assert len(cold.journal.writes) == COLD_WRITES


def test_sweeps_cover_every_write_of_a_warm_rollback(warm: World) -> None:
    warm.rollback()
    assert len(warm.journal.writes) == WARM_WRITES


@pytest.mark.parametrize("write", swept(range(1, COLD_WRITES + 1)))
def test_cold_rollback_killed_after_a_write_ends_as_if_never_killed(
    cold: World, write: int
) -> None:
    _assert_killed_ends_done(cold, write)


@pytest.mark.parametrize("write", swept(range(1, WARM_WRITES + 1)))
def test_warm_rollback_killed_after_a_write_ends_as_if_never_killed(
    warm: World, write: int
) -> None:
    _assert_killed_ends_done(warm, write)


def _assert_killed_ends_done(world: World, write: int) -> None:
    world.journal.die_after = write
    with pytest.raises(ProcessDied):
        world.rollback()
    world.journal.next_process()
    world.clock.advance(60)
    assert world.rollback()["outcome"] == "done"
    _assert_back_on_1(world)
    assert world.record.release_id == "chat-v1-3"
