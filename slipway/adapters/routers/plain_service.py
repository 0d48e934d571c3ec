"""Traffic without a router: the selectors of two Services, proved by their endpoints.

No answer tells which slot it came from, so the proof is weaker than a gateway's: every ready
endpoint of the Service is a pod of the slot, it has been so for `router.propagation_s`, and
requests to its in-cluster name are answered.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from typing import Any

import httpx

from slipway.adapters.kubernetes import require_object
from slipway.adapters.kubernetes_api import KubernetesApi, object_path
from slipway.adapters.routers.fenced import refused, stamp_all
from slipway.adapters.routers.gateway import (
    Gateway,
    GatewayAccess,
    Meaning,
    not_confirmed,
)
from slipway.adapters.routers.pods import SlotPods
from slipway.adapters.routers.way_in import by_service
from slipway.core.routing import PURPOSE_HEADER, Preview, Route, Slot
from slipway.core.service import ServiceSpec
from slipway.core.traffic import AccessRow, AccessTail, LogPosition
from slipway.manifests.names import SERVES_LABEL, SLOT_LABEL, host_of, preview_service
from slipway.manifests.routes.plain import plain_services, read_plain_services
from slipway.ports.traffic import Backend, RouteProof, WayIn

_LOOK_EVERY_S = 0.5  # each look asks the API server six times
_PROOF_REQUESTS = 3
_UNSEEN = LogPosition(log="none", offset_bytes=0)
_SLICE_SERVICE_LABEL = "kubernetes.io/service-name"


class PlainServiceTraffic:
    """The Traffic port of one service."""

    def __init__(self, api: KubernetesApi, spec: ServiceSpec, access: GatewayAccess) -> None:
        self._api = api
        self._spec = spec
        self._access = access
        self._gateway = Gateway(access, spec)
        self._http = httpx.Client(proxy=access.cluster_proxy, trust_env=False, timeout=5.0)
        weakref.finalize(self, self._http.close)
        self._pods = SlotPods(api, spec)

    def apply(self, route: Route, *, fence: int | None = None) -> None:
        """Write both Services; see `slipway.ports.Traffic`.

        Raises:
            InputError: `route-unsupported`, the route divides the users.
        """
        self.read(route.service)
        for manifest in plain_services(self._spec, route, fence=fence):
            # Ports are the administrator's: an adopted Service keeps the names it gave them.
            selector = {"selector": manifest["spec"]["selector"]}
            self._api.apply({**manifest, "spec": selector})

    def stamp(self, service: str, *, fence: int) -> None:
        """Put a fencing number on both Services; see `slipway.ports.Traffic`."""
        objects = [("Service", service), ("Service", preview_service(service))]
        stamp_all(self._api, self._spec.namespace, objects, fence=fence)

    def refuses(self, service: str, *, fence: int) -> bool:
        """Ask the API server by a dry run; see `slipway.ports.Traffic`."""
        return refused(self._api, "Service", self._spec.namespace, service, fence=fence)

    def read(self, service: str) -> Route:
        """Return the route as the two Services state it."""
        namespace = self._spec.namespace
        return read_plain_services(
            require_object(self._api, "Service", namespace, service),
            require_object(self._api, "Service", namespace, preview_service(service)),
        )

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """Look until both Services' endpoints are those of the route, and have been for a while.

        The while, `router.propagation_s`, comes on top of `timeout_s`.
        """
        started = time.monotonic()
        deadline = started + timeout_s + self._spec.router.propagation_s
        right_since: float | None = None
        while True:
            wrong = self._why_not(route)
            now = time.monotonic()
            right_since = None if wrong else right_since or now
            if right_since is not None and now - right_since >= self._spec.router.propagation_s:
                break
            if now > deadline:
                raise not_confirmed(
                    f"service {route.service} is not served by route {route.revision} after"
                    f" {timeout_s:.0f} s: {wrong}"
                )
            time.sleep(_LOOK_EVERY_S)  # between two looks; the deadline decides
        waited_ms = (time.monotonic() - started) * 1000
        return RouteProof(revision=route.revision, requests=_PROOF_REQUESTS, waited_ms=waited_ms)

    def open_streams(self, service: str, slot: Slot) -> int | None:  # noqa: ARG002  # the port's
        """Return None: whoever calls a plain Service, nobody counts by slot on the way."""
        return None

    def await_known(self, backends: Iterable[Backend]) -> None:
        """Return at once: nobody is to learn of a selector but the endpoints."""

    def confirm_handed_over(self, *, timeout_s: float) -> None:
        """Return at once: a Service has no answer of its own."""

    def access_end(self, service: str) -> LogPosition:
        """Return the end of the gateway's access log, if there is a gateway in front."""
        return self._gateway.access_end(service) if self._spec.router.access_log else _UNSEEN

    def access_rows(self, service: str, *, after: LogPosition) -> AccessTail:
        """Return the rows of a gateway in front of the Service, told apart by pod."""
        if not self._spec.router.access_log:
            return AccessTail(rows=(), end=_UNSEEN)
        wanted = host_of(service, self._spec.namespace)

        def meant(row: AccessRow) -> Meaning | None:
            return Meaning(by_pod=True) if row.service == wanted else None

        return self._gateway.access_rows(service, after=after, meant=meant, pods=self._pods)

    def split_filter_in_force(self) -> bool:
        """Return True: it divides nobody."""
        return True

    def way_in(self, preview: Preview | None) -> WayIn:
        """Return the Service's in-cluster name; see `slipway.ports.Traffic`."""
        return by_service(self._access, self._spec, preview)

    def _why_not(self, route: Route) -> str | None:
        """Return what is not yet as the route says, None when everything is."""
        if self.read(route.service) != route:
            return "its Services state another route"
        serves = route.shares[0].slot if route.shares else None
        tried = route.preview.slot if route.preview else None
        for name, slot in ((self._spec.name, serves), (preview_service(self._spec.name), tried)):
            wrong = self._foreign_endpoints(name, slot)
            if wrong is not None:
                return wrong
        return None if serves is None else self._unanswered()

    def _foreign_endpoints(self, service: str, slot: Slot | None) -> str | None:
        """Return what is wrong with a Service's ready endpoints, None when all are the slot's."""
        found = self._list("EndpointSlice", {_SLICE_SERVICE_LABEL: service})
        ready = {
            endpoint.get("targetRef", {}).get("name", "an endpoint without a pod")
            for item in found
            for endpoint in item.get("endpoints") or ()
            if endpoint.get("conditions", {}).get("ready", True)
        }
        if slot is None:
            return f"Service {service} still has endpoints: {_some(ready)}" if ready else None
        if not ready:
            return f"Service {service} has no ready endpoint"
        pods = self._list("Pod", {SERVES_LABEL: self._spec.name, SLOT_LABEL: slot.value})
        foreign = ready - {pod["metadata"]["name"] for pod in pods}
        return f"Service {service} still has endpoints: {_some(foreign)}" if foreign else None

    def _unanswered(self) -> str | None:
        """Return why the Service does not answer, None when it does."""
        way = self.way_in(None)
        url = f"{way.url}{self._spec.path_prefixes[0]}/models"
        headers = {PURPOSE_HEADER: "probe", "Connection": "close"}
        for _ in range(_PROOF_REQUESTS):
            try:
                answer = self._http.get(url, headers=headers)
            except httpx.HTTPError as error:
                return f"{url}: {type(error).__name__}: {error}"
            if not answer.is_success:
                return f"{url} answers {answer.status_code}"
        return None

    def _list(self, kind: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        found = self._api.get(
            object_path(kind, self._spec.namespace), query={"labelSelector": selector}
        )
        items: list[dict[str, Any]] = (found or {}).get("items") or []
        return items


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (" …" if len(names) > 3 else "")
