"""Istio's route objects of a service, from a `Route` and back again.

Facts these shapes rest on: `spec.http` and `spec.subsets` are atomic lists in Istio's CRDs, so one
writer owns them whole; a rule without `timeout` has none (Istio then writes 0 s, where Envoy's own
default of 15 s would cut a stream; the CRD refuses a written `0s`); a route's response headers are
set on its direct response too (istio/istio: pilot/pkg/networking/core/route/route.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.core.errors import InputError, PermanentError
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
from slipway.core.service import ServerKind, ServiceSpec
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    GATEWAY,
    NAME_LABEL,
    ROUTE_ANNOTATION,
    SERVICE_PORT,
    SLOT_LABEL,
    Object,
    common_labels,
    host,
    metadata,
)

_UNRELEASED = "no version of this model has been released yet\n"


def service_object(spec: ServiceSpec) -> Object:
    """Return the Kubernetes Service over both slots; the mesh divides it into subsets."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(spec.name, spec.namespace, labels=common_labels(spec.name)),
        "spec": {
            "type": "ClusterIP",
            "selector": {NAME_LABEL: spec.name},
            "ports": [
                {
                    "name": "http",
                    "port": SERVICE_PORT,
                    "targetPort": "http",
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
            ],
        },
    }


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
            "trafficPolicy": _traffic_policy(spec.server.kind),
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
            "gateways": [GATEWAY, "mesh"],
            "http": rules,
        },
    }


def read_route(virtual_service: Mapping[str, Any], destination_rule: Mapping[str, Any]) -> Route:
    """Return the route that a service's two objects state; the inverse of the builders.

    Raises:
        PermanentError: somebody else changed the objects into something Slipway does not write.
    """
    service = str(virtual_service["metadata"]["name"])
    try:
        rules = {rule["name"]: rule for rule in virtual_service["spec"]["http"]}
        if not {USERS_RULE} <= rules.keys() <= {USERS_RULE, PREVIEW_RULE}:
            raise _foreign(service, f"its rules are {sorted(rules)}")
        preview = rules.get(PREVIEW_RULE)
        return Route(
            service=service,
            shares=_read_shares(rules[USERS_RULE]),
            preview=None if preview is None else _read_preview(preview),
            subsets=frozenset(Slot(item["name"]) for item in _read_subsets(destination_rule)),
        )
    except (KeyError, IndexError, TypeError, ValueError, InputError) as error:
        raise _foreign(service, f"{type(error).__name__}: {error}") from error


def _route_metadata(spec: ServiceSpec, revision: str | None, fence: int | None) -> Object:
    annotations = {ROUTE_ANNOTATION: revision} if revision else {}
    if fence is not None:
        annotations[FENCE_ANNOTATION] = str(fence)
    labels = common_labels(spec.name)
    return metadata(spec.name, spec.namespace, labels=labels, annotations=annotations)


def _traffic_policy(kind: ServerKind) -> Object:
    return {
        # A model server's requests differ a hundredfold in length: count what is in flight.
        "loadBalancer": {"simple": "LEAST_REQUEST"},
        "connectionPool": {
            # One HTTP/1.1 connection per open stream: the most streams of one gateway pod.
            "tcp": {"maxConnections": 4096, "connectTimeout": "2s"},
            "http": {
                # Requests that wait for a connection being opened; enough for a burst, small enough
                # that overload is answered at once (503 UO) instead of hidden in a queue.
                "http1MaxPendingRequests": 256,
                "maxRetries": 64,
                # Shorter than any server's own keep-alive (5 s: llama.cpp, and uvicorn under vLLM).
                # A connection that the server closes just as it is used again fails a request (UC).
                "idleTimeout": "3s",
                # llama.cpp's server closes after every streamed answer, though it promises to keep
                # the connection: the request that reuses it fails (UC). 0 is no limit.
                "maxRequestsPerConnection": 1 if kind is ServerKind.LLAMA_CPP else 0,
            },
        },
        "outlierDetection": {
            "consecutive5xxErrors": 5,
            "consecutiveGatewayErrors": 3,
            "interval": "5s",
            "baseEjectionTime": "30s",
            # Istio's default of 10 % never ejects one of fewer than ten pods.
            "maxEjectionPercent": 50,
            # Once every pod that is left has been ejected, each request is lost for sure (503). One
            # may have recovered long before its 30 s are over: then they are asked nevertheless.
            "minHealthPercent": 1,
        },
    }


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


def _foreign(service: str, what: str) -> PermanentError:
    return PermanentError(
        f"the route objects of service {service} are not as Slipway writes them: {what}",
        code="route-foreign",
        hint="somebody else edited them; compare kubectl get virtualservice,destinationrule"
        f" {service} -o yaml with the release record, and undo the edit",
    )
