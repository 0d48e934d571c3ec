"""Traffic on the Gateway API: an HTTPRoute over one Service a slot, proved at the gateway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slipway.adapters.kubernetes import require_object
from slipway.adapters.kubernetes_api import KubernetesApi, object_path
from slipway.adapters.routers.fenced import refused, stamp_all
from slipway.adapters.routers.gateway import (
    PROPAGATION_TIMEOUT_S,
    Gateway,
    GatewayAccess,
    Meaning,
    cluster_name,
    wait_until,
)
from slipway.adapters.routers.pods import SlotPods
from slipway.adapters.routers.split_filter import filter_in_force
from slipway.adapters.routers.way_in import through_gateway
from slipway.core.errors import PermanentError
from slipway.core.routing import Preview, Route, Slot
from slipway.core.service import ServiceSpec, falls_back
from slipway.core.traffic import AccessRow, AccessTail, LogPosition
from slipway.manifests.names import host_of, slot_service
from slipway.manifests.routes.gateway_api import (
    KIND,
    falling_back_service,
    http_route,
    read_http_route,
)
from slipway.ports.traffic import Backend, RouteProof, WayIn

_CONDITIONS = ("Accepted", "ResolvedRefs")


class GatewayApiTraffic:
    """The Traffic port of one service, on Istio's implementation of the Gateway API.

    Another implementation accepts the same HTTPRoute and proves it by the same answers; what is
    open and what was logged is read from Envoy under the names that Istio gives its clusters.
    """

    def __init__(self, api: KubernetesApi, spec: ServiceSpec, access: GatewayAccess) -> None:
        self._api = api
        self._spec = spec
        self._access = access
        self._gateway = Gateway(access, spec)
        self._pods = SlotPods(api, spec)

    def apply(self, route: Route, *, fence: int | None = None) -> None:
        """Write the route, make before break; see `slipway.ports.Traffic`.

        Raises:
            PermanentError: `route-refused`, the gateway's controller does not accept it.
        """
        current = self.read(route.service)
        newly = [slot for slot in Slot if route.names(slot) and slot not in current.subsets]
        self._gateway.await_clusters(
            self._cluster(slot_service(route.service, slot)) for slot in newly
        )
        written = self._api.apply(http_route(self._spec, route, fence=fence))
        self._await_accepted(route.service, int(written["metadata"]["generation"]))

    def stamp(self, service: str, *, fence: int) -> None:
        """Put a fencing number on the HTTPRoute; see `slipway.ports.Traffic`."""
        stamp_all(self._api, self._spec.namespace, [(KIND, service)], fence=fence)

    def refuses(self, service: str, *, fence: int) -> bool:
        """Ask the API server by a dry run; see `slipway.ports.Traffic`."""
        return refused(self._api, KIND, self._spec.namespace, service, fence=fence)

    def read(self, service: str) -> Route:
        """Return the route as the HTTPRoute states it."""
        return read_http_route(require_object(self._api, KIND, self._spec.namespace, service))

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """Ask the gateway until only answers of this route come back."""
        return self._gateway.confirm(route, timeout_s=timeout_s)

    def open_streams(self, service: str, slot: Slot) -> int:
        """Sum Envoy's active requests towards the slot over all gateway pods.

        Those that may have fallen back are counted for either slot: Envoy does not say which.
        """
        backends = [slot_service(service, slot)]
        if falls_back(self._spec.router):
            backends += [falling_back_service(service, one) for one in Slot]
        return self._gateway.active_requests(
            [self._cluster(name) for name in backends], may_be_unknown=lambda _: False
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
        """Return the gateway's rows of the slots' Services since a position."""
        meanings = {self._host(slot_service(service, s)): Meaning(slot=s.value) for s in Slot} | {
            self._host(falling_back_service(service, s)): Meaning(slot=s.value, may_fall_back=True)
            for s in Slot
        }

        def meant(row: AccessRow) -> Meaning | None:
            return meanings.get(row.service)

        return self._gateway.access_rows(service, after=after, meant=meant, pods=self._pods)

    def split_filter_in_force(self) -> bool:
        """Return whether the EnvoyFilter stands; see `slipway.ports.Traffic`."""
        return filter_in_force(self._api, self._spec.router)

    def way_in(self, preview: Preview | None) -> WayIn:
        """Return the gateway, with the preview's header; see `slipway.ports.Traffic`."""
        return through_gateway(self._access, self._spec, preview)

    def _cluster(self, backend: str) -> str:
        return cluster_name(Backend(host=self._host(backend), port=self._spec.router.port))

    def _host(self, backend: str) -> str:
        return host_of(backend, self._spec.namespace)

    def _await_accepted(self, service: str, generation: int) -> None:
        """Wait until the gateway's controller has taken this very write up.

        Conditions of an older generation say nothing about it.
        """
        path, gateway = object_path(KIND, self._spec.namespace, service), self._spec.router.gateway

        def accepted() -> bool:
            said = _conditions(self._api.get(path) or {}, gateway, generation)
            refusals = [item for item in said.values() if item["status"] == "False"]
            if refusals:
                raise _refused(service, gateway, refusals[0])
            return all(kind in said for kind in _CONDITIONS)

        wait_until(
            accepted,
            timeout_s=PROPAGATION_TIMEOUT_S,
            what=f"nobody has taken up generation {generation} of HTTPRoute {service} for gateway"
            f" {gateway}",
            hint="does that Gateway exist, and does its controller run? kubectl get httproute"
            f" {service} -o yaml shows what it says",
        )


def _conditions(
    found: Mapping[str, Any], gateway: str, generation: int
) -> dict[str, Mapping[str, Any]]:
    """Return what the gateway's controller says of a route's generation, by type."""
    namespace, _, name = gateway.partition("/")
    return {
        condition["type"]: condition
        for parent in found.get("status", {}).get("parents", ())
        if parent["parentRef"]["name"] == name
        and parent["parentRef"].get("namespace", namespace) == namespace
        for condition in parent.get("conditions", ())
        if condition["type"] in _CONDITIONS
        and condition.get("observedGeneration", 0) >= generation
        and condition["status"] in {"True", "False"}
    }


def _refused(service: str, gateway: str, condition: Mapping[str, Any]) -> PermanentError:
    return PermanentError(
        f"gateway {gateway} does not take HTTPRoute {service}: {condition['type']} is False,"
        f" {condition.get('reason', 'no reason')}: {condition.get('message', '')}",
        code="route-refused",
        hint="correct the Gateway's listeners (allowedRoutes, hostnames) or the service file's"
        " router.gateway; the gateway serves by the route before",
    )
