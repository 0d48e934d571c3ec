"""What a slot's Deployment and pods say, turned into one state.

The rules are those of `kubectl rollout status` plus the early failures that Kubernetes itself only
reports after `progressDeadlineSeconds` (DESIGN §3; kubectl's polymorphichelpers/rollout_status.go).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from slipway.core.weights import PLACING_REFUSED

IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
# As a kubelet hands on what its runtime says: names of gRPC, words of containerd and CRI-O.
_MAY_PASS = re.compile(
    r"code = (Unavailable|DeadlineExceeded|ResourceExhausted)\b"
    r"|connection (refused|reset)|[Tt]ime(d )?out|unexpected EOF|\b(429|500|502|503|504) [A-Z]"
)
_START_REASONS = frozenset(
    {"CreateContainerError", "CreateContainerConfigError", "RunContainerError"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodObservation:
    """One pod of a slot.

    Args:
        image_digest: `sha256:…` of the image the container runs, None before it was pulled.
        address: pod IP as the API shows it.
        waiting_reason: why the container waits (`CrashLoopBackOff`, …), if it does.
        waiting_message: the cluster's own words for it.
        last_exit_code: of the previous run of the container, if there was one.
        pull_failing_s: for how long the image could not be pulled; None when it was, or is tried.
        unschedulable_s: for how long the scheduler has found no node; None when scheduled.
        unschedulable_message: the scheduler's own words.
        ended: the container ended and nobody starts it again (restart policy Never).
        weights: digest of the weights that the pod asks for on a volume, None when they are in its
            image.
        placing_exit_code: of the last failed run of the init container that places the weights;
            None when it has not failed or came through.
        placing_message: what it said at its end.
        placing_restarts: how often it was started again.
    """

    name: str
    uid: str
    ready: bool
    restarts: int = 0
    image_digest: str | None = None
    address: str | None = None
    waiting_reason: str | None = None
    waiting_message: str | None = None
    last_exit_code: int | None = None
    pull_failing_s: float | None = None
    unschedulable_s: float | None = None
    unschedulable_message: str | None = None
    terminating: bool = False
    ended: bool = False
    weights: str | None = None
    placing_exit_code: int | None = None
    placing_message: str | None = None
    placing_restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutObservation:
    """A slot's Deployment as read at one moment.

    Args:
        replica_failure: message of condition ReplicaFailure=True (quota), if set.
        replica_failure_s: for how long it has been set.
        deadline_exceeded: condition Progressing=False with ProgressDeadlineExceeded.
    """

    name: str
    uid: str
    resource_version: str
    generation: int
    observed_generation: int
    desired: int
    replicas: int
    updated: int
    available: int
    pods: tuple[PodObservation, ...]
    replica_failure: str | None = None
    replica_failure_s: float = 0.0
    deadline_exceeded: bool = False
    release_id: str | None = None

    @property
    def ready_pods(self) -> tuple[PodObservation, ...]:
        """Pods that can serve now."""
        return tuple(pod for pod in self.pods if pod.ready and not pod.terminating)


class RolloutState(StrEnum):
    """Where a rollout stands. Not ready yet is a value, not an error."""

    PROGRESSING = "progressing"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutVerdict:
    """A rollout's state with its reason.

    Args:
        code: stable name of a failure (`quota-exceeded`, `image-pull-failed`, `crash-loop`,
            `unschedulable`, `start-failed`, `weights-not-placed`, `progress-deadline`), empty
            otherwise.
        reason: for people, with the cluster's own message.
    """

    state: RolloutState
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPatience:
    """How long a condition that may pass is tolerated, in seconds.

    Args:
        replica_failure_s: quota and other refusals to create pods.
        unschedulable_s: no node fits; covers the time a node pool needs to grow.
        image_pull_s: the registry does not answer a node; covers three tries of a kubelet.
        restarts: container restarts before it counts as a crash loop.
    """

    replica_failure_s: float = 10.0
    unschedulable_s: float = 30.0
    image_pull_s: float = 60.0
    restarts: int = 2


def judge_rollout(
    observed: RolloutObservation, *, generation: int, patience: RolloutPatience
) -> RolloutVerdict:
    """Return whether the rollout of `generation` is ready, under way or failed.

    Args:
        observed: the slot's Deployment as it is now.
        generation: `metadata.generation` of the apply response; older conditions are stale.
        patience: for conditions that may pass.
    """
    if observed.observed_generation < generation:
        return _progressing("the Deployment controller has not seen the change yet")
    failure = _failure(observed, patience)
    if failure is not None:
        return failure
    if observed.updated < observed.desired or observed.replicas != observed.updated:
        return _progressing(f"{observed.updated} of {observed.desired} pods created")
    if observed.available < observed.updated:
        waiting = ", ".join(sorted({_waits_for(pod) for pod in observed.pods if not pod.ready}))
        return _progressing(
            f"{observed.available} of {observed.desired} pods ready"
            + (f" ({waiting})" if waiting else "")
        )
    return RolloutVerdict(state=RolloutState.READY, reason=f"{observed.available} pods ready")


def _failure(observed: RolloutObservation, patience: RolloutPatience) -> RolloutVerdict | None:
    if observed.replica_failure and observed.replica_failure_s >= patience.replica_failure_s:
        code = "quota-exceeded" if "quota" in observed.replica_failure else "pods-refused"
        return _failed(code, f"the cluster refuses to create pods: {observed.replica_failure}")
    for pod in observed.pods:
        failure = None if pod.terminating else _pod_failure(pod, patience)
        if failure is not None:
            return failure
    if observed.deadline_exceeded:
        return _failed("progress-deadline", f"Deployment {observed.name} made no progress in time")
    return None


def _pod_failure(pod: PodObservation, patience: RolloutPatience) -> RolloutVerdict | None:
    message = f": {pod.waiting_message}" if pod.waiting_message else ""
    not_pulled = image_failure(pod, patience)
    if not_pulled:
        return _failed("image-pull-failed", not_pulled)
    if pod.waiting_reason in _START_REASONS:
        return _failed("start-failed", f"pod {pod.name}: {pod.waiting_reason}{message}")
    if pod.placing_exit_code is not None and (
        pod.placing_exit_code == PLACING_REFUSED or pod.placing_restarts >= patience.restarts
    ):
        return _failed("weights-not-placed", placing_failure(pod))
    if pod.waiting_reason == "CrashLoopBackOff" or pod.restarts >= patience.restarts:
        code = "unknown" if pod.last_exit_code is None else str(pod.last_exit_code)
        return _failed(
            "crash-loop",
            f"pod {pod.name} restarted {pod.restarts}×, last exit code {code}{message}",
        )
    if pod.unschedulable_s is not None and pod.unschedulable_s >= patience.unschedulable_s:
        return _failed(
            "unschedulable",
            f"pod {pod.name} fits no node: {pod.unschedulable_message or 'no reason given'}",
        )
    return None


def image_failure(pod: PodObservation, patience: RolloutPatience) -> str:
    """Return why a pod's image is not pulled; "" when it is, or when that may still pass.

    A kubelet tries again by itself. Waiting helps when the registry did not answer, not when it
    has no such image or refuses it.
    """
    if pod.waiting_reason not in IMAGE_REASONS:
        return ""
    said = pod.waiting_message or "no message"
    failing_s = pod.pull_failing_s
    if failing_s is not None and failing_s < patience.image_pull_s and _MAY_PASS.search(said):
        return ""
    return f"pod {pod.name}: {pod.waiting_reason}: {said}"


def placing_failure(pod: PodObservation) -> str:
    """Return why a pod's weights are not on the volume, in the init container's own words."""
    said = pod.placing_message or f"exit code {pod.placing_exit_code}, and it said nothing"
    return f"pod {pod.name}: its weights were not placed on the volume: {said}"


def _waits_for(pod: PodObservation) -> str:
    if pod.unschedulable_s is not None:
        return "no node yet"
    return pod.waiting_reason or "probe not passed yet"


def _progressing(reason: str) -> RolloutVerdict:
    return RolloutVerdict(state=RolloutState.PROGRESSING, reason=reason)


def _failed(code: str, reason: str) -> RolloutVerdict:
    return RolloutVerdict(state=RolloutState.FAILED, code=code, reason=reason)
