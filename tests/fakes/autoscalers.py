"""The Autoscalers port on the fake cluster, and the controller that acts on its objects."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from slipway.adapters.kubernetes_autoscalers import unknown_kind
from slipway.core.errors import ConflictError
from slipway.core.release.scaling import Autoscaler
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT, floor_patch, read_autoscalers
from slipway.manifests.names import FENCE_ANNOTATION, SERVICE_LABEL
from slipway.ports.workloads import Manifest
from tests.fakes.cluster import FakeAutoscaler, FakeCluster

_LEAST = {HPA: "minReplicas", SCALED_OBJECT: "minReplicaCount"}
_MOST = {HPA: "maxReplicas", SCALED_OBJECT: "maxReplicaCount"}


class FakeAutoscalers:
    """What scales Deployments, in memory."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._journal = cluster.journal

    def find(self, namespace: str, deployments: Sequence[str]) -> tuple[Autoscaler, ...]:
        """Return whatever scales one of these Deployments."""
        self._journal.reach()
        found = read_autoscalers(
            _shown(item) for key, item in self._cluster.autoscalers.items() if key[0] == namespace
        )
        return tuple(item for item in found if item.target in deployments)

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> None:
        """Apply an object; equal ones change nothing."""
        self._journal.reach()
        if manifest["kind"] in self._cluster.unknown_kinds:
            raise unknown_kind(manifest["kind"])
        own: dict[str, Any] = copy.deepcopy(dict(manifest))
        meta, cluster = own["metadata"], self._cluster
        key = (str(meta["namespace"]), str(own["kind"]), str(meta["name"]))
        fence = meta.get("annotations", {}).pop(FENCE_ANNOTATION, None)
        found = cluster.autoscalers.get(key)
        if found is None:
            cluster.fences.pop((key[1], key[2]), None)
        number, before = None if fence is None else int(fence), dict(cluster.fences)
        cluster.fence_off(key[1], key[2], number, service=meta["labels"][SERVICE_LABEL])
        if dry_run:
            cluster.fences = before
        if dry_run or (found is not None and found.manifest == own):
            return
        uid = f"uid-{cluster.number()}" if found is None else found.uid
        cluster.autoscalers[key] = FakeAutoscaler(
            uid=uid, manifest=own, resource_version=cluster.number()
        )
        floor = own["spec"][_LEAST[key[1]]]
        self._journal.wrote(f"apply {key[1]} {key[2]}, at least {floor}")

    def stamp(self, namespace: str, found: Autoscaler, *, fence: int) -> None:
        """Put a fencing number on an object; a missing one is no error."""
        self._journal.reach()
        held, cluster = self._held(namespace, found), self._cluster
        if held is None or cluster.fences.get((found.kind, found.name)) == fence:
            return
        cluster.fence_off(found.kind, found.name, fence, service=_service(held))
        held.resource_version = cluster.number()
        self._journal.wrote(f"stamp {found.kind} {found.name}")

    def set_floor(
        self, namespace: str, found: Autoscaler, floor: int, *, fence: int | None = None
    ) -> None:
        """Set the least number of pods; a missing object is no error."""
        self._journal.reach()
        held = self._held(namespace, found)
        if held is None:
            return
        if held.uid != found.uid:
            raise _changed(found)
        self._cluster.fence_off(found.kind, found.name, fence, service=_service(held))
        held.manifest["spec"].update(floor_patch(found, floor, fence=fence)["spec"])
        held.resource_version = self._cluster.number()
        self._journal.wrote(f"floor of {found.kind} {found.name} {floor}")

    def remove(self, namespace: str, found: Autoscaler) -> None:
        """Delete an object that is as it was found; a missing one is no error."""
        self._journal.reach()
        held = self._held(namespace, found)
        if held is None:
            return
        if (held.uid, str(held.resource_version)) != (found.uid, found.resource_version):
            raise _changed(found)
        del self._cluster.autoscalers[namespace, found.kind, found.name]
        self._journal.wrote(f"remove {found.kind} {found.name}")

    def _held(self, namespace: str, found: Autoscaler) -> FakeAutoscaler | None:
        return self._cluster.autoscalers.get((namespace, found.kind, found.name))


class FakeAutoscalerController:
    """Scales Deployments by a load that tests set, as the controllers of HPA and KEDA do.

    Attributes:
        users_need: pods that all users need; whoever sets it divides it into `load`.
        load: pods that each Deployment's users need, by its name; none is a metric without data.
        scaled: each change of a number, in order: name, before, after.
    """

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self.users_need = 0
        self.load: dict[str, int] = {}
        self.scaled: list[tuple[str, int, int]] = []

    def sync(self) -> None:
        """Look at every object once."""
        for (namespace, kind, _), item in tuple(self._cluster.autoscalers.items()):
            spec = item.manifest["spec"]
            target = self._cluster.deployments.get((namespace, spec["scaleTargetRef"]["name"]))
            if target is None or (kind == HPA and target.replicas == 0):
                continue  # an HPA leaves a Deployment of no pods alone; KEDA wakes it
            wanted = self.load.get(target.name, target.replicas)
            number = min(max(wanted, spec[_LEAST[kind]]), spec[_MOST[kind]])
            if number != target.replicas:
                self.scaled.append((target.name, target.replicas, number))
                self._cluster.resize(target, number)


def _shown(item: FakeAutoscaler) -> dict[str, Any]:
    meta = {
        **item.manifest["metadata"],
        "uid": item.uid,
        "resourceVersion": str(item.resource_version),
    }
    return {**item.manifest, "metadata": meta}


def _service(item: FakeAutoscaler) -> str:
    return str(item.manifest["metadata"]["labels"][SERVICE_LABEL])


def _changed(found: Autoscaler) -> ConflictError:
    return ConflictError(
        f"{found.kind} {found.name} changed meanwhile",
        code="conflict",
        hint="the object changed meanwhile; read it again",
    )
