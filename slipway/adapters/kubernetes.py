"""Workloads, records and locks of releases on a Kubernetes cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slipway.adapters.kubernetes_api import (
    FIELD_MANAGER,
    MERGE_PATCH,
    SCALE_MANAGER,
    KubernetesApi,
    object_path,
)
from slipway.core.errors import ConflictError, PermanentError, TransientError
from slipway.core.rollout import IMAGE_REASONS, PodObservation, RolloutObservation
from slipway.manifests.names import FENCE_ANNOTATION, RELEASE_LABEL, WEIGHTS_ANNOTATION
from slipway.manifests.release_objects import release_event
from slipway.ports.workloads import Applied, Manifest
from slipway.retries import call_with_retries

_DELETE_TIMEOUT_S = 60.0

AgeOf = Callable[[str], float]
"""Returns for how many seconds a condition has been seen here; its name ends with its begin."""


class FirstSeen:
    """How long something has lasted, by the clock of the one who looks.

    The times in the cluster's objects are another machine's, in whole seconds: a difference to our
    own wall clock would be as wrong as either clock is. So the first look counts as the beginning.

    Args:
        monotonic: clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since_s: dict[str, float] = {}

    def age_s(self, what: str) -> float:
        """Return the seconds since `what` was asked for first."""
        now_s = self._monotonic()
        return now_s - self._since_s.setdefault(what, now_s)


class KubernetesWorkloads:
    """The Workloads port on the API server."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._seen = FirstSeen()

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Applied:
        """Server-side apply; see `slipway.ports.Workloads`."""
        answer = self._api.apply(manifest, dry_run=dry_run)
        metadata = answer["metadata"]
        return Applied(
            kind=answer["kind"],
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            generation=int(metadata.get("generation", 0)),
            resource_version=metadata.get("resourceVersion", ""),
        )

    def observe(self, namespace: str, deployment: str) -> RolloutObservation | None:
        """Read the Deployment and the pods of its current release."""
        found = self._api.get(object_path("Deployment", namespace, deployment))
        if found is None:
            return None
        selector = ",".join(
            f"{key}={value}" for key, value in found["spec"]["selector"]["matchLabels"].items()
        )
        pods = self._api.get(object_path("Pod", namespace), {"labelSelector": selector})
        return rollout_observation(found, (pods or {}).get("items", []), age_s=self._seen.age_s)

    def pod(self, namespace: str, name: str) -> PodObservation | None:
        """Read one bare pod."""
        found = self._api.get(object_path("Pod", namespace, name))
        return None if found is None else pod_observation(found, age_s=self._seen.age_s)

    def log_tail(self, namespace: str, pod: str, *, lines: int) -> str:
        """Read the end of a pod's log; a pod that never started has none."""
        path = object_path("Pod", namespace, pod) + "/log"
        try:
            return self._api.text(path, {"tailLines": str(lines)})
        except (PermanentError, TransientError):
            return ""

    def stamp(self, namespace: str, deployment: str, *, fence: int) -> None:
        """Put a fencing number on a Deployment; see `slipway.ports.Workloads`."""
        try:
            self._api.stamp("Deployment", namespace, deployment, fence=fence)
        except PermanentError as error:
            if error.code != "not-found":
                raise

    def scale(
        self,
        namespace: str,
        deployment: str,
        replicas: int,
        *,
        uid: str,
        resource_version: str,
        fence: int | None = None,
    ) -> None:
        """Set replicas under preconditions; see `slipway.ports.Workloads`."""
        path = object_path("Deployment", namespace, deployment)
        # In a merge patch both are preconditions: 409 for another resourceVersion, and the server
        # refuses another uid as immutable. Not the subresource `scale`: it carries no annotation,
        # so the API server could not tell whose number the write has.
        meta: dict[str, Any] = {"uid": uid, "resourceVersion": resource_version}
        if fence is not None:
            meta["annotations"] = {FENCE_ANNOTATION: str(fence)}
        try:
            self._api.call(
                "PATCH",
                path,
                body={"metadata": meta, "spec": {"replicas": replicas}},
                query={"fieldManager": SCALE_MANAGER},
                content_type=MERGE_PATCH,
            )
        except PermanentError as error:
            if "metadata.uid" in error.message:
                raise ConflictError(
                    f"Deployment {namespace}/{deployment} was replaced by another of its name",
                    code="conflict",
                    hint="the object changed meanwhile; read it again",
                ) from error
            if error.code != "not-found":
                raise

    def unlabel(
        self, namespace: str, deployment: str, labels: Sequence[str], *, fence: int | None = None
    ) -> None:
        """Take labels off the pod template; see `slipway.ports.Workloads`."""
        number = {} if fence is None else {FENCE_ANNOTATION: str(fence)}
        template = {"metadata": {"labels": dict.fromkeys(labels)}}

        def once() -> None:
            self._api.call(
                "PATCH",
                object_path("Deployment", namespace, deployment),
                body={"metadata": {"annotations": number}, "spec": {"template": template}},
                query={"fieldManager": FIELD_MANAGER},
                content_type=MERGE_PATCH,
            )

        try:
            # Without a resourceVersion it says the same however often it is sent.
            call_with_retries(once)
        except PermanentError as error:
            if error.code != "not-found":
                raise

    def delete(self, kind: str, namespace: str, name: str, *, uid: str, wait: bool = True) -> None:
        """Delete with a uid precondition; see `slipway.ports.Workloads`."""
        path = object_path(kind, namespace, name)
        try:
            self._api.call("DELETE", path, body={"preconditions": {"uid": uid}})
        except PermanentError as error:
            if error.code == "not-found":
                return
            raise
        deadline = time.monotonic() + _DELETE_TIMEOUT_S
        while wait and self._api.get(path) is not None:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"{kind} {namespace}/{name} is still there {_DELETE_TIMEOUT_S:.0f} s on",
                    code="delete-timeout",
                    hint="look at its finalizers and at the node it runs on",
                )
            time.sleep(0.2)

    def event(
        self, namespace: str, service: str, *, reason: str, message: str, warning: bool
    ) -> None:
        """Write an event about the service's record; see `slipway.ports.Workloads`."""
        body = release_event(
            service,
            namespace,
            reason=reason,
            message=message,
            warning=warning,
            at_ns=time.time_ns(),
        )
        self._api.call("POST", object_path("Event", namespace), body=body)


def rollout_observation(
    deployment: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], *, age_s: AgeOf
) -> RolloutObservation:
    """Turn a Deployment and the pods its selector matches into one observation.

    Pods of an earlier release that still terminate are left out: they say nothing of this rollout.
    """
    metadata, spec = deployment["metadata"], deployment["spec"]
    status = deployment.get("status", {})
    release = spec["template"]["metadata"].get("labels", {}).get(RELEASE_LABEL)
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    failure = conditions.get("ReplicaFailure", {})
    failing = failure.get("status") == "True"
    progressing = conditions.get("Progressing", {})
    return RolloutObservation(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=int(metadata["generation"]),
        observed_generation=int(status.get("observedGeneration", 0)),
        desired=int(spec.get("replicas", 1)),
        replicas=int(status.get("replicas", 0)),
        updated=int(status.get("updatedReplicas", 0)),
        available=int(status.get("availableReplicas", 0)),
        pods=tuple(
            pod_observation(pod, age_s=age_s)
            for pod in pods
            if pod["metadata"].get("labels", {}).get(RELEASE_LABEL) == release
        ),
        replica_failure=failure.get("message") if failing else None,
        replica_failure_s=_lasted_s(metadata, failure, age_s) if failing else 0.0,
        deadline_exceeded=progressing.get("reason") == "ProgressDeadlineExceeded",
        release_id=release,
    )


def pod_observation(pod: Mapping[str, Any], *, age_s: AgeOf) -> PodObservation:
    """Turn a pod as the API shows it into one observation."""
    metadata, status = pod["metadata"], pod.get("status", {})
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    waits_for_node = (
        scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    )
    container: Mapping[str, Any] = next(iter(status.get("containerStatuses", [])), {})
    placing: Mapping[str, Any] = next(iter(status.get("initContainerStatuses", [])), {})
    placed = _last_end(placing)
    waiting = _waiting(placing) or container.get("state", {}).get("waiting", {})
    last = container.get("lastState", {}).get("terminated") or container.get("state", {}).get(
        "terminated", {}
    )
    reason = waiting.get("reason") or status.get("reason")
    return PodObservation(
        name=metadata["name"],
        uid=metadata["uid"],
        ready=conditions.get("Ready", {}).get("status") == "True",
        restarts=int(container.get("restartCount", 0)),
        image_digest=_digest(container.get("imageID", "")),
        address=status.get("podIP"),
        waiting_reason=reason,
        waiting_message=waiting.get("message") or status.get("message"),
        last_exit_code=last.get("exitCode"),
        pull_failing_s=_pull_failing_s(pod, age_s) if reason in IMAGE_REASONS else None,
        unschedulable_s=_lasted_s(metadata, scheduled, age_s) if waits_for_node else None,
        unschedulable_message=scheduled.get("message") if waits_for_node else None,
        terminating="deletionTimestamp" in metadata,
        ended=status.get("phase") in {"Failed", "Succeeded"},
        weights=metadata.get("annotations", {}).get(WEIGHTS_ANNOTATION),
        placing_exit_code=placed.get("exitCode") or None,
        placing_message=(placed.get("message") or "").strip() or None,
        placing_restarts=int(placing.get("restartCount", 0)),
    )


def _waiting(placing: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return why an init container waits, unless it waits to be repeated after a failure.

    The server's own reason is then `PodInitializing`, which says nothing.
    """
    found: Mapping[str, Any] = placing.get("state", {}).get("waiting", {})
    return {} if found.get("reason") in {"PodInitializing", "CrashLoopBackOff"} else found


def _last_end(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how a container ended last, the present state before the one before it."""
    now: Mapping[str, Any] = container.get("state", {}).get("terminated") or {}
    before: Mapping[str, Any] = container.get("lastState", {}).get("terminated") or {}
    return now or before


def _digest(image_id: str) -> str | None:
    _, at, digest = image_id.rpartition("@")
    return digest if at and digest.startswith("sha256:") else None


def _pull_failing_s(pod: Mapping[str, Any], age_s: AgeOf) -> float:
    # Not counted anew while the kubelet tries again: the reason stays.
    created = pod["metadata"]["creationTimestamp"]
    return age_s(f"{pod['metadata']['uid']} pull {created}")


def _lasted_s(metadata: Mapping[str, Any], condition: Mapping[str, Any], age_s: AgeOf) -> float:
    began = condition.get("lastTransitionTime", "")
    return age_s(f"{metadata['uid']} {condition['type']} {began}")


def require_object(api: KubernetesApi, kind: str, namespace: str, name: str) -> dict[str, Any]:
    """Return an object that `slipway install` puts in place.

    Raises:
        PermanentError: it is missing; names it.
    """
    found = api.get(object_path(kind, namespace, name))
    if found is None:
        raise PermanentError(
            f"{kind} {namespace}/{name} does not exist",
            code="not-installed",
            hint="an administrator installs the service first: slipway install"
            f" {name.removeprefix('slipway-')}",
        )
    return found
