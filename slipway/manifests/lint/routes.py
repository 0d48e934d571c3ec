"""Routes: L1 to L3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from slipway.manifests.lint.finding import (
    Finding,
    host,
    namespace,
    of_kind,
    pod_labels,
    subject,
)
from slipway.ports.workloads import Manifest

_MESH = "mesh"


def undefined_subsets(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L1: a route names a subset that no DestinationRule defines; Envoy answers 503 NC."""
    defined = {
        (host(rule["spec"]["host"], rule), subset["name"])
        for rule in of_kind(objects, "DestinationRule")
        for subset in _subsets(rule)
    }
    for service in of_kind(objects, "VirtualService"):
        for rule in service["spec"].get("http") or ():
            for target, subset in _destinations(rule, service):
                if (target, subset) not in defined:
                    yield Finding(
                        rule="L1",
                        subject=subject(service),
                        message=f"rule {rule.get('name', 'without name')} routes to subset {subset}"
                        f" of {target}, which no DestinationRule defines: such requests get 503",
                        hint="write the DestinationRule with this subset before the route",
                    )


def _destinations(rule: Mapping[str, Any], owner: Manifest) -> Iterator[tuple[str, str]]:
    mirrors = [
        *(rule.get("mirrors") or ()),
        *([{"destination": rule["mirror"]}] if "mirror" in rule else ()),
    ]
    for item in (*(rule.get("route") or ()), *mirrors):
        destination = item["destination"]
        if "subset" in destination:
            yield host(destination["host"], owner), destination["subset"]


def wrong_subsets(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L2: a subset's labels select the pods of no workload, or of several."""
    services = {
        host(service["metadata"]["name"], service): service
        for service in of_kind(objects, "Service")
    }
    for rule in of_kind(objects, "DestinationRule"):
        service = services.get(host(rule["spec"]["host"], rule))
        behind = (service["spec"].get("selector") or {}) if service else {}
        for subset in _subsets(rule):
            if _has_another_behind(subset):
                continue  # on purpose the pods of both
            wanted = {**behind, **(subset.get("labels") or {})}
            found = [
                workload
                for workload in of_kind(objects, "Deployment")
                if namespace(workload) == namespace(rule)
                and wanted.items() <= pod_labels(workload).items()
            ]
            if len(found) != 1:
                names = ", ".join(subject(item) for item in found) or "no Deployment"
                yield Finding(
                    rule="L2",
                    subject=subject(rule),
                    message=f"subset {subset['name']} selects the pods of {names}",
                    hint="give each slot's pods a label value of their own and select by it",
                )


def _has_another_behind(subset: Mapping[str, Any]) -> bool:
    balance = (subset.get("trafficPolicy") or {}).get("loadBalancer") or {}
    return bool((balance.get("localityLbSetting") or {}).get("failoverPriority"))


def split_bindings(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L3: one VirtualService binds a host to the mesh alone, another one to gateways alone.

    "Route rules have no effect on ingress gateway requests" (Istio, network issues): a canary that
    binds to the mesh is ignored by the gateway, which goes on by the rules of another object.
    """
    services = of_kind(objects, "VirtualService")
    for service in services:
        if _gateways(service) != {_MESH}:
            continue
        for other in services:
            shared = [name for name in _routed_hosts(service) if name in _routed_hosts(other)]
            if shared and _MESH not in _gateways(other):
                yield Finding(
                    rule="L3",
                    subject=subject(service),
                    message=f"it binds {shared[0]} to the mesh alone: requests through"
                    f" {', '.join(sorted(_gateways(other)))} go by {subject(other)}, which binds it"
                    " to gateways alone",
                    hint="bind one VirtualService of a host to the gateway and to mesh alike",
                )


def _routed_hosts(service: Manifest) -> tuple[str, ...]:
    """Return the hosts that a VirtualService sends requests to, each once."""
    routes = (
        item for rule in service["spec"].get("http") or () for item in rule.get("route") or ()
    )
    return tuple(dict.fromkeys(host(item["destination"]["host"], service) for item in routes))


def _gateways(service: Manifest) -> frozenset[str]:
    return frozenset(service["spec"].get("gateways") or (_MESH,))


def _subsets(rule: Manifest) -> Iterable[Mapping[str, Any]]:
    return rule["spec"].get("subsets") or ()
