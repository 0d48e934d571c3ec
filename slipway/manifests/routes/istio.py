"""Istio's route objects of a service, from a `Route` and back again.

Facts these shapes rest on: `spec.http` and `spec.subsets` are atomic lists in Istio's CRDs, so one
writer owns them whole; a rule without `timeout` has none (Istio then writes 0 s, where Envoy's own
default of 15 s would cut a stream; the CRD refuses a written `0s`); a route's response headers are
set on its direct response too (istio/istio: pilot/pkg/networking/core/route/route.go).
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
    SLOT_LABEL,
    Object,
    common_labels,
    host,
    metadata,
)
from slipway.manifests.routes.reading import read_back, users_and_preview
from slipway.manifests.routes.splitting import (
    RETRIES,
    RETRY_ON,
    falling_back,
    falling_back_policy,
    slot_meant,
    split_rule_name,
)
from slipway.manifests.routes.traffic_policy import traffic_policy

_UNRELEASED = "no version of this model has been released yet\n"


def destination_rule(
    spec: ServiceSpec,
    subsets: frozenset[Slot],
    *,
    revision: str | None = None,
    fence: int | None = None,
) -> Object:
    """Return the DestinationRule that makes `subsets` known to the gateway.

    `revision` is that of the route it belongs to, `fence` the number of the lock that it is written
    under; both are kept as annotations.
    """
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": _route_metadata(spec, revision, fence),
        "spec": {
            "host": host(spec),
            "trafficPolicy": traffic_policy(spec.server.kind),
            "subsets": [_subset(spec, name) for name in subset_names(spec, subsets)],
        },
    }


def subset_names(spec: ServiceSpec, subsets: frozenset[Slot]) -> tuple[str, ...]:
    """Return the names of what a DestinationRule with these slots defines.

    With both slots known each of them is known with the other one behind it, too.
    """
    own = tuple(slot.value for slot in sorted(subsets))
    if len(own) == len(Slot) and falls_back(spec.router):
        return (*own, *(falling_back(slot) for slot in Slot))
    return own


def _subset(spec: ServiceSpec, name: str) -> Object:
    slot = slot_meant(name)
    if name == slot.value:
        return {"name": name, "labels": {SLOT_LABEL: name}}
    policy = falling_back_policy(spec.server.kind, slot)
    return {"name": name, "labels": {SERVES_LABEL: spec.name}, "trafficPolicy": policy}


def virtual_service(spec: ServiceSpec, route: Route, *, fence: int | None = None) -> Object:
    """Return the VirtualService that says what `route` says, for the gateway and the mesh alike.

    `fence` is the number of the lock that it is written under, None for an installation.
    """
    rules = [_users_rule(spec, route)]
    if route.preview is not None:
        rules.insert(0, _preview_rule(spec, route, route.preview))
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": _route_metadata(spec, route.revision, fence),
        "spec": {
            "hosts": [*spec.hosts, host(spec)],
            "gateways": [spec.router.gateway, "mesh"],
            "http": rules,
        },
    }


def read_route(virtual_service: Mapping[str, Any], destination_rule: Mapping[str, Any]) -> Route:
    """Return the route that a service's two objects state; the inverse of the builders.

    Raises:
        PermanentError: somebody else changed the objects into something Slipway does not write.
    """
    service = str(virtual_service["metadata"]["name"])
    return read_back(
        service,
        "virtualservice,destinationrule",
        lambda: _read(service, virtual_service, destination_rule),
    )


def _route_metadata(spec: ServiceSpec, revision: str | None, fence: int | None) -> Object:
    annotations = {ROUTE_ANNOTATION: revision} if revision else {}
    if fence is not None:
        annotations[FENCE_ANNOTATION] = str(fence)
    labels = common_labels(spec.name)
    return metadata(spec.name, spec.namespace, labels=labels, annotations=annotations)


def _preview_rule(spec: ServiceSpec, route: Route, preview: Preview) -> Object:
    header = {PREVIEW_HEADER: {"exact": preview.token}}
    return {
        "name": PREVIEW_RULE,
        "match": [{**match, "headers": header} for match in _path_matches(spec)],
        "headers": _response_header(ROUTE_HEADER, route.revision),
        "route": [_destination(spec, preview.slot)],
        # The candidate is being judged: a retry would hide what users would have seen.
        "retries": {"attempts": 0},
    }


def _users_rule(spec: ServiceSpec, route: Route) -> Object:
    rule: Object = {
        "match": _path_matches(spec),
        "headers": _response_header(ROUTE_HEADER, route.revision),
    }
    # Only what no server can have begun to answer: a repeated generation would be paid twice.
    retries: Object = {"attempts": 2, "retryOn": "connect-failure,refused-stream"}
    match route.shares:
        case ():
            answer = {"status": 503, "body": {"string": _UNRELEASED}}
            return {"name": USERS_RULE, **rule, "directResponse": answer}
        case (everybody,):
            whole = [_destination(spec, everybody.slot)]
            return {"name": USERS_RULE, **rule, "route": whole, "retries": retries}
    if falls_back(spec.router):
        retries = {"attempts": RETRIES, "retryOn": RETRY_ON, "retryRemoteLocalities": True}
    return {
        "name": split_rule_name(spec.router),
        **rule,
        "route": _weighted(spec, route.shares),
        "retries": retries,
    }


def _weighted(spec: ServiceSpec, shares: tuple[Share, ...]) -> list[Object]:
    """Return the destinations, the stable slot first: a sticky split goes by their order."""
    *stable, candidate = shares
    subset = falling_back(candidate.slot) if falls_back(spec.router) else candidate.slot.value
    return [
        *({**_destination(spec, share.slot), "weight": share.percent} for share in stable),
        {**_destination(spec, candidate.slot, subset=subset), "weight": candidate.percent},
    ]


def _path_matches(spec: ServiceSpec) -> list[Object]:
    return [{"uri": {"prefix": prefix}} for prefix in spec.path_prefixes]


def _destination(spec: ServiceSpec, slot: Slot, *, subset: str | None = None) -> Object:
    return {
        "destination": {
            "host": host(spec),
            "subset": subset or slot.value,
            "port": {"number": spec.router.port},
        },
        "headers": _response_header(SLOT_HEADER, slot.value),
    }


def _response_header(name: str, value: str) -> Object:
    return {"response": {"set": {name: value}}}


def _read(
    service: str, virtual_service: Mapping[str, Any], destination_rule: Mapping[str, Any]
) -> Route:
    users, preview = users_and_preview(virtual_service["spec"]["http"])
    return Route(
        service=service,
        shares=_read_shares(users),
        preview=None if preview is None else _read_preview(preview),
        subsets=frozenset(slot_meant(name) for name in names_of_subsets(destination_rule)),
    )


def _read_shares(rule: Mapping[str, Any]) -> tuple[Share, ...]:
    if "directResponse" in rule:
        return ()
    return tuple(
        # A single destination carries no weight: it gets everybody.
        Share(slot=slot_meant(item["destination"]["subset"]), percent=item.get("weight", 100))
        for item in rule["route"]
    )


def _read_preview(rule: Mapping[str, Any]) -> Preview:
    token = rule["match"][0]["headers"][PREVIEW_HEADER]["exact"]
    return Preview(slot=Slot(rule["route"][0]["destination"]["subset"]), token=token)


def names_of_subsets(destination_rule: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the subsets that a DestinationRule defines."""
    # The API server drops an empty list from some answers.
    return tuple(item["name"] for item in destination_rule["spec"].get("subsets") or ())
