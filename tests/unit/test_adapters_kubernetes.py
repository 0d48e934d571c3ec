"""Deployments and pods as the API shows them, turned into observations and judged.

The JSON has the shape and the words of a Kubernetes 1.36 API server, less the fields nobody reads.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.adapters.kubernetes import FirstSeen, pod_observation, rollout_observation
from slipway.core.rollout import (
    RolloutObservation,
    RolloutPatience,
    RolloutState,
    RolloutVerdict,
    judge_rollout,
)
from tests.fakes.clock import FakeClock

_NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
_RELEASE = "chat-v2-7"
_DIGEST = "sha256:" + "a" * 64

Json = dict[str, Any]


def _age_s(what: str) -> float:
    """Return how old a condition is at `_NOW`: its name ends with the time it began."""
    return (_NOW - datetime.fromisoformat(what.rsplit(maxsplit=1)[-1])).total_seconds()


def _deployment(*, wanted: int = 2, release: str = _RELEASE, **status: Any) -> Json:
    return {
        "metadata": {
            "name": "chat-blue",
            "uid": "3c9d5f0e",
            "resourceVersion": "4711",
            "generation": 3,
        },
        "spec": {
            "replicas": wanted,
            "selector": {"matchLabels": {"slipway.dev/serves": "chat"}},
            "template": {"metadata": {"labels": {"slipway.dev/release": release}}},
        },
        "status": {"observedGeneration": 3, **status},
    }


def _ready_status(replicas: int = 2) -> Json:
    return {
        "replicas": replicas,
        "updatedReplicas": replicas,
        "readyReplicas": replicas,
        "availableReplicas": replicas,
        "conditions": [
            {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
        ],
    }


def _pod(
    name: str = "chat-blue-0",
    *,
    container: Json | None = None,
    conditions: list[Json] | None = None,
    release: str = _RELEASE,
    **status: Any,
) -> Json:
    ready = {"type": "Ready", "status": "True"}
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-11-22T11:59:50Z",
            "labels": {"slipway.dev/release": release},
        },
        "status": {
            "phase": "Running",
            "podIP": "100.100.1.7",
            "conditions": [ready] if conditions is None else conditions,
            "containerStatuses": [container or _running()],
            **status,
        },
    }


def _running(**fields: Any) -> Json:
    return {
        "name": "server",
        "restartCount": 0,
        "imageID": f"127.0.0.1:5000/models/chat@{_DIGEST}",
        "state": {"running": {"startedAt": "2026-11-22T11:59:00Z"}},
        "lastState": {},
        **fields,
    }


def _waiting(reason: str, message: str = "", **fields: Any) -> Json:
    waiting = {"reason": reason} | ({"message": message} if message else {})
    return _running(**{"imageID": "", "state": {"waiting": waiting}} | fields)


_NOT_READY = [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]


def _judge(deployment: Json, *pods: Json) -> RolloutVerdict:
    observed = rollout_observation(deployment, list(pods), age_s=_age_s)
    return judge_rollout(observed, generation=3, patience=RolloutPatience())


def test_rollout_that_ended_well_is_ready_with_its_pods() -> None:
    deployment = _deployment(**_ready_status())
    pods = [_pod("chat-blue-0"), _pod("chat-blue-1")]
    observed = rollout_observation(deployment, pods, age_s=_age_s)
    assert observed.uid == "3c9d5f0e"
    assert observed.resource_version == "4711"
    assert observed.release_id == _RELEASE
    assert [pod.name for pod in observed.ready_pods] == ["chat-blue-0", "chat-blue-1"]
    assert observed.pods[0].image_digest == _DIGEST
    assert observed.pods[0].address == "100.100.1.7"
    assert _judge(deployment, *pods).state is RolloutState.READY


def test_deployment_just_made_is_progressing() -> None:
    deployment = _deployment()
    deployment["status"] = {}
    assert _judge(deployment).state is RolloutState.PROGRESSING


def test_deployment_the_controller_has_not_seen_is_progressing_in_spite_of_old_conditions() -> None:
    deployment = _deployment(**_ready_status() | {"observedGeneration": 2})
    assert _judge(deployment, _pod()).state is RolloutState.PROGRESSING


def test_deployment_without_replicas_field_wants_one() -> None:
    deployment = _deployment()
    del deployment["spec"]["replicas"]
    assert rollout_observation(deployment, [], age_s=_age_s).desired == 1


def test_pods_of_an_earlier_release_are_left_out() -> None:
    observed = rollout_observation(
        _deployment(**_ready_status()), [_pod(), _pod("old", release="chat-v1-6")], age_s=_age_s
    )
    assert [pod.name for pod in observed.pods] == ["chat-blue-0"]


def test_pod_that_ends_serves_no_more_though_still_ready() -> None:
    ending = _pod()
    ending["metadata"]["deletionTimestamp"] = "2026-11-22T11:59:58Z"
    observed = rollout_observation(_deployment(**_ready_status()), [ending], age_s=_age_s)
    assert observed.pods[0].terminating
    assert observed.ready_pods == ()


def _refused(message: str, since: str) -> Json:
    return _deployment(
        wanted=2,
        conditions=[
            {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": "FailedCreate",
                "message": message,
                "lastTransitionTime": since,
            }
        ],
    )


def test_quota_that_stays_exceeded_fails_with_the_clusters_words() -> None:
    words = 'pods "chat-blue-" is forbidden: exceeded quota: gpus, requested: 1, limited: 2'
    verdict = _judge(_refused(words, "2026-11-22T11:59:30Z"))
    assert (verdict.state, verdict.code) == (RolloutState.FAILED, "quota-exceeded")
    assert words in verdict.reason


def test_other_refusal_of_pods_fails_by_its_own_name() -> None:
    verdict = _judge(_refused("violates PodSecurity", "2026-11-22T11:59:30Z"))
    assert (verdict.state, verdict.code) == (RolloutState.FAILED, "pods-refused")


def test_refusal_a_moment_old_is_waited_for() -> None:
    verdict = _judge(_refused("exceeded quota", "2026-11-22T11:59:55Z"))
    assert verdict.state is RolloutState.PROGRESSING


def test_refusal_that_is_over_is_no_failure() -> None:
    deployment = _refused("exceeded quota", "2026-11-22T11:00:00Z")
    deployment["status"]["conditions"][0]["status"] = "False"
    observed = rollout_observation(deployment, [], age_s=_age_s)
    assert (observed.replica_failure, observed.replica_failure_s) == (None, 0.0)


def test_progress_deadline_exceeded_fails() -> None:
    deployment = _deployment(
        conditions=[
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        ]
    )
    assert _judge(deployment).code == "progress-deadline"


@pytest.mark.parametrize(
    ("container", "code", "words"),
    [
        (
            _waiting("ErrImagePull", "sha256:bbb expected, got sha256:ccc"),
            "image-pull-failed",
            "expected",
        ),
        (_waiting("ImagePullBackOff", "Back-off pulling image"), "image-pull-failed", "Back-off"),
        (_waiting("InvalidImageName"), "image-pull-failed", "InvalidImageName"),
        (
            _waiting("CreateContainerConfigError", 'secret "x" not found'),
            "start-failed",
            "not found",
        ),
        (
            _waiting(
                "CrashLoopBackOff",
                "back-off 10s restarting failed container",
                restartCount=1,
                lastState={"terminated": {"exitCode": 3, "reason": "Error"}},
            ),
            "crash-loop",
            "last exit code 3",
        ),
        (
            _running(restartCount=2, lastState={"terminated": {"exitCode": 137}}),
            "crash-loop",
            "restarted 2×, last exit code 137",
        ),
    ],
)
def test_pod_that_cannot_start_fails_the_rollout_early(
    container: Json, code: str, words: str
) -> None:
    verdict = _judge(
        _deployment(wanted=1, updatedReplicas=1),
        _pod(container=container, conditions=_NOT_READY),
    )
    assert (verdict.state, verdict.code) == (RolloutState.FAILED, code)
    assert words in verdict.reason


def test_pull_that_fails_is_counted_from_its_first_look_however_often_it_is_tried() -> None:
    asked: list[str] = []

    def age_s(what: str) -> float:
        asked.append(what)
        return 7.0

    for reason in ("ErrImagePull", "ImagePullBackOff"):
        pod = _pod(container=_waiting(reason, "code = Unavailable"), conditions=_NOT_READY)
        assert pod_observation(pod, age_s=age_s).pull_failing_s == 7.0
    assert len(set(asked)) == 1
    loading = _pod(container=_waiting("ContainerCreating"), conditions=_NOT_READY)
    assert pod_observation(loading, age_s=age_s).pull_failing_s is None


def _unschedulable(since: str) -> Json:
    words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    pod = _pod(
        conditions=[
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": words,
                "lastTransitionTime": since,
            }
        ],
        phase="Pending",
    )
    del pod["status"]["podIP"], pod["status"]["containerStatuses"]
    return pod


def test_pod_that_fits_no_node_fails_after_the_time_a_node_pool_needs() -> None:
    deployment = _deployment(wanted=1, replicas=1, updatedReplicas=1)
    verdict = _judge(deployment, _unschedulable("2026-11-22T11:59:00Z"))
    assert verdict.code == "unschedulable"
    assert "Insufficient nvidia.com/gpu" in verdict.reason
    early = _judge(deployment, _unschedulable("2026-11-22T11:59:45Z"))
    assert early.state is RolloutState.PROGRESSING


def test_pod_that_waits_for_its_node_states_for_how_long() -> None:
    pod = pod_observation(_unschedulable("2026-11-22T11:59:00Z"), age_s=_age_s)
    assert pod.unschedulable_s == pytest.approx(60)
    assert (pod.address, pod.image_digest, pod.ready) == (None, None, False)


def test_pod_that_the_scheduler_has_not_looked_at_is_not_unschedulable() -> None:
    pod = _pod(
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    )
    assert pod_observation(pod, age_s=_age_s).unschedulable_s is None


def test_age_of_a_condition_is_counted_from_the_first_look_by_a_clock_that_never_steps() -> None:
    clock = FakeClock()
    seen = FirstSeen(clock.monotonic)
    far_off = _unschedulable("1999-11-22T12:00:05Z")  # by a clock that is wrong by decades
    assert pod_observation(far_off, age_s=seen.age_s).unschedulable_s == 0.0
    clock.advance(7)
    clock.step(-3600)
    assert pod_observation(far_off, age_s=seen.age_s).unschedulable_s == pytest.approx(7)


def test_condition_that_came_back_is_counted_anew() -> None:
    clock = FakeClock()
    seen = FirstSeen(clock.monotonic)
    pod_observation(_unschedulable("2026-11-22T11:59:00Z"), age_s=seen.age_s)
    clock.advance(7)
    again = pod_observation(_unschedulable("2026-11-22T12:01:00Z"), age_s=seen.age_s)
    assert again.unschedulable_s == 0.0


def test_container_that_is_created_waits_without_failing() -> None:
    container = _waiting("ContainerCreating")
    verdict = _judge(
        _deployment(wanted=1, replicas=1, updatedReplicas=1),
        _pod(container=container, conditions=_NOT_READY),
    )
    assert verdict.state is RolloutState.PROGRESSING


def test_bare_pod_whose_server_ended_says_so_with_its_exit_code() -> None:
    ended = _running(state={"terminated": {"exitCode": 7, "reason": "Error"}})
    pod = pod_observation(
        _pod(container=ended, conditions=_NOT_READY, phase="Failed"), age_s=_age_s
    )
    assert (pod.ended, pod.last_exit_code) == (True, 7)


def test_bare_pod_that_was_evicted_says_so() -> None:
    evicted = _pod(conditions=[], phase="Failed", reason="Evicted", message="node low on memory")
    del evicted["status"]["containerStatuses"]
    pod = pod_observation(evicted, age_s=_age_s)
    assert (pod.waiting_reason, pod.waiting_message) == ("Evicted", "node low on memory")


@pytest.mark.parametrize(
    ("image_id", "digest"),
    [
        (f"127.0.0.1:5000/models/chat@{_DIGEST}", _DIGEST),
        ("127.0.0.1:5000/models/chat:v2", None),
        (_DIGEST, None),
        ("", None),
    ],
)
def test_image_id_without_a_repository_digest_gives_none(image_id: str, digest: str | None) -> None:
    assert (
        pod_observation(_pod(container=_running(imageID=image_id)), age_s=_age_s).image_digest
        == digest
    )


def test_observation_of_a_slot_scaled_to_zero_is_empty_and_ready() -> None:
    observed: RolloutObservation = rollout_observation(_deployment(wanted=0), [], age_s=_age_s)
    assert (observed.desired, observed.ready_pods) == (0, ())


def _placing(state: Json, last: Json | None = None, restarts: int = 0) -> Json:
    return {
        "name": "weights",
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
    }


_REFUSED = {"terminated": {"exitCode": 65, "message": "checksum-mismatch: the file x\n"}}


@pytest.mark.parametrize(
    ("placing", "expected"),
    [
        (_placing(_REFUSED), (65, "checksum-mismatch: the file x", 0)),
        (
            _placing({"waiting": {"reason": "CrashLoopBackOff"}}, _REFUSED, 1),
            (65, "checksum-mismatch: the file x", 1),
        ),
        (_placing({"running": {}}, _REFUSED, 1), (65, "checksum-mismatch: the file x", 1)),
        (_placing({"terminated": {"exitCode": 0}}, _REFUSED, 1), (None, None, 1)),
        (_placing({"running": {}}), (None, None, 0)),
    ],
)
def test_failure_to_place_weights_is_told_with_its_last_words(
    placing: Json, expected: tuple[int | None, str | None, int]
) -> None:
    server = _waiting("PodInitializing")
    pod = pod_observation(
        _pod(container=server, conditions=_NOT_READY, initContainerStatuses=[placing]), age_s=_age_s
    )
    assert (pod.placing_exit_code, pod.placing_message, pod.placing_restarts) == expected
    assert pod.waiting_reason == "PodInitializing"


def test_init_container_whose_image_is_missing_is_why_the_pod_waits() -> None:
    placing = _placing({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
    verdict = _judge(
        _deployment(wanted=1, replicas=1, updatedReplicas=1),
        _pod(
            container=_waiting("PodInitializing"),
            conditions=_NOT_READY,
            initContainerStatuses=[placing],
        ),
    )
    assert (verdict.code, "no such image" in verdict.reason) == ("image-pull-failed", True)


def test_pod_says_which_weights_it_asks_for() -> None:
    pod = _pod()
    pod["metadata"]["annotations"] = {"slipway.dev/weights-digest": "a1"}
    assert pod_observation(pod, age_s=_age_s).weights == "a1"
    assert pod_observation(_pod(), age_s=_age_s).weights is None
