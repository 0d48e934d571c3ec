"""Pods of faulted services: which they are, and at which address their doors stand. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.sandbox.faults.model import Fault, Place
from slipway.sandbox.network.addresses import NODE_PREFIX, door_address, node_address

_SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True, order=True)
class PodPort:
    """One port of one pod, on loopback."""

    address: str
    port: int

    @property
    def door_address(self) -> str:
        """The address of its door."""
        return door_address(self.address)


def faulted_pods(
    faults: Iterable[Fault], slices: Sequence[dict[str, Any]]
) -> dict[PodPort, tuple[Fault, ...]]:
    """Return the ports of pods that the faults hit, each with its faults in their order.

    Args:
        faults: on services and pods; others are left out.
        slices: EndpointSlices (discovery.k8s.io/v1) of the namespaces concerned.
    """
    found: dict[PodPort, list[Fault]] = {}
    for fault in faults:
        for one in slices:
            for endpoint in one.get("endpoints") or []:
                if not _hits(fault, one, endpoint):
                    continue
                for pod_port in _ports(one, endpoint):
                    mine = found.setdefault(pod_port, [])
                    if fault not in mine:  # a pod may stand in slices of several services
                        mine.append(fault)
    return {pod_port: tuple(mine) for pod_port, mine in found.items()}


def namespaces(faults: Iterable[Fault]) -> tuple[str, ...]:
    """Return the namespaces in which faults on services and pods lie, sorted."""
    return tuple(sorted({fault.target.namespace for fault in faults if is_gateway_fault(fault)}))


def is_gateway_fault(fault: Fault) -> bool:
    """Whether the fault lies between the gateway and pods."""
    return fault.target.place in {Place.SERVICE, Place.POD}


def _hits(fault: Fault, one: dict[str, Any], endpoint: dict[str, Any]) -> bool:
    target, about = fault.target, one["metadata"]
    if not is_gateway_fault(fault) or about.get("namespace") != target.namespace:
        return False
    if target.place is Place.SERVICE:
        return bool((about.get("labels") or {}).get(_SERVICE_LABEL) == target.name)
    return bool((endpoint.get("targetRef") or {}).get("name") == target.name)


def _ports(one: dict[str, Any], endpoint: dict[str, Any]) -> tuple[PodPort, ...]:
    return tuple(
        PodPort(node_address(address), entry["port"])
        for address in endpoint.get("addresses") or []
        for entry in one.get("ports") or []
        if node_address(address).startswith(NODE_PREFIX) and entry.get("port")
    )
