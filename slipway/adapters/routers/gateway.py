"""What an Envoy gateway itself says: by which route it answers, what is open, what it logged."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from slipway.adapters.access_log import log_end, read_tail
from slipway.adapters.routers.pods import SlotPods
from slipway.core.errors import TransientError
from slipway.core.routing import PURPOSE_HEADER, ROUTE_HEADER, SLOT_HEADER, Route
from slipway.core.service import ServiceSpec
from slipway.core.traffic import AccessRow, AccessTail, LogPosition
from slipway.ports.traffic import Backend, RouteProof

_POLL_S = 0.05
PROPAGATION_TIMEOUT_S = 20.0
_PROOF_REQUESTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAccess:
    """How to reach the gateway, and the cluster behind it, from here.

    Args:
        url: base URL that users call.
        admin_urls: Envoy's admin interface of every gateway pod; empty where it is not reachable.
        access_log: the gateway's access log in the format of `slipway.manifests.access_log`.
        cluster_proxy: HTTP proxy that resolves in-cluster names; None inside the cluster.
        pod_prefix: how addresses of pods begin as the gateway dials them, and as the cluster shows
            them; equal everywhere but in the sandbox.
    """

    url: str
    admin_urls: tuple[str, ...] = ()
    access_log: Path | None = None
    cluster_proxy: str | None = None
    pod_prefix: tuple[str, str] = ("", "")

    def pod_address(self, dialled: str) -> str:
        """Return the address:port of a pod as the cluster shows it."""
        begins, shown = self.pod_prefix
        return shown + dialled[len(begins) :] if dialled.startswith(begins) else dialled


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """Which slot a request was meant for.

    Args:
        slot: its name.
        may_fall_back: another slot may have answered it.
        by_pod: only the pod that answered tells.
    """

    slot: str = ""
    may_fall_back: bool = False
    by_pod: bool = False


Meant = Callable[[AccessRow], Meaning | None]
"""Returns which slot a row is of; None leaves the row out."""


class Gateway:
    """The gateway in front of one service."""

    def __init__(self, access: GatewayAccess, spec: ServiceSpec) -> None:
        self._access = access
        self._spec = spec
        self._http = httpx.Client(trust_env=False, timeout=5.0)
        # Its connections end with it: a port has no verb for that.
        weakref.finalize(self, self._http.close)

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """Ask the gateway until only answers of this route come back.

        Raises:
            TransientError: it did not serve by it in time; says what it served by instead.
        """
        started = time.monotonic()
        deadline = started + timeout_s
        streak, last = 0, "nothing yet"
        while streak < _PROOF_REQUESTS:
            good, last = self._probe(route)
            streak = streak + 1 if good else 0
            if time.monotonic() > deadline:
                raise not_confirmed(
                    f"the gateway does not serve service {route.service} by route "
                    f"{route.revision} after {timeout_s:.0f} s (last answer: {last})"
                )
            if not good:
                time.sleep(_POLL_S)  # between two looks; the deadline decides
        waited_ms = (time.monotonic() - started) * 1000
        return RouteProof(revision=route.revision, requests=streak, waited_ms=waited_ms)

    def confirm_handed_over(self, *, timeout_s: float) -> None:
        """Ask the gateway until only answers of somebody else's route come back.

        Raises:
            TransientError: it did not serve by one in time.
        """
        streak, last = 0, "nothing yet"

        def by_another() -> bool:
            nonlocal streak, last
            answer, last = self._ask()
            good = answer is not None and ROUTE_HEADER not in answer.headers
            streak = streak + 1 if good and answer is not None and answer.status_code < 500 else 0
            return streak >= _PROOF_REQUESTS

        wait_until(
            by_another,
            timeout_s=timeout_s,
            what=f"the gateway does not serve {self._spec.hosts[0]} by another route (last answer:"
            f" {last})",
            hint="look at that route: kubectl describe; and at istiod's log",
        )

    def await_clusters(self, names: Iterable[str]) -> None:
        """Wait until every gateway pod knows endpoints of each of these clusters of Envoy.

        Raises:
            TransientError: one does not in time.
        """
        wanted = set(names)
        wait_until(
            lambda: all(wanted <= self._known_clusters(url) for url in self._access.admin_urls),
            timeout_s=PROPAGATION_TIMEOUT_S,
            what=f"the gateway does not know the endpoints of {', '.join(sorted(wanted))}",
        )

    def active_requests(
        self, clusters: Sequence[str], *, may_be_unknown: Callable[[str], bool]
    ) -> int:
        """Return the open requests towards some clusters of Envoy, over all gateway pods.

        Args:
            clusters: their names.
            may_be_unknown: asked when a gateway pod does not know one: whether that is in order.

        Raises:
            TransientError: a gateway pod does not say; no data is not zero.
        """
        return sum(self._active(url, clusters, may_be_unknown) for url in self._access.admin_urls)

    def access_end(self, service: str) -> LogPosition:
        """Return the end of the gateway's access log."""
        return log_end(self._access_log(service))

    def access_rows(
        self, service: str, *, after: LogPosition, meant: Meant, pods: SlotPods
    ) -> AccessTail:
        """Return the gateway's rows since a position, with pods as the cluster shows them.

        Args:
            service: that is asked about.
            after: which position.
            meant: which slot each row is of.
            pods: of the service.
        """
        tail = read_tail(
            self._access_log(service), after=after, pod_address=self._access.pod_address
        )
        found = [(row, meaning) for row in tail.rows if (meaning := meant(row)) is not None]
        if any(meaning.by_pod or meaning.may_fall_back for _, meaning in found):
            pods.learn()
        return replace(tail, rows=tuple(_resolved(row, meaning, pods) for row, meaning in found))

    def _access_log(self, service: str) -> Path:
        if self._access.access_log is None:
            raise TransientError(
                f"no access log of the gateway is configured for service {service}",
                code="access-log-missing",
                hint="set SLIPWAY_ACCESS_LOG",
            )
        return self._access.access_log

    def _probe(self, route: Route) -> tuple[bool, str]:
        answer, said = self._ask()
        if answer is None:
            return False, said
        expected = {share.slot.value for share in route.shares} or {""}
        right = answer.headers.get(SLOT_HEADER, "") in expected
        return right and answer.headers.get(ROUTE_HEADER) == route.revision, said

    def _ask(self) -> tuple[httpx.Response | None, str]:
        """Return an answer, None without one, and what to say about it."""
        # A fresh connection each time: the workers of the gateway learn of a route one by one.
        headers = {"Host": self._spec.hosts[0], PURPOSE_HEADER: "probe", "Connection": "close"}
        url = f"{self._access.url}{self._spec.path_prefixes[0].rstrip('/')}/models"
        try:
            answer = self._http.get(url, headers=headers)
        except httpx.HTTPError as error:
            return None, f"{type(error).__name__}: {error}"
        revision = answer.headers.get(ROUTE_HEADER, "no route header")
        slot = answer.headers.get(SLOT_HEADER) or "none"
        return answer, f"status {answer.status_code}, route {revision}, slot {slot}"

    def _known_clusters(self, admin_url: str) -> set[str]:
        statuses = self._admin(admin_url, "/clusters", {"format": "json"})
        return {
            item["name"]
            for item in statuses.get("cluster_statuses", [])
            if item.get("host_statuses")
        }

    def _active(
        self, admin_url: str, clusters: Sequence[str], may_be_unknown: Callable[[str], bool]
    ) -> int:
        statuses = self._admin(admin_url, "/clusters", {"format": "json"})
        known = {item["name"] for item in statuses.get("cluster_statuses", [])}
        unknown = [name for name in clusters if name not in known and not may_be_unknown(name)]
        if unknown:
            raise TransientError(
                f"the gateway at {admin_url} reports nothing of {', '.join(unknown)}",
                code="gateway-stats-missing",
                hint="look at the gateway's /clusters; no data is not zero",
            )
        stats = self._admin(
            admin_url, "/stats", {"format": "json", "filter": "upstream_rq_active$"}
        ).get("stats", [])
        return sum(_count(stats, name, admin_url) for name in clusters if name in known)

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


def _count(stats: Sequence[Mapping[str, Any]], cluster: str, admin_url: str) -> int:
    # Newer Istio ends the cluster's part of the name with a semicolon, its delimiter.
    wanted = {f"cluster.{cluster}{end}.upstream_rq_active" for end in ("", ";")}
    values = [int(item["value"]) for item in stats if item.get("name") in wanted]
    if len(values) != 1:
        raise TransientError(
            f"the gateway at {admin_url} reports {len(values)} counts of open requests to "
            f"{cluster}",
            code="gateway-stats-missing",
            hint="look at the gateway's /stats; no data is not zero",
        )
    return values[0]


def cluster_name(backend: Backend) -> str:
    """Return what Istio has a gateway call a backend."""
    return f"outbound|{backend.port}|{backend.subset}|{backend.host}"


def not_confirmed(what: str) -> TransientError:
    """Return the error of a route that was not seen to be in force in time."""
    return TransientError(
        what,
        code="route-not-confirmed",
        hint="look at istiod's log and at the gateway's config dump",
    )


def wait_until(
    condition: Callable[[], bool],
    *,
    timeout_s: float,
    what: str,
    hint: str = "look at istiod's log; is the slot's Deployment ready?",
) -> None:
    """Look until it is so.

    Raises:
        TransientError: `route-not-propagated`, it was not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TransientError(
                f"{what} after {timeout_s:.0f} s",
                code="route-not-propagated",
                hint=hint,
            )
        time.sleep(_POLL_S)  # between two looks; the deadline decides


def _resolved(row: AccessRow, meaning: Meaning, pods: SlotPods) -> AccessRow:
    if meaning.by_pod:
        return replace(row, slot=pods.slot_of(row.pod))
    # A pod that nobody ever saw is not taken for one of the slot.
    fell_back = meaning.may_fall_back and bool(row.pod) and pods.slot_of(row.pod) != meaning.slot
    if fell_back or row.slot != meaning.slot:
        return replace(row, slot=meaning.slot, fell_back=fell_back)
    return row
