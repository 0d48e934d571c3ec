"""Who gets the users' requests, and what model servers and gateways say of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from slipway.core.routing import Preview, Route, Slot
from slipway.core.service import ServerKind
from slipway.core.traffic import AccessTail, LogPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteProof:
    """What showed that a route is in force.

    Args:
        revision: of the route, as the gateway reported it.
        requests: consecutive answers through the gateway that carried the revision.
        waited_ms: from the write to the proof.
    """

    revision: str
    requests: int
    waited_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WayIn:
    """How a request of our own reaches a slot.

    Args:
        url: base URL.
        headers: that bring it there.
        proxy: HTTP proxy to go through; None goes straight.
        names_slot: an answer says in `SLOT_HEADER` which slot it came from.
    """

    url: str
    headers: Mapping[str, str]
    proxy: str | None
    names_slot: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What a route leads to, as a gateway tells it apart.

    Args:
        host: of the Kubernetes Service, fully qualified.
        port: of the Service.
        subset: of its pods, by a DestinationRule; empty for all.
    """

    host: str
    port: int
    subset: str = ""


class Metrics(Protocol):
    """What model servers say of themselves."""

    def running_requests(self, kind: ServerKind, addresses: Sequence[str]) -> int:
        """Return how many requests the servers at `addresses` (pod IPs) have open now.

        Raises:
            TransientError: a server does not answer; no data is not zero.
            PermanentError: it does not say how many (`metric-missing`).
        """


class Traffic(Protocol):
    """Who gets the users' requests of a service."""

    def apply(self, route: Route, *, fence: int | None = None) -> None:
        """Write the route, make before break; may be repeated.

        Args:
            fence: number of the lock it is written under; a guarded port puts its own here.

        Raises:
            ConflictError: `lock-lost`, a higher number stands on the route objects.
            InputError: `route-unsupported`, the router cannot say that.
            PermanentError: the route objects are missing (the service is not installed), or the
                router refuses them (`route-refused`).
        """

    def stamp(self, service: str, *, fence: int) -> None:
        """Put a fencing number on the route objects; may be repeated.

        Raises:
            ConflictError: `lock-lost`, a higher number stands there.
            PermanentError: they are missing (the service is not installed).
        """

    def refuses(self, service: str, *, fence: int) -> bool:
        """Return whether this number would be refused as too small; nothing is written.

        Raises:
            PermanentError: the route objects are missing (the service is not installed).
        """

    def read(self, service: str) -> Route:
        """Return the route as the cluster's objects state it."""

    def confirm(self, route: Route, *, timeout_s: float) -> RouteProof:
        """Wait until the gateway itself serves by `route`.

        Raises:
            TransientError: it did not in time; says what it served by instead.
        """

    def open_streams(self, service: str, slot: Slot) -> int | None:
        """Return how many requests the gateway has open towards `slot`.

        None where no gateway tells the slots apart: then only the servers themselves know.
        """

    def way_in(self, preview: Preview | None) -> WayIn:
        """Return how a request reaches the previewed slot; None is the way of the users."""

    def split_filter_in_force(self) -> bool:
        """Return whether the gateway divides users as `router.sticky` and `fall_back` ask for.

        True where nothing beyond the route is needed for it.
        """

    def access_end(self, service: str) -> LogPosition:
        """Return the end of the gateway's access log as it is now.

        Raises:
            TransientError: the log cannot be read.
        """

    def access_rows(self, service: str, *, after: LogPosition) -> AccessTail:
        """Return the gateway's rows of the service since a position, as logged.

        Of a log that was begun anew since then all rows are returned; those that its forerunner got
        after the last look are lost.

        Raises:
            TransientError: the log cannot be read, or which slot a pod is of.
            PermanentError: it is none.
        """


class HandOver(Protocol):
    """What a change between a route of Slipway and one of somebody else waits for."""

    def await_known(self, backends: Iterable[Backend]) -> None:
        """Wait until the gateway knows endpoints of each backend; at once without a gateway.

        Raises:
            TransientError: it does not in time.
        """

    def confirm_handed_over(self, *, timeout_s: float) -> None:
        """Wait until the gateway serves by none of our routes; at once without a gateway.

        Raises:
            TransientError: it still does, or fails users.
        """
