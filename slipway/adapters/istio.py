"""Traffic on Istio: a VirtualService and a DestinationRule per service, proved at the gateway."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from slipway.adapters.access_log import log_end, read_tail
from slipway.adapters.kubernetes import require_object
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.core.errors import ConflictError, TransientError
from slipway.core.routing import PURPOSE_HEADER, ROUTE_HEADER, SLOT_HEADER, Route, Slot
from slipway.core.service import ServiceSpec
from slipway.core.traffic import AccessTail, LogPosition
from slipway.manifests.traffic import destination_rule, read_route, virtual_service
from slipway.ports import RouteProof

_POLL_S = 0.05
_PROOF_REQUESTS = 10
_PROPAGATION_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAccess:
    """How to reach the gateway from here.

    Args:
        url: base URL that users call.
        admin_urls: Envoy's admin interface of every gateway pod; empty where it is not reachable.
        access_log: the gateway's access log in the format of `slipway.manifests.access_log`.
    """

    url: str
    admin_urls: tuple[str, ...] = ()
    access_log: Path | None = None


class IstioTraffic:
    """The Traffic port of one service."""

    def __init__(self, api: KubernetesApi, spec: ServiceSpec, gateway: GatewayAccess) -> None:
        self._api = api
        self._spec = spec
        self._gateway = gateway
        self._http = httpx.Client(trust_env=False, timeout=5.0)
        # Its connections end with it: a port has no verb for that.
        weakref.finalize(self, self._http.close)

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
            self._await_subsets(route.subsets)
        self._api.apply(virtual_service(self._spec, route, fence=fence))
        if known != route.subsets:
            self.confirm(route, timeout_s=_PROPAGATION_TIMEOUT_S)
            narrowed = destination_rule(
                self._spec, route.subsets, revision=route.revision, fence=fence
            )
            self._api.apply(narrowed)

    def stamp(self, service: str, *, fence: int) -> None:
        """Put a fencing number on both objects; see `slipway.ports.Traffic`."""
        for kind in ("VirtualService", "DestinationRule"):
            require_object(self._api, kind, self._spec.namespace, service)
            self._api.stamp(kind, self._spec.namespace, service, fence=fence)

    def refuses(self, service: str, *, fence: int) -> bool:
        """Ask the API server by a dry run; see `slipway.ports.Traffic`."""
        namespace = self._spec.namespace
        try:
            self._api.stamp("VirtualService", namespace, service, fence=fence, dry_run=True)
        except ConflictError as error:
            if error.code != "lock-lost":
                raise
            return True
        return False

    def read(self, service: str) -> Route:
        """Return the route as the two objects state it."""
        namespace = self._spec.namespace
        return read_route(
            require_object(self._api, "VirtualService", namespace, service),
            require_object(self._api, "DestinationRule", namespace, service),
        )

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """Ask the gateway until only answers of this route come back."""
        started = time.monotonic()
        deadline = started + timeout_s
        streak, last = 0, "nothing yet"
        while streak < _PROOF_REQUESTS:
            good, last = self._probe(route)
            streak = streak + 1 if good else 0
            if time.monotonic() > deadline:
                raise TransientError(
                    f"the gateway does not serve service {route.service} by route "
                    f"{route.revision} after {timeout_s:.0f} s (last answer: {last})",
                    code="route-not-confirmed",
                    hint="look at istiod's log and at the gateway's config dump",
                )
            if not good:
                time.sleep(_POLL_S)
        waited_ms = (time.monotonic() - started) * 1000
        return RouteProof(revision=route.revision, requests=streak, waited_ms=waited_ms)

    def open_streams(self, service: str, slot: Slot) -> int:
        """Sum Envoy's active requests towards the slot over all gateway pods."""
        return sum(self._active_requests(url, service, slot) for url in self._gateway.admin_urls)

    def access_end(self, service: str) -> LogPosition:
        """Return the end of the gateway's access log."""
        return log_end(self._access_log(service))

    def access_rows(self, service: str, *, after: LogPosition) -> AccessTail:
        """Return the gateway's rows of the service since a position."""
        tail = read_tail(self._access_log(service), after=after)
        rows = tuple(row for row in tail.rows if row.service.split(".")[0] == service)
        return replace(tail, rows=rows)

    def _access_log(self, service: str) -> Path:
        if self._gateway.access_log is None:
            raise TransientError(
                f"no access log of the gateway is configured for service {service}",
                code="access-log-missing",
                hint="set SLIPWAY_ACCESS_LOG",
            )
        return self._gateway.access_log

    def _probe(self, route: Route) -> tuple[bool, str]:
        # A fresh connection each time: the workers of the gateway learn of a route one by one.
        headers = {"Host": self._spec.hosts[0], PURPOSE_HEADER: "probe", "Connection": "close"}
        url = f"{self._gateway.url}{self._spec.path_prefixes[0]}/models"
        try:
            answer = self._http.get(url, headers=headers)
        except httpx.HTTPError as error:
            return False, f"{type(error).__name__}: {error}"
        revision = answer.headers.get(ROUTE_HEADER, "no route header")
        slot = answer.headers.get(SLOT_HEADER, "")
        expected = {share.slot.value for share in route.shares} or {""}
        good = revision == route.revision and slot in expected
        return good, f"status {answer.status_code}, route {revision}, slot {slot or 'none'}"

    def _await_subsets(self, slots: frozenset[Slot]) -> None:
        names = {self._cluster(self._spec.name, slot) for slot in slots}

        def all_known() -> bool:
            return all(names <= self._known_clusters(url) for url in self._gateway.admin_urls)

        _wait_until(
            all_known,
            timeout_s=_PROPAGATION_TIMEOUT_S,
            what=f"the gateway does not know the endpoints of {', '.join(sorted(names))}",
        )

    def _known_clusters(self, admin_url: str) -> set[str]:
        statuses = self._admin(admin_url, "/clusters", {"format": "json"})
        return {
            item["name"]
            for item in statuses.get("cluster_statuses", [])
            if item.get("host_statuses")
        }

    def _active_requests(self, admin_url: str, service: str, slot: Slot) -> int:
        cluster = self._cluster(service, slot)
        statuses = self._admin(admin_url, "/clusters", {"format": "json"})
        known = {item["name"]: item for item in statuses.get("cluster_statuses", [])}
        if cluster not in known:
            if slot not in self.read(service).subsets:
                return 0
            raise TransientError(
                f"the gateway at {admin_url} reports nothing of {cluster}",
                code="gateway-stats-missing",
                hint="look at the gateway's /clusters; no data is not zero",
            )
        stats = self._admin(
            admin_url, "/stats", {"format": "json", "filter": "upstream_rq_active$"}
        )
        # Newer Istio ends the cluster's part of the name with a semicolon, its delimiter.
        wanted = {f"cluster.{cluster}{end}.upstream_rq_active" for end in ("", ";")}
        values = [int(i["value"]) for i in stats.get("stats", []) if i.get("name") in wanted]
        if len(values) != 1:
            raise TransientError(
                f"the gateway at {admin_url} reports {len(values)} counts of open requests to "
                f"{cluster}",
                code="gateway-stats-missing",
                hint="look at the gateway's /stats; no data is not zero",
            )
        return values[0]

    def _admin(self, admin_url: str, path: str, params: dict[str, str]) -> dict[str, Any]:
        try:
            answer = self._http.get(admin_url + path, params=params)
            answer.raise_for_status()
            decoded: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise TransientError(
                f"the gateway's admin interface {admin_url}{path} does not answer: {error}",
                code="gateway-unreachable",
                hint="check that the gateway runs: slipway sandbox status",
            ) from error
        return decoded

    def _cluster(self, service: str, slot: Slot) -> str:
        return f"outbound|80|{slot}|{service}.{self._spec.namespace}.svc.cluster.local"


def _wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TransientError(
                f"{what} after {timeout_s:.0f} s",
                code="route-not-propagated",
                hint="look at istiod's log; is the slot's Deployment ready?",
            )
        time.sleep(_POLL_S)
