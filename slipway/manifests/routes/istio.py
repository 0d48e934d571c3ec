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
from slipway.core.service import ServiceSpec
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    ROUTE_ANNOTATION,
    SERVICE_PORT,
    SLOT_LABEL,
    Object,
    common_labels,
    host,
    metadata,
)
from slipway.manifests.routes.reading import read_back
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
            "subsets": [
                {"name": slot.value, "labels": {SLOT_LABEL: slot.value}} for slot in sorted(subsets)
            ],
        },
    }


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
        "name": USERS_RULE,
        "match": _path_matches(spec),
        "headers": _response_header(ROUTE_HEADER, route.revision),
    }
    if not route.shares:
        return {**rule, "directResponse": {"status": 503, "body": {"string": _UNRELEASED}}}
    return {
        **rule,
        "route": _weighted(spec, route.shares),
        # Only what no server can have begun to answer: a repeated generation would be paid twice.
        "retries": {"attempts": 2, "retryOn": "connect-failure,refused-stream"},
    }


def _weighted(spec: ServiceSpec, shares: tuple[Share, ...]) -> list[Object]:
    if len(shares) == 1:
        return [_destination(spec, shares[0].slot)]
    return [{**_destination(spec, share.slot), "weight": share.percent} for share in shares]


def _path_matches(spec: ServiceSpec) -> list[Object]:
    return [{"uri": {"prefix": prefix}} for prefix in spec.path_prefixes]


def _destination(spec: ServiceSpec, slot: Slot) -> Object:
    return {
        "destination": {
            "host": host(spec),
            "subset": slot.value,
            "port": {"number": SERVICE_PORT},
        },
        "headers": _response_header(SLOT_HEADER, slot.value),
    }


def _response_header(name: str, value: str) -> Object:
    return {"response": {"set": {name: value}}}


def _read(
    service: str, virtual_service: Mapping[str, Any], destination_rule: Mapping[str, Any]
) -> Route:
    rules = {rule["name"]: rule for rule in virtual_service["spec"]["http"]}
    if not {USERS_RULE} <= rules.keys() <= {USERS_RULE, PREVIEW_RULE}:
        raise ValueError(f"its rules are {sorted(rules)}")
    preview = rules.get(PREVIEW_RULE)
    return Route(
        service=service,
        shares=_read_shares(rules[USERS_RULE]),
        preview=None if preview is None else _read_preview(preview),
        subsets=frozenset(Slot(item["name"]) for item in _read_subsets(destination_rule)),
    )


def _read_shares(rule: Mapping[str, Any]) -> tuple[Share, ...]:
    if "directResponse" in rule:
        return ()
    return tuple(
        # A single destination carries no weight: it gets everybody.
        Share(slot=Slot(item["destination"]["subset"]), percent=item.get("weight", 100))
        for item in rule["route"]
    )


def _read_preview(rule: Mapping[str, Any]) -> Preview:
    token = rule["match"][0]["headers"][PREVIEW_HEADER]["exact"]
    return Preview(slot=Slot(rule["route"][0]["destination"]["subset"]), token=token)


def _read_subsets(destination_rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    # The API server drops an empty list from some answers.
    found: list[Mapping[str, Any]] = destination_rule["spec"].get("subsets") or []
    return found
