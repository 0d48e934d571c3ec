"""Traffic on Istio: a VirtualService and a DestinationRule per service, proved at the gateway."""

from __future__ import annotations

from slipway.adapters.kubernetes import require_object
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.adapters.routers.fenced import refused, stamp_all
from slipway.adapters.routers.gateway import PROPAGATION_TIMEOUT_S, Gateway, GatewayAccess
from slipway.adapters.routers.way_in import through_gateway
from slipway.core.routing import Preview, Route, Slot
from slipway.core.service import ServiceSpec
from slipway.core.traffic import AccessRow, AccessTail, LogPosition
from slipway.manifests.names import SERVICE_PORT, host, host_of
from slipway.manifests.routes.istio import destination_rule, read_route, virtual_service
from slipway.ports import RouteProof, WayIn

_KINDS = ("VirtualService", "DestinationRule")


class IstioTraffic:
    """The Traffic port of one service."""

    def __init__(self, api: KubernetesApi, spec: ServiceSpec, access: GatewayAccess) -> None:
        self._api = api
        self._spec = spec
        self._access = access
        self._gateway = Gateway(access, spec)

    def apply(self, route: Route, *, fence: int | None = None) -> None:
        """Write the route, make before break; see `slipway.ports.Traffic`.

        Endpoints are announced before anything routes to them, and withdrawn only after the gateway
        has been seen to serve without them (Istio, traffic management best practices, "Avoid 503
        errors while reconfiguring service routes").
        """
        current = self.read(route.service)
        known = current.subsets | route.subsets
        if known != current.subsets:
            self._api.apply(destination_rule(self._spec, known, fence=fence))
            self._gateway.await_clusters(self._cluster(slot) for slot in route.subsets)
        self._api.apply(virtual_service(self._spec, route, fence=fence))
        if known != route.subsets:
            self.confirm(route, timeout_s=PROPAGATION_TIMEOUT_S)
            narrowed = destination_rule(
                self._spec, route.subsets, revision=route.revision, fence=fence
            )
            self._api.apply(narrowed)

    def stamp(self, service: str, *, fence: int) -> None:
        """Put a fencing number on both objects; see `slipway.ports.Traffic`."""
        objects = [(kind, service) for kind in _KINDS]
        stamp_all(self._api, self._spec.namespace, objects, fence=fence)

    def refuses(self, service: str, *, fence: int) -> bool:
        """Ask the API server by a dry run; see `slipway.ports.Traffic`."""
        return refused(self._api, _KINDS[0], self._spec.namespace, service, fence=fence)

    def read(self, service: str) -> Route:
        """Return the route as the two objects state it."""
        namespace = self._spec.namespace
        rules, subsets = (require_object(self._api, kind, namespace, service) for kind in _KINDS)
        return read_route(rules, subsets)

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """Ask the gateway until only answers of this route come back."""
        return self._gateway.confirm(route, timeout_s=timeout_s)

    def open_streams(self, service: str, slot: Slot) -> int:
        """Sum Envoy's active requests towards the slot over all gateway pods."""
        return self._gateway.active_requests(
            self._cluster(slot), may_be_unknown=lambda: slot not in self.read(service).subsets
        )

    def access_end(self, service: str) -> LogPosition:
        """Return the end of the gateway's access log."""
        return self._gateway.access_end(service)

    def access_rows(self, service: str, *, after: LogPosition) -> AccessTail:
        """Return the gateway's rows of the service since a position."""
        wanted = host_of(service, self._spec.namespace)

        def slot_of(row: AccessRow) -> str | None:
            return row.slot if row.service == wanted else None

        return self._gateway.access_rows(service, after=after, slot_of=slot_of)

    def way_in(self, preview: Preview | None) -> WayIn:
        """Return the gateway, with the preview's header; see `slipway.ports.Traffic`."""
        return through_gateway(self._access, self._spec, preview)

    def _cluster(self, slot: Slot) -> str:
        return f"outbound|{SERVICE_PORT}|{slot}|{host(self._spec)}"
