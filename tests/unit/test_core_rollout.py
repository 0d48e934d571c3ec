from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.rollout import (
    PodObservation,
    RolloutObservation,
    RolloutPatience,
    RolloutState,
    RolloutVerdict,
    judge_rollout,
)
from tests.examples import pod, rollout, waiting_pod

PATIENCE = RolloutPatience(replica_failure_s=10.0, unschedulable_s=30.0, restarts=2)


def judged(observed: RolloutObservation, *, generation: int = 3) -> RolloutVerdict:
    return judge_rollout(observed, generation=generation, patience=PATIENCE)


def unready(*pods: PodObservation) -> RolloutObservation:
    return replace(rollout(*pods), available=0)


def test_complete_rollout_is_ready() -> None:
    verdict = judged(rollout())

    assert (verdict.state, verdict.code) == (RolloutState.READY, "")
    assert verdict.reason == "2 pods ready"


def test_conditions_older_than_the_change_are_not_believed() -> None:
    stale = replace(rollout(waiting_pod("CrashLoopBackOff")), deadline_exceeded=True)

    assert judged(stale, generation=4).state is RolloutState.PROGRESSING
    assert judged(stale, generation=3).state is RolloutState.FAILED


@pytest.mark.parametrize(("updated", "replicas"), [(1, 1), (0, 2), (2, 3)])
def test_pods_still_to_create_or_to_remove_are_progress(updated: int, replicas: int) -> None:
    verdict = judged(replace(rollout(), updated=updated, replicas=replicas))

    assert verdict.state is RolloutState.PROGRESSING
    assert verdict.reason == f"{updated} of 2 pods created"


def test_pods_not_ready_yet_are_named_with_what_they_wait_for() -> None:
    no_node = replace(pod("b", ready=False), unschedulable_s=1.0)
    observed = replace(
        rollout(pod("a", ready=False), no_node, waiting_pod("ContainerCreating"), pod("c")),
        available=1,
    )

    verdict = judged(observed)

    assert verdict.state is RolloutState.PROGRESSING
    assert verdict.reason == (
        "1 of 2 pods ready (ContainerCreating, no node yet, probe not passed yet)"
    )


def test_ready_pods_that_are_not_available_long_enough_are_progress() -> None:
    verdict = judged(replace(rollout(), available=1))

    assert verdict.reason == "1 of 2 pods ready"


@pytest.mark.parametrize(
    "reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"]
)
def test_image_that_cannot_be_pulled_fails_at_once_with_the_clusters_words(reason: str) -> None:
    verdict = judged(unready(waiting_pod(reason, "digest mismatch")))

    assert (verdict.state, verdict.code) == (RolloutState.FAILED, "image-pull-failed")
    assert verdict.reason == f"pod chat-blue-1: {reason}: digest mismatch"


_UNANSWERED = (
    "rpc error: code = Unavailable desc = registry 10.0.0.1:5000 does not answer",
    'failed to do request: Head "https://r/v2/m": dial tcp 10.0.0.1: connection refused',
    "read tcp 10.0.0.2:5: read: connection reset by peer",
    "Get https://r/v2/: net/http: TLS handshake timeout",
    "unexpected status from GET request to https://r/v2/m: 503 Service Unavailable",
    'Back-off pulling image "r/m": ErrImagePull: rpc error: code = DeadlineExceeded desc = x',
)


@pytest.mark.parametrize("said", _UNANSWERED)
def test_registry_that_does_not_answer_a_node_is_waited_for_and_not_for_ever(said: str) -> None:
    waiting = waiting_pod("ErrImagePull", said)

    first = judged(unready(replace(waiting, pull_failing_s=59.0)))
    last = judged(unready(replace(waiting, pull_failing_s=60.0)))

    assert first.state is RolloutState.PROGRESSING
    assert "ErrImagePull" in first.reason
    assert (last.state, last.code) == (RolloutState.FAILED, "image-pull-failed")
    assert said in last.reason


@pytest.mark.parametrize(
    "said",
    [
        "rpc error: code = NotFound desc = r/m: not found",
        "rpc error: code = DataLoss desc = digest mismatch",
        "unexpected status from GET request to https://r/v2/m: 403 Forbidden",
    ],
)
def test_image_that_a_registry_refuses_is_not_waited_for(said: str) -> None:
    refused = replace(waiting_pod("ErrImagePull", said), pull_failing_s=0.0)

    assert judged(unready(refused)).code == "image-pull-failed"


@pytest.mark.parametrize(
    "reason", ["CreateContainerError", "CreateContainerConfigError", "RunContainerError"]
)
def test_container_that_cannot_be_started_fails(reason: str) -> None:
    verdict = judged(unready(waiting_pod(reason)))

    assert (verdict.code, verdict.reason) == ("start-failed", f"pod chat-blue-1: {reason}")


def test_crash_loop_fails_and_names_the_exit_code() -> None:
    crashed = replace(waiting_pod("CrashLoopBackOff"), restarts=1, last_exit_code=3)

    verdict = judged(unready(crashed))

    assert verdict.code == "crash-loop"
    assert verdict.reason == "pod chat-blue-1 restarted 1×, last exit code 3"


def test_repeated_restarts_fail_even_between_two_crashes() -> None:
    assert judged(unready(replace(pod(ready=False), restarts=1))).code == ""
    verdict = judged(unready(replace(pod(ready=False), restarts=2)))
    assert verdict.code == "crash-loop"
    assert "last exit code unknown" in verdict.reason


def test_pod_without_a_node_fails_only_after_patience() -> None:
    early = replace(pod(ready=False), unschedulable_s=29.9)
    late = replace(early, unschedulable_s=30.0)

    assert judged(unready(early)).state is RolloutState.PROGRESSING
    verdict = judged(unready(late))
    assert verdict.code == "unschedulable"
    assert verdict.reason.endswith("fits no node: no reason given")
    told = replace(late, unschedulable_message="0/2 nodes: Insufficient nvidia.com/gpu")
    assert "Insufficient nvidia.com/gpu" in judged(unready(told)).reason


def test_troubles_of_a_pod_that_is_being_deleted_do_not_count() -> None:
    leaving = replace(waiting_pod("CrashLoopBackOff"), terminating=True)

    assert judged(rollout(leaving, pod("a"), pod("b"))).state is RolloutState.READY


def test_refused_pods_fail_only_after_patience_and_name_the_quota() -> None:
    refused = replace(
        unready(), replicas=0, updated=0, replica_failure="exceeded quota: gpus", pods=()
    )

    assert judged(replace(refused, replica_failure_s=9.9)).state is RolloutState.PROGRESSING
    verdict = judged(replace(refused, replica_failure_s=10.0))
    assert verdict.code == "quota-exceeded"
    assert verdict.reason.endswith("exceeded quota: gpus")


def test_pods_refused_for_another_reason_are_not_called_a_quota() -> None:
    refused = replace(unready(), replica_failure="denied by policy", replica_failure_s=60.0)

    assert judged(refused).code == "pods-refused"


def test_deadline_of_the_cluster_is_a_failure() -> None:
    verdict = judged(replace(unready(pod(ready=False)), deadline_exceeded=True))

    assert (verdict.state, verdict.code) == (RolloutState.FAILED, "progress-deadline")


def test_ready_pods_leave_out_the_unready_and_the_leaving() -> None:
    leaving = replace(pod("c"), terminating=True)

    assert rollout(pod("a"), pod("b", ready=False), leaving).ready_pods == (pod("a"),)


@pytest.mark.parametrize(
    ("exit_code", "restarts", "failed"),
    [(65, 0, True), (75, 0, False), (75, 1, False), (75, 2, True), (None, 2, False)],
)
def test_weights_that_are_refused_fail_at_once_and_those_not_there_yet_after_restarts(
    exit_code: int | None, restarts: int, failed: bool
) -> None:
    placing = replace(
        pod("a", ready=False),
        placing_exit_code=exit_code,
        placing_restarts=restarts,
        placing_message="checksum-mismatch: the file x",
        waiting_reason="PodInitializing",
    )

    verdict = judged(unready(placing))

    assert (verdict.state is RolloutState.FAILED) is failed
    assert verdict.code == ("weights-not-placed" if failed else "")
    if failed:
        assert verdict.reason == (
            "pod a: its weights were not placed on the volume: checksum-mismatch: the file x"
        )


def test_init_container_that_said_nothing_is_quoted_by_its_exit_code() -> None:
    silent = replace(pod("a", ready=False), placing_exit_code=137, placing_restarts=2)

    assert judged(unready(silent)).reason.endswith("exit code 137, and it said nothing")
