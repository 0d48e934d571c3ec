"""The objects of a service that is live today, found among those of its cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.core.routing import Slot
from slipway.core.service import RouterKind, ServiceSpec
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT
from slipway.manifests.lint.finding import host, namespace, of_kind, pod_labels, scales, subject
from slipway.manifests.names import host_of
from slipway.ports.workloads import Manifest

ROUTE_KINDS: Mapping[RouterKind, str] = {
    RouterKind.ISTIO: "VirtualService",
    RouterKind.GATEWAY_API: "HTTPRoute",
}
"""What divides the users by each router; a plain Service has nothing beside itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why a service cannot be taken over as it is.

    Args:
        subject: the object, `KIND/NAMESPACE/NAME`.
        message: what is in the way.
        hint: what to do.
    """

    subject: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message} → {self.hint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What serves today, object by object as the API shows it.

    Args:
        slot: that it becomes.
        service: the Kubernetes Service that users reach the pods by.
        deployment: of the pods.
        routes: that bring the service's hosts to it, in their order.
        rules: DestinationRules for the Service's host.
        scalers: what decides how many pods there are.
    """

    slot: Slot
    service: Manifest
    deployment: Manifest
    routes: tuple[Manifest, ...] = ()
    rules: tuple[Manifest, ...] = ()
    scalers: tuple[Manifest, ...] = ()

    @property
    def workload(self) -> str:
        """Name of its Deployment."""
        return str(self.deployment["metadata"]["name"])

    @property
    def objects(self) -> tuple[Manifest, ...]:
        """All of them."""
        return (self.service, self.deployment, *self.routes, *self.rules, *self.scalers)


def find_live(
    spec: ServiceSpec, objects: Sequence[Manifest]
) -> tuple[Live | None, tuple[Obstacle, ...]]:
    """Return what is live of a service, or why that cannot be told.

    Args:
        spec: the service as its file states it.
        objects: Services, Deployments and autoscalers of its namespace; routes and DestinationRules
            of all namespaces.
    """
    service = _named(objects, "Service", spec)
    if service is None:
        return None, (
            Obstacle(
                subject=f"Service/{spec.namespace}/{spec.name}",
                message="there is none, so nothing of this service is live",
                hint="call the service in its file as the Kubernetes Service that its users reach"
                f" the pods by, or release it anew: slipway release {spec.name} VERSION",
            ),
        )
    behind = tuple(_workloads_behind(service, objects))
    if len(behind) != 1:
        return None, (_no_single_workload(service, behind),)
    (deployment,) = behind
    live = Live(
        slot=Slot.BLUE,
        service=service,
        deployment=deployment,
        routes=tuple(_routes(spec, objects)),
        rules=tuple(_rules(spec, objects)),
        scalers=tuple(
            item
            for item in (*of_kind(objects, HPA), *of_kind(objects, SCALED_OBJECT))
            if scales(item, deployment) and not _is_part_of_another(item)
        ),
    )
    return live, ()


def _named(objects: Sequence[Manifest], kind: str, spec: ServiceSpec) -> Manifest | None:
    found = (item for item in of_kind(objects, kind) if namespace(item) == spec.namespace)
    return next((item for item in found if item["metadata"]["name"] == spec.name), None)


def _workloads_behind(service: Manifest, objects: Sequence[Manifest]) -> Iterator[Manifest]:
    selector = service["spec"].get("selector") or {}
    for item in of_kind(objects, "Deployment"):
        same = namespace(item) == namespace(service)
        if selector and same and selector.items() <= pod_labels(item).items():
            yield item


def _no_single_workload(service: Manifest, found: Sequence[Manifest]) -> Obstacle:
    if not found:
        return Obstacle(
            subject=subject(service),
            message="it selects the pods of no Deployment",
            hint="only pods of a Deployment can be taken over (no StatefulSet, no bare pods, no"
            " Service without selector)",
        )
    return Obstacle(
        subject=subject(service),
        message=f"it selects the pods of {', '.join(subject(item) for item in found)}",
        hint="leave one of them; a release makes the second one again when it is needed",
    )


def _routes(spec: ServiceSpec, objects: Sequence[Manifest]) -> Iterator[Manifest]:
    kind = ROUTE_KINDS.get(spec.router.kind, "")
    for item in sorted(of_kind(objects, kind), key=_age):
        if set(route_hosts(item)) & set(spec.hosts) and spec.router.gateway in route_gateways(item):
            yield item


def route_hosts(route: Manifest) -> tuple[str, ...]:
    """Return the host names that a VirtualService or an HTTPRoute is for."""
    spec = route["spec"]
    return tuple(spec.get("hosts" if route["kind"] == "VirtualService" else "hostnames") or ())


def route_gateways(route: Manifest) -> tuple[str, ...]:
    """Return the gateways of a VirtualService or an HTTPRoute, `NAMESPACE/NAME`; also `mesh`."""
    own = namespace(route)
    if route["kind"] == "VirtualService":
        names = route["spec"].get("gateways") or ("mesh",)
        return tuple(name if "/" in name or name == "mesh" else f"{own}/{name}" for name in names)
    parents = route["spec"].get("parentRefs") or ()
    return tuple(f"{item.get('namespace', own)}/{item['name']}" for item in parents)


def _rules(spec: ServiceSpec, objects: Sequence[Manifest]) -> Iterator[Manifest]:
    wanted = host_of(spec.name, spec.namespace)
    for item in sorted(of_kind(objects, "DestinationRule"), key=_age):
        if host(item["spec"]["host"], item) == wanted:
            yield item


def _age(item: Manifest) -> tuple[str, str]:
    meta: Mapping[str, Any] = item["metadata"]
    return str(meta.get("creationTimestamp", "")), str(meta["name"])


def _is_part_of_another(item: Manifest) -> bool:
    """Return whether KEDA made it for an object of its own."""
    owners = item["metadata"].get("ownerReferences") or ()
    return any(owner["kind"] == SCALED_OBJECT for owner in owners)
