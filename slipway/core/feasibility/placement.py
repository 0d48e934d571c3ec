"""Whether nodes have room for pods that are all alike, node by node.

Pods that are alike need no search: each node takes as many as its scarcest resource allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slipway.core.feasibility.pods import requests_of
from slipway.core.feasibility.quantity import Unit, plus, shown, unit_of
from slipway.core.feasibility.values import (
    Code,
    NodeSeen,
    PodDemand,
    PodSeen,
    Shortfall,
    Taint,
    one_missing,
)

ZONE_LABEL = "topology.kubernetes.io/zone"

_KEEPS_AWAY = frozenset({"NoSchedule", "NoExecute"})

Counts = Callable[[PodSeen], bool]
"""Whether a pod's room is taken, at the moment that is asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Pods that are alike and are to run at once.

    Args:
        what: which pods, for people.
        exact: every pod on the nodes is known; else there may be less room than was seen.
    """

    what: str
    pods: int
    demand: PodDemand
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """How many pods a node takes, by each resource alone."""

    node: NodeSeen
    by_resource: dict[str, int]

    @property
    def pods(self) -> int:
        return min(self.by_resource.values())


def placement_shortfalls(
    wanted: Wanted, nodes: Sequence[NodeSeen], pods: Iterable[PodSeen], *, counts: Counts
) -> tuple[Shortfall, ...]:
    """Return why the nodes have no room for some pods; nothing when they have.

    Args:
        wanted: the pods.
        nodes: of the cluster.
        pods: that were seen on them.
        counts: whether a pod's room is taken.
    """
    demand = wanted.demand
    asked = {**requests_of(demand), "pods": 1}
    labelled = [node for node in nodes if demand.node_selector.items() <= node.labels.items()]
    if not labelled:
        return (_no_labels(wanted, nodes),)
    open_ = [node for node in labelled if not _closed_by(node, demand)]
    if not open_:
        return (_all_tainted(wanted, labelled),)
    too_small = tuple(_too_small(wanted, open_, asked))
    if too_small:
        return too_small
    used = _used(pods, counts)
    rooms = [_room(node, asked, used.get(node.name, {})) for node in open_]
    if sum(room.pods for room in rooms) < wanted.pods:
        return tuple(_no_room(wanted, rooms, asked))
    return tuple(_not_spread(wanted, rooms, labelled))


def _used(pods: Iterable[PodSeen], counts: Counts) -> dict[str, dict[str, int]]:
    used: dict[str, dict[str, int]] = {}
    for pod in pods:
        if pod.node and counts(pod):
            taken = {**requests_of(pod.demand), "pods": 1}
            used[pod.node] = plus(used.get(pod.node, {}), taken)
    return used


def _room(node: NodeSeen, asked: dict[str, int], used: dict[str, int]) -> _Room:
    fits = {
        resource: max(node.allocatable.get(resource, 0) - used.get(resource, 0), 0) // value
        for resource, value in asked.items()
        if value > 0
    }
    return _Room(node=node, by_resource=fits)


def _closed_by(node: NodeSeen, demand: PodDemand) -> tuple[Taint, ...]:
    return tuple(
        taint
        for taint in node.taints
        if taint.effect in _KEEPS_AWAY
        and not any(item.tolerates(taint) for item in demand.tolerations)
    )


def _no_labels(wanted: Wanted, nodes: Sequence[NodeSeen]) -> Shortfall:
    labels = ", ".join(f"{key}={value}" for key, value in wanted.demand.node_selector.items())
    if not labels:
        return one_missing(
            code=Code.LABELS,
            subject=wanted.what,
            unit=Unit.NODE,
            text="needs a node, and the cluster has none",
            hint="add nodes",
        )
    return one_missing(
        code=Code.LABELS,
        subject=wanted.what,
        unit=Unit.NODE,
        text=f"needs a node with {labels}, 0 of {shown(len(nodes), Unit.NODE)} have it; 1 more",
        hint="label a node, or correct resources.node_selector in the service file",
    )


def _all_tainted(wanted: Wanted, nodes: Sequence[NodeSeen]) -> Shortfall:
    taints = sorted(
        {
            f"{taint.key}{'=' if taint.value else ''}{taint.value}:{taint.effect}"
            for node in nodes
            for taint in _closed_by(node, wanted.demand)
        }
    )
    return one_missing(
        code=Code.TAINTS,
        subject=wanted.what,
        unit=Unit.NODE,
        text=f"needs a node that it may run on, {shown(len(nodes), Unit.NODE)}"
        f" with its labels, every one tainted ({', '.join(taints)}); 1 more",
        hint="remove the taint, or tolerate it: resources.tolerations in the service file",
    )


def _too_small(
    wanted: Wanted, nodes: Sequence[NodeSeen], asked: dict[str, int]
) -> Iterable[Shortfall]:
    for resource, value in asked.items():
        most = max(node.allocatable.get(resource, 0) for node in nodes)
        if most >= value:
            continue
        unit = unit_of(resource)
        yield Shortfall(
            code=Code.NODE_SIZE,
            subject=wanted.what,
            needs=value,
            free=most,
            unit=unit,
            text=f"one pod needs {_of(value, resource)} on one node, the largest has"
            f" {shown(most, unit)}; {shown(value - most, unit)} more",
            hint="add a larger node, or ask for less in the service file (resources)",
        )


def _no_room(wanted: Wanted, rooms: list[_Room], asked: dict[str, int]) -> Iterable[Shortfall]:
    found = False
    for resource, value in asked.items():
        by_zone: dict[str, int] = {}
        for room in rooms:
            zone = room.node.labels.get(ZONE_LABEL, "")
            fits = room.by_resource.get(resource, wanted.pods)
            by_zone[zone] = by_zone.get(zone, 0) + fits * value
        needs, free = wanted.pods * value, sum(by_zone.values())
        if free >= needs:
            continue
        found = True
        yield _short(wanted, resource, needs=needs, by_zone=by_zone)
    if not found:  # each resource alone would do, but not on the same nodes
        by_zone = {}
        for room in rooms:
            zone = room.node.labels.get(ZONE_LABEL, "")
            by_zone[zone] = by_zone.get(zone, 0) + room.pods
        yield _short(wanted, "pods", needs=wanted.pods, by_zone=by_zone)


def _short(wanted: Wanted, resource: str, *, needs: int, by_zone: dict[str, int]) -> Shortfall:
    unit, free = unit_of(resource), sum(by_zone.values())
    most = "" if wanted.exact else "at most "
    what = "room for pods" if unit is Unit.POD else _name(resource)
    return Shortfall(
        code=Code.GPU if unit is Unit.GPU else Code.NODE_ROOM,
        subject=wanted.what,
        needs=needs,
        free=free,
        unit=unit,
        text=f"needs {_of(needs, resource)}, {most}{shown(free, unit)} free{_where(by_zone, unit)};"
        f" {shown(needs - free, unit)} more",
        hint=f"free {what}, or add nodes that have it",
    )


def _where(by_zone: dict[str, int], unit: Unit) -> str:
    having = {zone: free for zone, free in sorted(by_zone.items()) if free}
    if not any(having):
        return ""
    if len(having) == 1:
        return f" in {next(iter(having))}"
    listed = (
        f"{zone or 'nodes without a zone'} {shown(free, unit)}" for zone, free in having.items()
    )
    return f" ({', '.join(listed)})"


def _not_spread(
    wanted: Wanted, rooms: list[_Room], labelled: Sequence[NodeSeen]
) -> Iterable[Shortfall]:
    for spread in wanted.demand.spreads:
        key = spread.topology_key
        # Nodes without the label take none; tainted ones count as a place that stays empty.
        places = {node.labels[key]: 0 for node in labelled if key in node.labels}
        for room in rooms:
            if key in room.node.labels:
                places[room.node.labels[key]] += room.pods
        least = min(places.values(), default=0)
        fits = sum(min(count, least + spread.max_skew) for count in places.values())
        if fits >= wanted.pods:
            continue
        listed = ", ".join(f"{place} {count}" for place, count in sorted(places.items())) or "none"
        yield Shortfall(
            code=Code.ZONES,
            subject=wanted.what,
            needs=wanted.pods,
            free=fits,
            unit=Unit.POD,
            text=f"needs {shown(wanted.pods, Unit.POD)} at most {spread.max_skew} apart over"
            f" {key} (room: {listed}), {fits} fit so; {wanted.pods - fits} more",
            hint="make room where there is least, or resources.zone_spread: preferred in the"
            " service file",
        )


def _of(value: int, resource: str) -> str:
    """Return an amount with the name of its resource where the unit does not say it."""
    unit = unit_of(resource)
    text = shown(value, unit)
    if unit is Unit.BYTE:
        return f"{text} of {_name(resource)}"
    return f"{text} of {resource}" if unit is Unit.PIECE else text


def _name(resource: str) -> str:
    return {"cpu": "CPUs"}.get(resource, "GPUs" if unit_of(resource) is Unit.GPU else resource)
