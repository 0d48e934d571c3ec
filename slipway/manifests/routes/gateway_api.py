"""A service's HTTPRoute of the Gateway API, from a `Route` and back again.

Facts these shapes rest on: a route has no subsets, so each slot has a Service of its own;
`rules` and `backendRefs` are atomic lists, so one writer owns them whole; the more specific match
wins, whatever the order, so the preview's header beats the bare path; a rule without `timeouts` has
none by Istio, where others have their own; a rule without `backendRefs` answers 500
(gateway-api.sigs.k8s.io, HTTPRoute v1). Rules keep their `name` in the gateway's access log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.core.routing import (
    PREVIEW_HEADER,
    PREVIEW_RULE,
    ROUTE_HEADER,
    SLOT_HEADER,
    USERS_RULE,
    Preview,
    Route,
    Share,
    Slot,
)
from slipway.core.service import ServiceSpec, falls_back
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    ROUTE_ANNOTATION,
    SERVES_LABEL,
    SLOTS_ANNOTATION,
    Object,
    common_labels,
    host_of,
    metadata,
    slot_service,
)
from slipway.manifests.routes.reading import (
    read_back,
    slots_of,
    slots_text,
    users_and_preview,
)
from slipway.manifests.routes.services import cluster_service
from slipway.manifests.routes.splitting import (
    falling_back,
    falling_back_policy,
    slot_meant,
    split_rule_name,
)
from slipway.manifests.routes.traffic_policy import traffic_policy

KIND = "HTTPRoute"


def http_route(spec: ServiceSpec, route: Route, *, fence: int | None = None) -> Object:
    """Return the HTTPRoute that says what `route` says.

    `fence` is the number of the lock that it is written under, None for an installation.
    """
    namespace, _, gateway = spec.router.gateway.partition("/")
    rules = [_users_rule(spec, route)]
    if route.preview is not None:
        rules.append(_preview_rule(spec, route, route.preview))
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": KIND,
        "metadata": metadata(
            spec.name,
            spec.namespace,
            labels=common_labels(spec.name),
            annotations=_annotations(route, fence),
        ),
        "spec": {
            "parentRefs": [{"namespace": namespace, "name": gateway}],
            "hostnames": list(spec.hosts),
            "rules": rules,
        },
    }


def slot_rules(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return the DestinationRules of the backends, where Istio is the implementation."""
    kind = spec.server.kind
    policies = {slot_service(spec.name, slot): traffic_policy(kind) for slot in Slot}
    if falls_back(spec.router):
        for slot in Slot:
            policies[falling_back_service(spec.name, slot)] = falling_back_policy(kind, slot)
    return tuple(_destination_rule(spec, name, policy) for name, policy in policies.items())


def falling_back_services(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return a Service for each slot with the other one behind it; none where that cannot be."""
    if not falls_back(spec.router):
        return ()
    both = {SERVES_LABEL: spec.name}
    return tuple(
        cluster_service(spec, falling_back_service(spec.name, slot), both) for slot in Slot
    )


def falling_back_service(service: str, slot: Slot) -> str:
    """Return the name of the Service over `slot` with the other slot behind it."""
    return f"{service}-{falling_back(slot)}"


def _destination_rule(spec: ServiceSpec, name: str, policy: Object) -> Object:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": metadata(name, spec.namespace, labels=common_labels(spec.name)),
        "spec": {"host": host_of(name, spec.namespace), "trafficPolicy": policy},
    }


def read_http_route(found: Mapping[str, Any]) -> Route:
    """Return the route that an HTTPRoute states; the inverse of `http_route`.

    Raises:
        PermanentError: somebody else changed it into something Slipway does not write.
    """
    service = str(found["metadata"]["name"])
    return read_back(service, "httproute", lambda: _read(service, found))


def _annotations(route: Route, fence: int | None) -> dict[str, str]:
    said = {ROUTE_ANNOTATION: route.revision, SLOTS_ANNOTATION: slots_text(route.subsets)}
    return said if fence is None else {**said, FENCE_ANNOTATION: str(fence)}


def _users_rule(spec: ServiceSpec, route: Route) -> Object:
    rule: Object = {
        "matches": _path_matches(spec),
        "filters": [_response_header(ROUTE_HEADER, route.revision)],
    }
    match route.shares:
        case ():
            return {"name": USERS_RULE, **rule}
        case (everybody,):
            whole = {**_backend(spec, everybody.slot), "weight": everybody.percent}
            return {"name": USERS_RULE, **rule, "backendRefs": [whole]}
    # The stable slot first: a sticky split goes by their order.
    *stable, candidate = route.shares
    backend = _backend(spec, candidate.slot)
    if falls_back(spec.router):
        backend["name"] = falling_back_service(spec.name, candidate.slot)
    return {
        "name": split_rule_name(spec.router),
        **rule,
        "backendRefs": [
            *({**_backend(spec, share.slot), "weight": share.percent} for share in stable),
            {**backend, "weight": candidate.percent},
        ],
    }


def _preview_rule(spec: ServiceSpec, route: Route, preview: Preview) -> Object:
    header = {"name": PREVIEW_HEADER, "type": "Exact", "value": preview.token}
    return {
        "name": PREVIEW_RULE,
        "matches": [{**match, "headers": [header]} for match in _path_matches(spec)],
        "filters": [_response_header(ROUTE_HEADER, route.revision)],
        "backendRefs": [{**_backend(spec, preview.slot), "weight": 1}],
    }


def _path_matches(spec: ServiceSpec) -> list[Object]:
    return [{"path": {"type": "PathPrefix", "value": prefix}} for prefix in spec.path_prefixes]


def _backend(spec: ServiceSpec, slot: Slot) -> Object:
    return {
        "name": slot_service(spec.name, slot),
        "port": spec.router.port,
        "filters": [_response_header(SLOT_HEADER, slot.value)],
    }


def _response_header(name: str, value: str) -> Object:
    return {
        "type": "ResponseHeaderModifier",
        "responseHeaderModifier": {"set": [{"name": name, "value": value}]},
    }


def _read(service: str, found: Mapping[str, Any]) -> Route:
    users, preview = users_and_preview(found["spec"]["rules"])
    return Route(
        service=service,
        shares=tuple(
            Share(slot=_slot(service, item), percent=item["weight"])
            for item in users.get("backendRefs") or ()
        ),
        preview=None if preview is None else _read_preview(service, preview),
        subsets=slots_of(found["metadata"]),
    )


def _read_preview(service: str, rule: Mapping[str, Any]) -> Preview:
    token = rule["matches"][0]["headers"][0]["value"]
    return Preview(slot=_slot(service, rule["backendRefs"][0]), token=token)


def _slot(service: str, backend: Mapping[str, Any]) -> Slot:
    return slot_meant(str(backend["name"]).removeprefix(f"{service}-"))
