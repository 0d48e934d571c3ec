"""Traffic on Istio: a VirtualService and a DestinationRule per service, proved at the gateway."""

from __future__ import annotations

from collections.abc import Iterable

from slipway.adapters.kubernetes import require_object
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.adapters.routers.fenced import refused, stamp_all
from slipway.adapters.routers.gateway import (
    PROPAGATION_TIMEOUT_S,
    Gateway,
    GatewayAccess,
    Meaning,
    cluster_name,
)
from slipway.adapters.routers.pods import SlotPods
from slipway.adapters.routers.split_filter import filter_in_force
from slipway.adapters.routers.way_in import through_gateway
from slipway.core.routing import Preview, Route, Slot
from slipway.core.service import ServiceSpec
from slipway.core.traffic import AccessRow, AccessTail, LogPosition
from slipway.manifests.names import host, host_of
from slipway.manifests.routes.istio import (
    destination_rule,
    names_of_subsets,
    read_route,
    subset_names,
    virtual_service,
)
from slipway.manifests.routes.splitting import falling_back
from slipway.ports.traffic import Backend, RouteProof, WayIn

_KINDS = ("VirtualService", "DestinationRule")


class IstioTraffic:
    """The Traffic port of one service."""

    def __init__(self, api: KubernetesApi, spec: ServiceSpec, access: GatewayAccess) -> None:
        self._api = api
        self._spec = spec
        self._access = access
        self._gateway = Gateway(access, spec)
        self._pods = SlotPods(api, spec)

    def apply(self, route: Route, *, fence: int | None = None) -> None:
        """Write the route, make before break; see `slipway.ports.Traffic`.

        Endpoints are announced before anything routes to them, and withdrawn only after the gateway
        has been seen to serve without them (Istio, traffic management best practices, "Avoid 503
        errors while reconfiguring service routes").
        """
        current = self.read(route.service)
        known = current.subsets | route.subsets
        wanted = subset_names(self._spec, known)
        if not set(wanted) <= set(self._defined(route.service)):
            self._api.apply(destination_rule(self._spec, known, fence=fence))
            announced = subset_names(self._spec, route.subsets)
            self._gateway.await_clusters(self._cluster(name) for name in announced)
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
        """Sum Envoy's active requests towards the slot over all gateway pods.

        Those that may have fallen back are counted for either slot: Envoy does not say which.
        """
        names = (slot.value, *(falling_back(one) for one in Slot))
        subsets = {self._cluster(name): name for name in names}
        return self._gateway.active_requests(
            tuple(subsets),
            may_be_unknown=lambda cluster: subsets[cluster] not in self._defined(service),
        )

    def await_known(self, backends: Iterable[Backend]) -> None:
        """Ask every gateway pod; see `slipway.ports.Traffic`."""
        self._gateway.await_clusters(cluster_name(item) for item in backends)

    def confirm_handed_over(self, *, timeout_s: float) -> None:
        """Ask the gateway; see `slipway.ports.Traffic`."""
        self._gateway.confirm_handed_over(timeout_s=timeout_s)

    def access_end(self, service: str) -> LogPosition:
        """Return the end of the gateway's access log."""
        return self._gateway.access_end(service)

    def access_rows(self, service: str, *, after: LogPosition) -> AccessTail:
        """Return the gateway's rows of the service since a position."""
        wanted = host_of(service, self._spec.namespace)

        def meant(row: AccessRow) -> Meaning | None:
            if row.service != wanted:
                return None
            return Meaning(slot=row.slot, may_fall_back=row.subset not in {"", row.slot})

        return self._gateway.access_rows(service, after=after, meant=meant, pods=self._pods)

    def split_filter_in_force(self) -> bool:
        """Return whether the EnvoyFilter stands; see `slipway.ports.Traffic`."""
        return filter_in_force(self._api, self._spec.router)

    def way_in(self, preview: Preview | None) -> WayIn:
        """Return the gateway, with the preview's header; see `slipway.ports.Traffic`."""
        return through_gateway(self._access, self._spec, preview)

    def _defined(self, service: str) -> tuple[str, ...]:
        return names_of_subsets(require_object(self._api, _KINDS[1], self._spec.namespace, service))

    def _cluster(self, subset: str) -> str:
        backend = Backend(host=host(self._spec), port=self._spec.router.port, subset=subset)
        return cluster_name(backend)
