"""What each router asks of an installation: its objects, and the rights to write them."""

from __future__ import annotations

from collections.abc import Mapping

from slipway.core.routing import Route
from slipway.core.service import Implementation, RouterKind, ServiceSpec
from slipway.manifests.names import Object, preview_service
from slipway.manifests.routes.gateway_api import falling_back_services, http_route, slot_rules
from slipway.manifests.routes.istio import destination_rule, virtual_service
from slipway.manifests.routes.plain import plain_services
from slipway.manifests.routes.services import service_object, slot_services

Right = tuple[str, str | tuple[str, ...], tuple[str, ...], list[str]]
"""API group, resources, verbs, names; without names it holds for all."""

_OWN = ("get", "patch")
_READ_BY: Mapping[RouterKind, frozenset[str]] = {
    RouterKind.ISTIO: frozenset({"Service", "VirtualService", "DestinationRule"}),
    # Limits of connections are the administrator's.
    RouterKind.GATEWAY_API: frozenset({"Service", "HTTPRoute"}),
    RouterKind.SERVICE: frozenset({"Service"}),
}


def route_objects(spec: ServiceSpec, route: Route) -> tuple[Object, ...]:
    """Return the objects that say what `route` says, in the order in which they are applied."""
    match spec.router.kind:
        case RouterKind.ISTIO:
            return (
                service_object(spec),
                destination_rule(spec, route.subsets, revision=route.revision),
                virtual_service(spec, route),
            )
        case RouterKind.GATEWAY_API:
            ours = spec.router.implementation is Implementation.ISTIO
            return (
                service_object(spec),
                *slot_services(spec),
                *falling_back_services(spec),
                *(slot_rules(spec) if ours else ()),
                http_route(spec, route),
            )
        case _:  # a plain Service, the only other kind
            return plain_services(spec, route)


def other_routes(spec: ServiceSpec) -> tuple[tuple[str, str], ...]:
    """Return `(kind, name)` of what a service routed by another router has."""
    own = {kind for kind, _ in route_names(spec)}
    return tuple((kind, spec.name) for kind in ("VirtualService", "HTTPRoute") if kind not in own)


def route_names(spec: ServiceSpec) -> tuple[tuple[str, str], ...]:
    """Return `(kind, name)` of every object of the route that a release may read."""
    return tuple(
        (item["kind"], item["metadata"]["name"])
        for item in route_objects(spec, Route(service=spec.name))
        if item["kind"] in _READ_BY[spec.router.kind]
    )


def routes_read(spec: ServiceSpec) -> tuple[tuple[str, tuple[str, ...], list[str]], ...]:
    """Return `(API group, resources, names)` of what a route is read from, and stamped on."""
    match spec.router.kind:
        case RouterKind.ISTIO:
            kinds = ("virtualservices", "destinationrules")
            return (("networking.istio.io", kinds, [spec.name]),)
        case RouterKind.GATEWAY_API:
            return (("gateway.networking.k8s.io", ("httproutes",), [spec.name]),)
        case _:  # a plain Service, the only other kind
            return (("", ("services",), [spec.name, preview_service(spec.name)]),)


def route_rules(spec: ServiceSpec) -> tuple[Right, ...]:
    """Return the rights that a release needs on the objects of its route."""
    own = tuple((group, kinds, _OWN, names) for group, kinds, names in routes_read(spec))
    match spec.router.kind:
        case RouterKind.ISTIO:
            return (
                *own,
                ("", "services", ("get",), [spec.name]),
                _sees_http_route(spec),
            )
        case RouterKind.GATEWAY_API:
            services = (service_object(spec), *slot_services(spec), *falling_back_services(spec))
            return (
                *own,
                ("", "services", ("get",), [item["metadata"]["name"] for item in services]),
                _sees_virtual_service(spec),
            )
        case _:  # a plain Service, the only other kind
            return (
                *own,
                # A list cannot be restricted by names.
                ("discovery.k8s.io", "endpointslices", ("list",), []),
                _sees_http_route(spec),
                _sees_virtual_service(spec),
            )


def _sees_http_route(spec: ServiceSpec) -> Right:
    # Of another router: a release must know whether some users still come by it.
    return ("gateway.networking.k8s.io", "httproutes", ("get",), [spec.name])


def _sees_virtual_service(spec: ServiceSpec) -> Right:
    return ("networking.istio.io", "virtualservices", ("get",), [spec.name])
