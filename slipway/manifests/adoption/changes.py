"""What an adoption writes, and what gives everything back: objects and patches, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slipway.core.routing import Route, all_to
from slipway.core.service import RouterKind, ServiceSpec
from slipway.manifests.adoption.live import Live
from slipway.manifests.adoption.originals import as_it_was, identity, others_than
from slipway.manifests.adoption.routes import read_by_hand, rules_key
from slipway.manifests.lint.finding import subject
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    SERVES_LABEL,
    SERVICE_LABEL,
    Object,
    host_of,
    slot_labels,
)
from slipway.manifests.routes.plain import plain_services
from slipway.manifests.routes.routers import route_objects
from slipway.ports.traffic import Backend
from slipway.ports.workloads import Manifest

ADOPTED_ANNOTATION = "slipway.dev/adopted"
"""On the Service of an adopted service: an installation leaves it as it is."""

_ATOMIC = frozenset({"VirtualService", "DestinationRule", "HTTPRoute"})


def is_adopted(service: Manifest) -> bool:
    """Return whether a Service was there before Slipway: its ports are its owner's."""
    return ADOPTED_ANNOTATION in (service["metadata"].get("annotations") or {})


def route_of(spec: ServiceSpec, live: Live) -> Route:
    """Return the route of a service that was just taken over: all users stay where they are."""
    return all_to(spec.name, live.slot)


def pods_labels(spec: ServiceSpec, live: Live) -> dict[str, str]:
    """Return the labels that make pods those of the slot."""
    return slot_labels(spec.name, live.slot)


def labels_off(spec: ServiceSpec, live: Live) -> dict[str, str | None]:
    """Return the patch of labels that takes those away which an adoption put on."""
    before = live.deployment["spec"]["template"]["metadata"].get("labels") or {}
    return {key: before.get(key) for key in pods_labels(spec, live)}


def template_patch(labels: Mapping[str, str | None]) -> Object:
    """Return the merge patch of a Deployment or ReplicaSet that labels the pods it will make."""
    return {"spec": {"template": {"metadata": {"labels": dict(labels)}}}}


def belongs_patch(spec: ServiceSpec) -> Object:
    """Return the merge patch that says whose an object is; what fences it asks for that."""
    return {"metadata": {"labels": {SERVICE_LABEL: spec.name}}}


def given_back_patch(live: Live) -> Object:
    """Return the merge patch of the Deployment that takes its marks off."""
    meta: Object = {
        "labels": {SERVICE_LABEL: None},
        "annotations": {FENCE_ANNOTATION: None},
    }
    managers = live.deployment["metadata"].get("managedFields")
    return {"metadata": {**meta, **({"managedFields": managers} if managers else {})}}


def unfenced_patch() -> Object:
    """Return the merge patch that takes the number of a lock off."""
    return {"metadata": {"annotations": {FENCE_ANNOTATION: None}}}


def service_patch(spec: ServiceSpec, live: Live) -> Object:
    """Return the merge patch of the Service: it selects by Slipway's label, the same pods.

    Its ports keep name and number: to rename one would take its endpoints away for a moment. The
    one of the users leads to a number from now on, since pods of a release name theirs otherwise.
    """
    before = live.service["spec"]
    selector: dict[str, str | None] = dict.fromkeys(before["selector"], None)
    annotations = {ADOPTED_ANNOTATION: "true"}
    if spec.router.kind is RouterKind.SERVICE:
        users, _ = plain_services(spec, route_of(spec, live))
        selector |= users["spec"]["selector"]
        annotations |= users["metadata"]["annotations"]
    else:
        selector[SERVES_LABEL] = spec.name
    return {
        "metadata": {"labels": {SERVICE_LABEL: spec.name}, "annotations": annotations},
        "spec": {
            "selector": selector,
            "ports": [_by_number(spec, port) for port in before["ports"]],
        },
    }


def _by_number(spec: ServiceSpec, port: Mapping[str, Any]) -> Mapping[str, Any]:
    users = port["port"] == spec.router.port and port.get("protocol", "TCP") == "TCP"
    return {**port, "targetPort": spec.server.port} if users else port


def beside_objects(spec: ServiceSpec, live: Live) -> tuple[Object, ...]:
    """Return what is new beside the service's own objects: a Service a slot, a preview."""
    return tuple(
        item
        for item in route_objects(spec, route_of(spec, live))
        if item["kind"] not in _ATOMIC or item["metadata"]["name"] != spec.name
        if (item["kind"], item["metadata"]["name"]) != ("Service", spec.name)
    )


def announced(spec: ServiceSpec, live: Live) -> Object | None:
    """Return the DestinationRule that knows the slot beside all that was known; None without one.

    What stands there keeps its subsets and its policy: users go by them until the route is new.
    """
    own = _own(spec, live, "DestinationRule")
    if own is None:
        return None
    standing = next((item for item in live.rules if identity(item) == identity(own)), None)
    if standing is None:
        return own
    names = {item["name"] for item in own["spec"]["subsets"]}
    kept = [item for item in standing["spec"].get("subsets") or () if item["name"] not in names]
    made = as_it_was(standing)
    made["spec"] = {**standing["spec"], "subsets": [*kept, *own["spec"]["subsets"]]}
    return made


def own_rule(spec: ServiceSpec, live: Live) -> Object | None:
    """Return the DestinationRule as a release knows it; None where the router has none."""
    return _own(spec, live, "DestinationRule")


def own_route(spec: ServiceSpec, live: Live) -> Object | None:
    """Return the VirtualService or HTTPRoute of Slipway; None for a plain Service."""
    return _own(spec, live, "VirtualService") or _own(spec, live, "HTTPRoute")


def _own(spec: ServiceSpec, live: Live, kind: str) -> Object | None:
    """Return Slipway's object in the place of that kind; what others had put on it stays on."""
    found = (
        item
        for item in route_objects(spec, route_of(spec, live))
        if (item["kind"], item["metadata"]["name"]) == (kind, spec.name)
    )
    own = next(found, None)
    if own is None:
        return None
    standing = next((item for item in live.objects if identity(item) == identity(own)), None)
    if standing is None:
        return own
    meta = as_it_was(standing)["metadata"]
    for field in ("labels", "annotations"):
        meta[field] = {**(meta.get(field) or {}), **own["metadata"].get(field, {})}
    meta.pop("managedFields", None)
    return {**own, "metadata": meta}


def routes_that_go(spec: ServiceSpec, live: Live) -> tuple[tuple[Manifest, Object | None], ...]:
    """Return each hand-written route with what is left of it; None when it goes as a whole."""
    own = own_route(spec, live)
    return tuple(
        (route, _without_ours(spec, route))
        for route in others_than(live.routes, () if own is None else (own,))
    )


def _without_ours(spec: ServiceSpec, route: Manifest) -> Object | None:
    kept = read_by_hand(spec, route).kept
    if not kept:
        return None
    left = as_it_was(route)
    left["spec"] = {**route["spec"], rules_key(route): list(kept)}
    return left


def rules_that_go(spec: ServiceSpec, live: Live) -> tuple[Manifest, ...]:
    """Return the DestinationRules that nothing needs any more."""
    own = own_rule(spec, live)
    return others_than(live.rules, () if own is None else (own,))


def backends_before(spec: ServiceSpec, live: Live) -> tuple[Backend, ...]:
    """Return what the hand-written routes lead to."""
    return _backends(
        spec, live, [rule for route in live.routes for rule in read_by_hand(spec, route).ours]
    )


def backends_after(spec: ServiceSpec, live: Live) -> tuple[Backend, ...]:
    """Return what Slipway's route leads to."""
    route = own_route(spec, live)
    return () if route is None else _backends(spec, live, route["spec"][rules_key(route)])


def _backends(
    spec: ServiceSpec, live: Live, rules: Iterable[Mapping[str, Any]]
) -> tuple[Backend, ...]:
    found = []
    for rule in rules:
        for item in rule.get("route") or ():
            place = item["destination"]
            port = (place.get("port") or {}).get("number") or _only_port(live)
            host = host_of(spec.name, spec.namespace)
            found.append(Backend(host=host, port=port, subset=place.get("subset", "")))
        found += [
            Backend(host=host_of(item["name"], spec.namespace), port=item["port"])
            for item in rule.get("backendRefs") or ()
        ]
    return tuple(dict.fromkeys(found))


def _only_port(live: Live) -> int:
    # Istio takes a destination without a port for a Service of one.
    return int(live.service["spec"]["ports"][0]["port"])


def steps(spec: ServiceSpec, live: Live) -> tuple[str, ...]:
    """Return what an adoption does, in order, for people."""
    labels = ", ".join(f"{key}={value}" for key, value in pods_labels(spec, live).items())
    pods = int(live.deployment["spec"].get("replicas", 1))
    said = [
        f"{subject(live.deployment)}: its {pods} pods, and those it will make, get {labels};"
        " none is started anew",
        f"{subject(live.service)}: it selects by these labels, the same pods",
    ]
    said += [f"{subject(item)}: made" for item in beside_objects(spec, live)]
    rule, route = own_rule(spec, live), own_route(spec, live)
    said += [
        f"{subject(item)}: written, all users stay on slot {live.slot}"
        for item in (rule, route)
        if item
    ]
    for gone, left in routes_that_go(spec, live):
        what = "removed" if left is None else "keeps its rules of other services alone"
        said.append(f"{subject(gone)}: {what}")
    said += [f"{subject(item)}: removed" for item in rules_that_go(spec, live)]
    said += [
        f"{subject(item)}: replaced by the service file's autoscaling" for item in live.scalers
    ]
    return tuple(said)
