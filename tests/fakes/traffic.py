"""The Traffic port on the fake cluster, and the gateway that users call."""

from __future__ import annotations

from slipway.core.errors import PermanentError, TransientError
from slipway.core.routing import PREVIEW_HEADER, Preview, Route, Slot
from slipway.core.traffic import AccessTail, LogPosition
from slipway.ports.traffic import RouteProof, WayIn
from tests.fakes.cluster import FakeCluster, next_figure

_LOOKS_PER_TIMEOUT = 100
_KINDS = ("VirtualService", "DestinationRule")


class FakeTraffic:
    """Routes in memory, and a gateway that takes them over when it has been looked at enough."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._journal = cluster.journal

    def apply(self, route: Route, *, fence: int | None = None) -> None:
        """Write the route; one that would harm users is noted as a violation and refused."""
        self._journal.reach()
        unchanged = self.read(route.service) == route
        for kind in _KINDS:
            self._cluster.fence_off(kind, route.service, fence, service=route.service)
        if unchanged:
            return
        self._require_ready(route)
        self._cluster.routes[route.service] = route
        self._journal.wrote(f"route {_words(route)}")

    def stamp(self, service: str, *, fence: int) -> None:
        """Put a fencing number on both route objects, one after the other."""
        self._journal.reach()
        self.read(service)
        for kind in _KINDS:
            before = self._cluster.fences.get((kind, service))
            self._cluster.fence_off(kind, service, fence, service=service)
            if before != fence:
                self._journal.wrote(f"stamp {kind} {service}")

    def refuses(self, service: str, *, fence: int) -> bool:
        """Return whether the number is too small, where the policies are in force."""
        self._journal.reach()
        self._require_installed(service)
        number = self._cluster.fences.get((_KINDS[0], service))
        least = self._cluster.leases[service].fence if number is None else number
        return self._cluster.enforced and fence < least

    def read(self, service: str) -> Route:
        """Return the route as last written."""
        self._journal.reach()
        self._require_installed(service)
        if self._cluster.edited_route:
            raise PermanentError(
                self._cluster.edited_route, code="route-foreign", hint="undo the edit"
            )
        return self._cluster.routes[service]

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """Look at the gateway until it serves by `route`."""
        self._journal.reach()
        for look in range(_LOOKS_PER_TIMEOUT):
            served = self._cluster.look_at_gateway(route.service)
            if served.revision == route.revision:
                return RouteProof(revision=route.revision, requests=10, waited_ms=float(look))
            self._cluster.clock.advance(timeout_s / _LOOKS_PER_TIMEOUT)
        raise TransientError(
            f"the gateway does not serve service {route.service} by route {route.revision}"
            f" but by {served.revision}",
            code="route-not-confirmed",
            hint="look at the gateway",
        )

    def open_streams(self, service: str, slot: Slot) -> int | None:
        """Return the next figure of open requests."""
        self._journal.reach()
        return next_figure(self._cluster.streams.get(slot, []))

    def split_filter_in_force(self) -> bool:
        """Return whether an administrator has installed it."""
        self._journal.reach()
        return self._cluster.split_filter

    def way_in(self, preview: Preview | None) -> WayIn:
        """Return the gateway, with the preview's header."""
        self._journal.reach()
        headers = {} if preview is None else {PREVIEW_HEADER: preview.token}
        return WayIn(url="http://gateway", headers=headers, proxy=None, names_slot=True)

    def access_end(self, service: str) -> LogPosition:
        """Return where the rows end; a row is as long as a byte."""
        self._journal.reach()
        return LogPosition(log="rows", offset_bytes=len(self._cluster.rows))

    def access_rows(self, service: str, *, after: LogPosition) -> AccessTail:
        """Return the rows since a position."""
        self._journal.reach()
        rows = tuple(self._cluster.rows)
        end = LogPosition(log="rows", offset_bytes=len(rows))
        return AccessTail(rows=rows[after.offset_bytes :], end=end)

    def _require_installed(self, service: str) -> None:
        if service not in self._cluster.routes:
            raise _not_installed(service)

    def _require_ready(self, route: Route) -> None:
        """R1, R2 and R5, against what the cluster holds at this moment.

        No write points traffic at a slot that cannot serve while another one can, and none gives a
        slot more users than its ready pods carry.
        """
        ready = {slot: self._cluster.ready_count(route.service, slot) for slot in Slot}
        now = self._cluster.routes[route.service]
        for slot in Slot:
            newly = route.percent(slot) > now.percent(slot) or (
                route.names(slot) and not now.names(slot)
            )
            if newly and ready[slot] == 0 and any(ready.values()):
                violation = f"route to slot {slot} without ready pods: {_words(route)}"
                self._violate(violation)
            share = route.percent(slot)
            if now.percent(slot) < share < 100 and share * self._needed(route) > 100 * ready[slot]:
                self._violate(f"{ready[slot]} ready pods for {share} %: {_words(route)}")

    def _needed(self, route: Route) -> int:
        deployments = [
            item for slot in Slot for item in self._cluster.slot_deployments(route.service, slot)
        ]
        return max((item.replicas for item in deployments), default=0)

    def _violate(self, what: str) -> None:
        self._cluster.violations.append(what)
        raise AssertionError(what)


def _words(route: Route) -> str:
    shares = ", ".join(f"{share.slot} {share.percent}" for share in route.shares) or "nobody"
    preview = f", preview {route.preview.slot}" if route.preview else ""
    return f"{shares}{preview}, subsets {'+'.join(sorted(route.subsets)) or 'none'}"


def _not_installed(service: str) -> PermanentError:
    return PermanentError(
        f"VirtualService serving/{service} does not exist",
        code="not-installed",
        hint=f"an administrator installs the service first: slipway install {service}",
    )
