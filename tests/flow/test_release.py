"""Releases that go well, and those that are refused before they begin."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.artifacts import Artifact, create_markdown_artifact

from slipway.core.errors import ConflictError, InputError, PermanentError, TransientError
from slipway.core.release.record import FORWARD, Phase
from slipway.core.routing import Slot, all_to, empty
from slipway.core.verdicts import Verdict
from tests.flow.world import SERVICE, World


def test_first_release_serves_from_blue_with_no_old_slot(fresh: World) -> None:
    outcome = fresh.run_flow("1")
    assert (outcome["outcome"], outcome["slot"]) == ("done", "blue")
    assert fresh.record.stable is None
    assert fresh.cluster.routes[SERVICE] == all_to(SERVICE, Slot.BLUE)
    assert (fresh.replicas(Slot.BLUE), fresh.replicas(Slot.GREEN)) == (2, 0)
    assert fresh.alias == "1"


def test_second_release_swaps_the_slots_and_retires_the_old_one(world: World) -> None:
    outcome = world.run_flow("2")
    assert (outcome["outcome"], outcome["slot"]) == ("done", "green")
    assert world.record.stable is Slot.BLUE
    assert world.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
    assert (world.replicas(Slot.BLUE), world.replicas(Slot.GREEN)) == (0, 2)
    assert world.alias == "2"


def test_third_release_comes_back_to_blue(world: World) -> None:
    world.release("2")
    outcome = world.release("3")
    assert (outcome["release"], outcome["slot"]) == ("chat-v3-3", "blue")
    assert (world.replicas(Slot.BLUE), world.replicas(Slot.GREEN)) == (2, 0)
    assert world.record.slot(Slot.GREEN).version == "2"


def test_release_that_ends_leaves_nothing_over(world: World) -> None:
    world.release("2")
    assert world.cluster.pods == {}
    assert world.cluster.leases[SERVICE].holder == ""
    assert world.record.intent == ""
    assert world.cluster.violations == []


def test_release_proves_every_phase_in_order(world: World) -> None:
    world.release("2")
    assert tuple(entry.phase for entry in world.record.history) == FORWARD


def test_release_leaves_its_evidence_and_an_event(world: World) -> None:
    outcome = world.release("2")
    assert world.evidence() == [
        "benchmark-comparison.parquet",
        "benchmark-requests.parquet",
        "benchmark.md",
        "model-test.json",
        "record.json",
    ]
    assert outcome["evidence"].endswith(f"releases/{SERVICE}/chat-v2-2/")
    verdicts = {item.stage: item for item in world.record.verdicts}
    assert verdicts["test"].verdict is verdicts["benchmark"].verdict is Verdict.PASS
    assert verdicts["benchmark"].evidence_key in world.objects.objects
    event = world.cluster.events[-1]
    assert (event.reason, event.warning) == ("Released", False)


def test_record_stored_as_evidence_is_the_one_in_the_cluster(world: World) -> None:
    world.release("2")
    number = world.cluster.leases[SERVICE].fence
    stored = world.objects.get(f"releases/{SERVICE}/chat-v2-2/{number:06d}/record.json")
    assert stored.decode() == world.cluster.records[SERVICE][0]


def test_promoted_pods_are_the_very_pods_that_were_tested(world: World) -> None:
    world.release("2")
    pods = {pod.uid for pod in world.cluster.pods_of(SERVICE, Slot.GREEN)}
    assert pods == set(world.record.tested_pod_uids)


def test_alias_moves_after_the_users_did_and_before_the_old_slot_goes(world: World) -> None:
    world.release("2")
    writes = world.journal.writes
    users = writes.index("route green 100, subsets blue+green")
    alias = writes.index("alias live to 2")
    gone = writes.index("scale chat-blue to 0")
    assert users < alias < gone


def test_same_release_twice_equals_once(world: World) -> None:
    world.run_flow("2")
    before = world.final_state()
    world.journal.next_process()
    outcome = world.run_flow("2")
    assert outcome["already_done"]
    assert world.writes() == []
    assert world.final_state() == before


def test_slow_pods_a_late_gateway_and_open_streams_are_waited_for(world: World) -> None:
    cluster = world.cluster
    cluster.looks_until_ready = cluster.looks_until_gone = cluster.gateway_looks_behind = 4
    cluster.streams[Slot.BLUE] = [3, 2, 1, 0]
    cluster.server_requests = [2, 1, 1, 1, 1, 0]
    outcome = world.release("2")
    assert outcome["outcome"] == "done"
    assert cluster.streams[Slot.BLUE] == [0]
    assert cluster.server_requests == [0]
    assert cluster.violations == []


def test_old_slot_keeps_its_pods_while_a_stream_is_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cluster.streams[Slot.BLUE] = [1]
    replicas_seen: list[int] = []
    look = world.traffic.open_streams

    def look_and_note(service: str, slot: Slot) -> int | None:
        replicas_seen.append(world.replicas(Slot.BLUE))
        if len(replicas_seen) == 5:
            world.cluster.streams[Slot.BLUE] = [0]
        return look(service, slot)

    monkeypatch.setattr(world.traffic, "open_streams", look_and_note)
    world.release("2")
    assert replicas_seen == [2] * 5
    assert world.replicas(Slot.BLUE) == 0


def test_bake_looks_again_and_again_for_its_whole_time(world: World) -> None:
    world.set_policy(bake_s=5.0)
    began_ns = world.clock.now_ns
    world.release("2")
    assert world.clock.now_ns - began_ns >= 5e9
    assert world.record.began_ns(Phase.DONE) - world.record.began_ns(Phase.BAKING) >= 5e9


def test_invalid_benchmark_is_repeated_and_not_judged(world: World) -> None:
    world.model.invalid_tables = 1
    outcome = world.release("2")
    assert (outcome["outcome"], world.model.benchmarks) == ("done", 2)


def test_benchmark_that_stays_invalid_is_no_verdict_and_no_promotion(world: World) -> None:
    world.model.invalid_tables = 99
    with pytest.raises(TransientError):
        world.release("2")
    world.assert_taken_back("2", code="benchmark-invalid")
    assert [item.stage for item in world.record.verdicts] == ["test"]
    assert world.model.benchmarks == 3


def test_candidate_slower_than_the_live_version_is_refused_with_the_figures(world: World) -> None:
    world.model.ttft_ms, world.model.stable_ttft_ms = 250.0, 50.0
    with pytest.raises(PermanentError, match="against the stable slot 5 ×, at most 2 asked"):
        world.release("2")
    world.assert_taken_back("2", code="benchmark-failed")


def test_stable_slot_that_does_not_answer_is_no_verdict_on_the_candidate(world: World) -> None:
    world.model.stable_fails = True
    with pytest.raises(TransientError, match="slot blue answered 0 of 10"):
        world.release("2")
    world.assert_taken_back("2", code="benchmark-invalid")
    assert world.model.benchmarks == 3


def test_stable_slot_without_ready_pods_is_not_compared_with(world: World) -> None:
    """A live version that is down must not keep its successor from coming."""
    world.cluster.break_pods(SERVICE, Slot.BLUE)
    assert world.release("2")["outcome"] == "done"
    assert "benchmark-comparison.parquet" not in world.evidence()


def test_release_shows_its_report_and_its_benchmark_in_the_flow_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.reporting.create_markdown_artifact", create_markdown_artifact)
    world.run_flow("2")
    report, benchmark = (_shown(f"{name}-{SERVICE}") for name in ("release", "benchmark"))
    assert report.startswith("# chat-v2-2: live")
    assert "ttft" in benchmark.lower()


def _shown(key: str) -> str:
    return str(getattr(Artifact.get(key), "data", "no such artifact"))


def test_report_that_cannot_be_stored_changes_no_outcome(world: World) -> None:
    world.at_write("record done", lambda: setattr(world.objects, "unreachable", True))
    assert world.release("2")["outcome"] == "done"
    assert "record.json" not in world.evidence()


def test_evidence_that_could_not_be_stored_is_stored_by_the_next_run(world: World) -> None:
    world.at_write("record done", lambda: setattr(world.objects, "unreachable", True))
    world.release("2")
    world.objects.unreachable = False
    assert world.release("2")["already_done"]
    assert "record.json" in world.evidence()


@pytest.mark.parametrize("name", ["SLIPWAY_GATEWAY_ADMIN_URLS", "SLIPWAY_ACCESS_LOG"])
def test_release_that_could_not_see_the_gateway_is_refused_before_any_write(
    world: World, name: str
) -> None:
    del world.environment[name]
    with pytest.raises(InputError, match=name) as caught:
        world.release("2")
    assert caught.value.code == "settings-missing"
    assert world.journal.writes == []


def test_live_version_is_done_already_though_another_one_failed_since(world: World) -> None:
    world.model.ttft_ms = 900.0
    with pytest.raises(PermanentError):
        world.release("2")
    world.journal.next_process()
    assert world.release("1")["already_done"]
    assert world.writes() == []


def test_unknown_version_is_refused_before_any_write(world: World) -> None:
    with pytest.raises(InputError) as caught:
        world.release("99")
    assert caught.value.code == "unknown-version"
    assert world.journal.writes == []


def test_service_not_installed_is_refused_before_any_write(fresh: World) -> None:
    fresh.cluster.leases.clear()
    with pytest.raises(PermanentError) as caught:
        fresh.release("1")
    assert caught.value.code == "not-installed"
    assert fresh.journal.writes == []
    assert fresh.cluster.routes[SERVICE] == empty(SERVICE)


def test_second_release_while_one_runs_is_refused_naming_the_first(world: World) -> None:
    def start_another() -> None:
        def renew() -> None:
            world.releases.renew(world.cluster.leases[SERVICE])

        world.clock.while_waiting.append(renew)  # the first one lives
        with pytest.raises(ConflictError, match="chat-v2-2") as caught:
            world.release("3")
        assert caught.value.code == "release-running"
        world.clock.while_waiting.remove(renew)

    world.model.while_benchmarked.append(start_another)
    assert world.release("2")["outcome"] == "done"
    assert world.model.benchmarks == 1
    assert world.record.version == "2"


def test_other_version_is_refused_while_a_release_is_unfinished(world: World) -> None:
    world.journal.die_after = 8
    world.die_in_release("2")
    world.journal.next_process()
    world.clock.advance(60)
    with pytest.raises(ConflictError) as caught:
        world.release("3")
    assert caught.value.code == "release-unfinished"
    assert "chat-v2-2" in caught.value.message
    assert "slipway release chat 2" in caught.value.hint
    assert world.writes() == []
    assert world.cluster.leases[SERVICE].holder == ""


def test_outcome_of_a_release_is_plain_values(world: World) -> None:
    outcome: dict[str, Any] = world.run_flow("2")
    stages = [item["stage"] for item in outcome["stages"]]
    assert stages == [
        "integrity",
        "image",
        "test",
        "deploy",
        "smoke",
        "benchmark",
        "promote",
        "alias",
        "bake",
        "retire",
    ]
    assert outcome["image"].startswith("sha256:")


def test_old_slot_stays_warm_for_the_rollback_window(world: World) -> None:
    world.set_policy(rollback_window_s=60.0)
    assert world.release("2")["outcome"] == "done"
    assert (world.replicas(Slot.BLUE), world.replicas(Slot.GREEN)) == (2, 2)
    assert world.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN, subsets=frozenset(Slot))
    left_s = (world.record.retire_after_ns - world.clock.time_ns()) / 1e9
    assert left_s == pytest.approx(60.0, abs=1.0)


def test_release_into_a_warm_slot_waits_for_the_streams_that_are_open_there(world: World) -> None:
    world.set_policy(rollback_window_s=60.0)
    world.release("2")
    world.cluster.streams[Slot.BLUE] = [3, 2, 1, 0]
    open_at_deploy: list[int] = []
    world.at_write(
        "apply Deployment chat-blue",
        lambda: open_at_deploy.extend(world.cluster.streams[Slot.BLUE]),
    )
    assert world.release("3")["outcome"] == "done"
    assert open_at_deploy == [0]
