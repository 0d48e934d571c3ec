"""The Preflight port on the fake cluster: its objects as an API server would show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from slipway.core.feasibility.pods import charge
from slipway.core.feasibility.quantity import amounts, plus
from slipway.core.feasibility.values import Certificate, Right, Unseen
from slipway.manifests.footprint import pod_demand
from slipway.ports.workloads import Look
from tests.fakes.cluster import FakeCluster, FakeDeployment, FakePod

Manifest = dict[str, Any]


def node(name: str, zone: str, *, gpus: int = 8, cpu: str = "64") -> Manifest:
    """Return a node as the API shows it."""
    room = {"cpu": cpu, "memory": "256Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "spec": {},
        "status": {"allocatable": room},
    }


class FakePreflight:
    """What is to be seen of a fake cluster.

    Attributes:
        node_objects: of the cluster; its pods lie on them in turn.
        others: objects that no port of ours made: quotas, limit ranges, budgets, foreign pods.
        denied: rights that we do not have, as they are named.
        hidden: what may not be read: `nodes`, `pods`, or a kind of a namespace's objects.
        shown: what the gateway shows for each host; none speaks plain HTTP.
    """

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._journal = cluster.journal
        self.node_objects = [node("node-a", "zone-a"), node("node-b", "zone-b")]
        self.others: list[Manifest] = []
        self.denied: set[str] = set()
        self.hidden: set[str] = set()
        self.shown: dict[str, Certificate] = {}

    def missing_rights(self, rights: Sequence[Right]) -> tuple[Right, ...]:
        """Return those that are denied."""
        self._journal.reach()
        return tuple(right for right in rights if str(right) in self.denied)

    def namespace(self, namespace: str) -> Look:
        """Return what is in a namespace."""
        self._journal.reach()
        pods = self._pods()
        every = [*self._deployments(), *pods, *self._autoscalers(), *self._counted(pods)]
        here = [item for item in every if item["metadata"]["namespace"] == namespace]
        return Look(
            objects=tuple(item for item in here if item["kind"] not in self.hidden),
            unseen=tuple(
                Unseen(what=f"{kind}s in {namespace}", why="not allowed to read them")
                for kind in sorted(self.hidden - {"nodes", "pods"})
            ),
        )

    def routes(self, namespace: str, names: Sequence[tuple[str, str]]) -> Look:
        """Return nothing: the fake cluster keeps routes as values."""
        self._journal.reach()
        return Look(objects=())

    def nodes(self) -> Look:
        """Return the nodes."""
        self._journal.reach()
        if "nodes" in self.hidden:
            return _hidden("Nodes in all namespaces")
        return Look(objects=tuple(self.node_objects))

    def pods(self) -> Look:
        """Return the pods of all namespaces."""
        self._journal.reach()
        if "pods" in self.hidden:
            return _hidden("Pods in all namespaces")
        return Look(objects=tuple(self._pods()))

    def certificate(self, host: str) -> Certificate | None:
        """Return what is shown for a host."""
        self._journal.reach()
        return self.shown.get(host)

    def add_quota(self, name: str, hard: dict[str, str], *, namespace: str = "serving") -> None:
        """Let a quota count the pods of a namespace from now on."""
        meta = {"name": name, "namespace": namespace}
        self.others.append({"kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}})

    def add_pod(self, name: str, spec: Manifest, *, namespace: str = "other", **meta: Any) -> None:
        """Let somebody else run a pod."""
        meta = {"name": name, "namespace": namespace, **meta}
        self.others.append(
            {"kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": "Running"}}
        )

    def _counted(self, pods: list[Manifest]) -> Iterator[Manifest]:
        for item in self.others:
            if item["kind"] == "ResourceQuota":
                here = [
                    charge(pod_demand(pod["spec"]))
                    for pod in pods
                    if pod["metadata"]["namespace"] == item["metadata"]["namespace"]
                ]
                used = _as_quantities(plus(*here))
                yield {**item, "status": {"hard": item["spec"]["hard"], "used": used}}
            elif item["kind"] != "Pod":
                yield item

    def _deployments(self) -> Iterator[Manifest]:
        for (namespace, _), found in self._cluster.deployments.items():
            meta = {**found.manifest["metadata"], "namespace": namespace}
            yield {**found.manifest, "kind": "Deployment", "metadata": meta}

    def _autoscalers(self) -> Iterator[Manifest]:
        for item in self._cluster.autoscalers.values():
            yield item.manifest

    def _pods(self) -> list[Manifest]:
        owned = [
            _of_deployment(found, pod, namespace)
            for (namespace, _), found in self._cluster.deployments.items()
            for pod in found.pods
        ]
        bare = [pod.manifest for pod in self._cluster.pods.values() if pod.manifest]
        foreign = [item for item in self.others if item["kind"] == "Pod"]
        return [self._placed(index, item) for index, item in enumerate([*owned, *bare, *foreign])]

    def _placed(self, index: int, pod: Manifest) -> Manifest:
        if "nodeName" in pod["spec"] or not self.node_objects:
            return pod
        name = self.node_objects[index % len(self.node_objects)]["metadata"]["name"]
        return {**pod, "spec": {**pod["spec"], "nodeName": name}}


def _of_deployment(found: FakeDeployment, pod: FakePod, namespace: str) -> Manifest:
    template = found.manifest["spec"]["template"]
    meta: Manifest = {
        **template["metadata"],
        "name": pod.name,
        "namespace": namespace,
        "ownerReferences": [{"kind": "ReplicaSet", "name": found.name}],
    }
    if pod.terminating:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "kind": "Pod",
        "metadata": meta,
        "spec": template["spec"],
        "status": {"phase": "Running"},
    }


def _as_quantities(found: dict[str, int]) -> dict[str, str]:
    cpu = {name for name in found if amounts({name: "1"})[name] == 1000}
    return {name: f"{value}m" if name in cpu else str(value) for name, value in found.items()}


def _hidden(what: str) -> Look:
    return Look(objects=(), unseen=(Unseen(what=what, why="not allowed to read them"),))
