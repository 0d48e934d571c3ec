"""What Kubernetes objects say of room: pods, nodes, quotas and limit ranges, as core values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from slipway.core.feasibility.quantity import amounts, parse_quantity
from slipway.core.feasibility.values import (
    Budget,
    Container,
    Limit,
    NodeSeen,
    PodDemand,
    PodSeen,
    Quota,
    Role,
    Spread,
    Taint,
    Toleration,
    Unseen,
)
from slipway.manifests.label_selectors import matches
from slipway.ports.workloads import Manifest

_CORDONED = "node.kubernetes.io/unschedulable"
_ENDED = frozenset({"Succeeded", "Failed"})
_KNOWN_SCOPES = frozenset({"Terminating", "NotTerminating", "BestEffort", "NotBestEffort"})


def pod_demand(spec: Mapping[str, Any]) -> PodDemand:
    """Return what the pod of a pod spec asks for.

    An extended resource that is only limited is requested too, as the API server fills it in.
    """
    starting = (
        _container(item, init=True, sidecar=item.get("restartPolicy") == "Always")
        for item in spec.get("initContainers") or ()
    )
    serving = (_container(item) for item in spec["containers"])
    return PodDemand(
        containers=(*starting, *serving),
        node_selector=spec.get("nodeSelector") or {},
        tolerations=tuple(_toleration(item) for item in spec.get("tolerations") or ()),
        spreads=tuple(
            Spread(topology_key=item["topologyKey"], max_skew=item["maxSkew"])
            for item in spec.get("topologySpreadConstraints") or ()
            if item["whenUnsatisfiable"] == "DoNotSchedule"
        ),
        overhead=amounts(spec.get("overhead")),
        has_deadline="activeDeadlineSeconds" in spec,
    )


def _container(item: Mapping[str, Any], *, init: bool = False, sidecar: bool = False) -> Container:
    stated = item.get("resources") or {}
    limits = amounts(stated.get("limits"))
    return Container(
        name=item["name"],
        requests={**limits, **amounts(stated.get("requests"))},
        limits=limits,
        init=init,
        sidecar=sidecar,
    )


def _toleration(item: Mapping[str, Any]) -> Toleration:
    return Toleration(
        key=item.get("key", ""),
        operator=item.get("operator", "Equal"),
        value=item.get("value", ""),
        effect=item.get("effect", ""),
    )


def pods_seen(
    objects: Iterable[Manifest], *, namespace: str, roles: Mapping[Role, Mapping[str, str]]
) -> tuple[PodSeen, ...]:
    """Return the pods that have not ended.

    Args:
        objects: of any kind.
        namespace: of the service.
        roles: labels by which a pod of the service's namespace has a role; every one must match.
    """
    return tuple(
        PodSeen(
            namespace=item["metadata"]["namespace"],
            name=item["metadata"]["name"],
            node=item["spec"].get("nodeName", ""),
            demand=pod_demand(item["spec"]),
            ours=_role(item, namespace, roles),
            ending="deletionTimestamp" in item["metadata"],
        )
        for item in objects
        if item["kind"] == "Pod" and item.get("status", {}).get("phase") not in _ENDED
    )


def _role(item: Manifest, namespace: str, roles: Mapping[Role, Mapping[str, str]]) -> Role:
    if item["metadata"]["namespace"] != namespace:
        return Role.OTHER
    labels = item["metadata"].get("labels") or {}
    found = (role for role, asked in roles.items() if asked.items() <= labels.items())
    return next(found, Role.OTHER)


def nodes_seen(objects: Iterable[Manifest]) -> tuple[NodeSeen, ...]:
    """Return the nodes among objects."""
    return tuple(
        NodeSeen(
            name=item["metadata"]["name"],
            labels=item["metadata"].get("labels") or {},
            taints=tuple(_taints(item["spec"])),
            allocatable=amounts(item["status"].get("allocatable")),
        )
        for item in objects
        if item["kind"] == "Node"
    )


def _taints(spec: Mapping[str, Any]) -> Iterator[Taint]:
    stated = spec.get("taints") or ()
    for item in stated:
        yield Taint(key=item["key"], value=item.get("value", ""), effect=item["effect"])
    # A cordoned node takes no pod even before its controller has written the taint.
    if spec.get("unschedulable") and not any(item["key"] == _CORDONED for item in stated):
        yield Taint(key=_CORDONED, value="", effect="NoSchedule")


def quotas_seen(objects: Iterable[Manifest]) -> tuple[tuple[Quota, ...], tuple[Unseen, ...]]:
    """Return the quotas among objects, and those that count pods by what is not known here.

    A quota that nobody has counted yet (its status is empty) lets every pod wait, so it counts as
    used up to nothing: its own limits hold.
    """
    quotas: list[Quota] = []
    unseen: list[Unseen] = []
    for item in objects:
        if item["kind"] != "ResourceQuota":
            continue
        name, spec = item["metadata"]["name"], item["spec"]
        status = item.get("status") or {}
        scopes = tuple(spec.get("scopes") or ())
        if spec.get("scopeSelector") or not _KNOWN_SCOPES.issuperset(scopes):
            why = "it counts pods by priority class or affinity, which admission may set"
            unseen.append(Unseen(what=f"ResourceQuota {name}", why=why))
            continue
        quotas.append(
            Quota(
                name=name,
                hard=amounts(spec.get("hard")),
                used=amounts(status.get("used")),
                scopes=scopes,
            )
        )
    return tuple(quotas), tuple(unseen)


def limits_seen(objects: Iterable[Manifest]) -> tuple[Limit, ...]:
    """Return the items of LimitRanges among objects that are about containers and pods."""
    return tuple(
        Limit(
            name=item["metadata"]["name"],
            kind=limit["type"],
            least=amounts(limit.get("min")),
            most=amounts(limit.get("max")),
            default_limits=amounts(limit.get("default")),
            default_requests=amounts(limit.get("defaultRequest")),
            ratios={
                resource: parse_quantity(ratio)
                for resource, ratio in (limit.get("maxLimitRequestRatio") or {}).items()
            },
        )
        for item in objects
        if item["kind"] == "LimitRange"
        for limit in item["spec"]["limits"]
        if limit["type"] in {"Container", "Pod"}
    )


def budgets_seen(objects: Iterable[Manifest], labels: Mapping[str, str]) -> tuple[Budget, ...]:
    """Return the PodDisruptionBudgets among objects that select a pod of these labels."""
    return tuple(
        Budget(
            name=item["metadata"]["name"],
            min_available=item["spec"].get("minAvailable"),
            max_unavailable=item["spec"].get("maxUnavailable"),
        )
        for item in objects
        if item["kind"] == "PodDisruptionBudget"
        and item["spec"].get("selector") is not None
        and matches(item["spec"]["selector"], labels)
    )
