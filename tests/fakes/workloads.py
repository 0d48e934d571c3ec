"""The Workloads port on the fake cluster."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    RELEASE_LABEL,
    ROLE_LABEL,
    SERVICE_LABEL,
    WEIGHTS_ANNOTATION,
)
from slipway.ports.workloads import Applied, Manifest
from tests.fakes.cluster import FakeCluster, FakeDeployment, FakeEvent, FakePod, Fault, Key

_FAULT_AGE_S = 300.0
_SPEC_FIELDS = frozenset(
    {
        "minReadySeconds",
        "paused",
        "progressDeadlineSeconds",
        "replicas",
        "revisionHistoryLimit",
        "selector",
        "strategy",
        "template",
    }
)
_WAITING = {
    Fault.IMAGE_PULL: "ImagePullBackOff",
    Fault.START: "CreateContainerError",
    Fault.CRASH_LOOP: "CrashLoopBackOff",
}
_REFUSALS = {
    Fault.QUOTA: "exceeded quota: models, requested: nvidia.com/gpu=1, limited: 2",
    Fault.REFUSED: "violates PodSecurity restricted",
}


class FakeWorkloads:
    """Deployments and bare pods in memory; see `FakeCluster` for their troubles."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._journal = cluster.journal

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Applied:
        """Apply a Deployment or a pod; equal manifests change nothing."""
        self._journal.reach()
        if self._cluster.refusal is not None:
            raise self._cluster.refusal
        own: dict[str, Any] = _copied(manifest)
        key = (str(own["metadata"]["namespace"]), str(own["metadata"]["name"]))
        self._fence_off(key, own, dry_run=dry_run)
        if own["kind"] == "Pod":
            return self._apply_pod(key, own, dry_run=dry_run)
        return self._apply_deployment(key, own, dry_run=dry_run)

    def _fence_off(self, key: Key, own: dict[str, Any], *, dry_run: bool) -> None:
        cluster, kind = self._cluster, str(own["kind"])
        fence = own["metadata"].get("annotations", {}).pop(FENCE_ANNOTATION, None)
        held = cluster.pods if kind == "Pod" else cluster.deployments
        if key not in held:
            cluster.fences.pop((kind, key[1]), None)
        before = dict(cluster.fences)
        service = own["metadata"]["labels"][SERVICE_LABEL]
        number = None if fence is None else int(fence)
        cluster.fence_off(kind, key[1], number, service=service)
        if dry_run:
            cluster.fences = before

    def _apply_pod(self, key: Key, own: dict[str, Any], *, dry_run: bool) -> Applied:
        pods, cluster = self._cluster.pods, self._cluster
        pod = pods.get(key)
        if pod is None:
            image = str(own["spec"]["containers"][0]["image"])
            pod = cluster.make_pod("", image, cluster.test_pod_fault)
            pod.name = key[1]
            pod.manifest = own
            pod.weights = own["metadata"].get("annotations", {}).get(WEIGHTS_ANNOTATION)
            if not dry_run:
                if _sweeps(pod):
                    args = own["spec"]["containers"][0]["args"]
                    digests = pairwise(args)
                    cluster.swept.append(tuple(d for word, d in digests if word == "--keep"))
                pods[key] = pod
                self._journal.wrote(f"apply Pod {key[1]}")
        return Applied(kind="Pod", name=key[1], uid=pod.uid, generation=1, resource_version="1")

    def _apply_deployment(self, key: Key, own: dict[str, Any], *, dry_run: bool) -> Applied:
        cluster = self._cluster
        unknown = own["spec"].keys() - _SPEC_FIELDS
        if unknown:
            raise _unknown_fields(unknown)
        found = cluster.deployments.get(key)
        stated = "replicas" in own["spec"]
        if not stated:
            # A field that its only owner states no more is gone: the API's default comes back.
            lost = found is None or found.number_applied
            own["spec"]["replicas"] = 1 if found is None or lost else found.replicas
        changed = found is None or found.manifest != own
        if changed and not dry_run:
            found = self._store(key, found, own)
            found.number_applied = stated
            self._journal.wrote(f"apply Deployment {key[1]}")
        # A dry run answers with what would be; nothing reads more than that it was accepted.
        return Applied(
            kind="Deployment",
            name=key[1],
            uid=found.uid if found else f"uid-{cluster.number()}",
            generation=found.generation if found else 1,
            resource_version=str(found.resource_version if found else 1),
        )

    def _store(self, key: Key, found: FakeDeployment | None, own: dict[str, Any]) -> FakeDeployment:
        cluster, number = self._cluster, self._cluster.number()
        if found is None:
            found = FakeDeployment(uid=f"uid-{number}", manifest=own, resource_version=number)
            cluster.deployments[key] = found
            cluster.make_pods(found)
            return found
        before, found.manifest = found.manifest, own
        found.generation += 1
        found.resource_version = number
        if before["spec"] != own["spec"]:
            cluster.make_pods(found)
        return found

    def observe(self, namespace: str, deployment: str) -> RolloutObservation | None:
        """Look at a Deployment; looking is what makes time pass for its pods."""
        self._journal.reach()
        found = self._cluster.deployments.get((namespace, deployment))
        if found is None:
            return None
        for pod in list(found.pods):
            pod.looks_left -= 1
            if pod.terminating and pod.looks_left < 0:
                found.pods.remove(pod)
        return _observation(found)

    def pod(self, namespace: str, name: str) -> PodObservation | None:
        """Look at a bare pod."""
        self._journal.reach()
        pod = self._cluster.pods.get((namespace, name))
        if pod is None:
            return None
        pod.looks_left -= 1
        if _sweeps(pod):
            code = 65 if self._cluster.sweep_fault else 0
            return replace(_pod_observation(pod), ended=True, last_exit_code=code)
        # Nobody starts the server of a bare pod again.
        ended = pod.fault in {Fault.CRASH_LOOP, Fault.WEIGHTS}
        return replace(_pod_observation(pod), ended=ended)

    def stamp(self, namespace: str, deployment: str, *, fence: int) -> None:
        """Put a fencing number on a Deployment; a missing one is no error."""
        self._journal.reach()
        cluster = self._cluster
        found = cluster.deployments.get((namespace, deployment))
        if found is None or cluster.fences.get(("Deployment", deployment)) == fence:
            return
        service = found.manifest["metadata"]["labels"][SERVICE_LABEL]
        cluster.fence_off("Deployment", deployment, fence, service=service)
        found.generation += 1
        found.resource_version = cluster.number()
        self._journal.wrote(f"stamp Deployment {deployment}")

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
        """Set the replicas of a Deployment that is as it was observed."""
        self._journal.reach()
        cluster = self._cluster
        found = cluster.deployments.get((namespace, deployment))
        if found is None:
            return
        if found.uid != uid:
            raise _replaced("Deployment", deployment)
        if str(found.resource_version) != resource_version:
            raise _changed("Deployment", deployment)
        service = found.manifest["metadata"]["labels"][SERVICE_LABEL]
        cluster.fence_off("Deployment", deployment, fence, service=service)
        if found.replicas == replicas:
            return
        cluster.resize(found, replicas)
        self._journal.wrote(f"scale {deployment} to {replicas}")

    def unlabel(
        self, namespace: str, deployment: str, labels: Sequence[str], *, fence: int | None = None
    ) -> None:
        """Take labels off the pod template."""
        self._journal.reach()
        found = self._cluster.deployments.get((namespace, deployment))
        if found is None:
            return
        assert not found.pods, f"{deployment} would replace {len(found.pods)} pods"
        service = found.manifest["metadata"]["labels"][SERVICE_LABEL]
        self._cluster.fence_off("Deployment", deployment, fence, service=service)
        carried = found.manifest["spec"]["template"]["metadata"]["labels"]
        if carried.keys() & set(labels):
            for label in labels:
                carried.pop(label, None)
            self._journal.wrote(f"unlabel {deployment}")

    def delete(self, kind: str, namespace: str, name: str, *, uid: str, wait: bool = True) -> None:
        """Delete an object; a missing one is no error."""
        self._journal.reach()
        key = (namespace, name)
        held: dict[Key, FakeDeployment] | dict[Key, FakePod] = (
            self._cluster.pods if kind == "Pod" else self._cluster.deployments
        )
        found = held.get(key)
        if found is None:
            return
        if found.uid != uid:
            raise _replaced(kind, name)
        del held[key]
        self._journal.wrote(f"delete {kind} {name}")

    def log_tail(self, namespace: str, pod: str, *, lines: int) -> str:
        """Return what a server that ends says."""
        self._journal.reach()
        return "cannot load the model"

    def event(
        self, namespace: str, service: str, *, reason: str, message: str, warning: bool
    ) -> None:
        """Keep an event."""
        self._journal.reach()
        self._cluster.events.append(
            FakeEvent(service=service, reason=reason, message=message, warning=warning)
        )


def _observation(found: FakeDeployment) -> RolloutObservation:
    refusal = _REFUSALS.get(found.fault) if len(found.pods) < found.replicas else None
    return RolloutObservation(
        name=found.name,
        uid=found.uid,
        resource_version=str(found.resource_version),
        generation=found.generation,
        observed_generation=found.generation,
        desired=found.replicas,
        replicas=len(found.pods),
        updated=len(found.pods),
        available=sum(pod.ready for pod in found.pods),
        pods=tuple(_pod_observation(pod) for pod in found.pods),
        replica_failure=refusal,
        replica_failure_s=_FAULT_AGE_S if refusal else 0.0,
        deadline_exceeded=found.fault is Fault.DEADLINE,
        release_id=found.labels.get(RELEASE_LABEL),
    )


def _pod_observation(pod: FakePod) -> PodObservation:
    return _seen(
        name=pod.name,
        uid=pod.uid,
        image=pod.image,
        address=pod.address,
        weights=pod.weights,
        fault=pod.fault,
        ready=pod.ready,
        terminating=pod.terminating,
    )


@lru_cache(maxsize=1024)
def _seen(
    *,
    name: str,
    uid: str,
    image: str,
    address: str,
    weights: str | None,
    fault: Fault,
    ready: bool,
    terminating: bool,
) -> PodObservation:
    """Return what is seen of a pod: mostly the same as at the last look."""
    lost = fault is Fault.UNSCHEDULABLE
    crashed = fault is Fault.CRASH_LOOP
    pulled = fault is not Fault.IMAGE_PULL and not lost
    return PodObservation(
        name=name,
        uid=uid,
        ready=ready,
        restarts=3 if crashed else 0,
        image_digest=image.rpartition("@")[2] if pulled else None,
        address=None if lost else address,
        waiting_reason=_WAITING.get(fault),
        waiting_message="the cluster's own words" if fault in _WAITING else None,
        last_exit_code=1 if crashed else None,
        unschedulable_s=_FAULT_AGE_S if lost else None,
        unschedulable_message="0/2 nodes are available" if lost else None,
        terminating=terminating,
        weights=weights,
        placing_exit_code=65 if fault is Fault.WEIGHTS else None,
        placing_message="checksum-mismatch: other bytes" if fault is Fault.WEIGHTS else None,
    )


def _copied(value: Any) -> Any:
    """Return a copy of plain JSON; `copy.deepcopy` takes four times as long."""
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list | tuple) else value


def _sweeps(pod: FakePod) -> bool:
    return bool(pod.manifest) and pod.manifest["metadata"]["labels"].get(ROLE_LABEL) == "sweep"


def _replaced(kind: str, name: str) -> ConflictError:
    return ConflictError(
        f"{kind} {name} was replaced by another one",
        code="conflict",
        hint="the object changed meanwhile; read it again",
    )


def _changed(kind: str, name: str) -> ConflictError:
    return ConflictError(
        f"{kind} {name} changed meanwhile",
        code="conflict",
        hint="the object changed meanwhile; read it again",
    )


def _unknown_fields(names: Set[str]) -> PermanentError:
    return PermanentError(
        f"apply: strict decoding error: unknown field {', '.join(sorted(names))}",
        code="refused-by-cluster",
        hint="correct what the server's message names",
    )


def quota_refusal() -> PermanentError:
    """Return what the API server answers to an apply beyond the quota."""
    return PermanentError(
        "apply: exceeded quota", code="quota-exceeded", hint="raise the ResourceQuota"
    )
