"""Requests as the gateway saw them: one row a request, and what may be said of it without a clock.

The rows come from the gateway's access log (`slipway.manifests.access_log` says what is logged,
`slipway.adapters.access_log` reads it). They are evidence for any server kind: status, cut streams,
time to the first token and the spacing of tokens, per pod and slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

from slipway.core.routing import PREVIEW_RULE

CLIENT_LEFT = "DC"
"""Envoy's response flag: the client closed the connection first."""

NO_ROUTE = "NR"
"""Envoy's response flag: no route matched. Its 404 is our fault, not the user's."""

CUT_FLAGS = frozenset({"DC", "DPE", "DT", "LR", "OM", "SI", "UC", "UPE", "UR", "UT"})
"""Response flags of answers that ended before their end: resets, protocol errors, time-outs.

Source: Envoy, `docs/root/configuration/observability/access_log/usage.rst`, `%RESPONSE_FLAGS%`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """A place between two rows of the gateway's access log.

    Args:
        log: which file; another one once the log was begun anew.
        offset_bytes: of the rows before it.
    """

    log: str
    offset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRow:
    """One finished request.

    Args:
        started_ns: when its first byte reached the gateway, Unix time.
        route: name of the route that matched.
        route_revision: `x-slipway-route` of the answer: which write of the route served it.
        host: Host header.
        service: host name of the service it was sent to, empty when to none.
        subset: of the service, that it was sent to; empty where it has none.
        slot: `blue` or `green`: that of the subset, else `x-slipway-slot` of the answer.
        pod: address and port of the pod that answered, empty when none did.
        status: HTTP status; 0 when no answer began.
        flags: Envoy's response flags, empty for a plain answer.
        details: Envoy's reason for the status, for example `via_upstream`.
        method: HTTP method.
        path: without query.
        content_type: of the answer.
        content_length_bytes: as the answer announced it; None when it did not.
        bytes_received: body bytes of the request.
        bytes_sent: body bytes of the answer.
        duration_ms: from the first byte of the request to the last of the answer.
        attempts: how often the gateway sent it on, 1 without a retry.
        request_id: `x-request-id`.
        session_id: `x-session-id`.
        user_agent: of the client.
        purpose: `x-slipway-purpose`: set on traffic of our own (smoke, benchmark, warm-up).
        ttft_us: request start to the first event that carries output; None without such an event.
        token_events: events that carried output.
        token_span_us: first to last of them.
        done_seen: the stream's closing `[DONE]` passed.
        error_seen: an event that carries an error passed.
        fell_back: it was meant for `slot`, none of whose pods answered, so another slot did.
    """

    started_ns: int
    route: str = ""
    route_revision: str = ""
    host: str = ""
    service: str = ""
    subset: str = ""
    slot: str = ""
    pod: str = ""
    status: int
    flags: frozenset[str] = frozenset()
    details: str = ""
    method: str = ""
    path: str = ""
    content_type: str = ""
    content_length_bytes: int | None = None
    bytes_received: int = 0
    bytes_sent: int = 0
    duration_ms: int = 0
    attempts: int = 0
    request_id: str = ""
    session_id: str = ""
    user_agent: str = ""
    purpose: str = ""
    ttft_us: int | None = None
    token_events: int = 0
    token_span_us: int = 0
    done_seen: bool = False
    error_seen: bool = False
    fell_back: bool = False

    @property
    def streaming(self) -> bool:
        """Whether the answer is a stream of server-sent events."""
        return self.content_type.startswith("text/event-stream")

    @property
    def client_left(self) -> bool:
        """Whether the client went away first: its choice, or its patience."""
        return CLIENT_LEFT in self.flags

    @property
    def complete(self) -> bool:
        """Whether the whole answer was passed on.

        A stream is complete when its `[DONE]` passed: a server that dies between two events may
        close its connection as if it had finished. Any other answer is complete when nothing cut it
        and its announced length was sent.
        """
        if self.streaming:
            return self.done_seen
        if self.status == 0 or self.flags & CUT_FLAGS:
            return False
        if self.content_length_bytes is None or self.method == "HEAD":
            return True
        return self.bytes_sent == self.content_length_bytes

    @property
    def truncated(self) -> bool:
        """Whether a good answer began and broke off, the client still being there."""
        began = HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES
        return began and not self.complete and not self.client_left

    @property
    def failed(self) -> bool:
        """Whether the user was failed: no answer, 5xx, no route, a stream with an error or cut.

        Other 4xx answers are the client's own. A client that left before any answer is no failure.
        """
        if self.status == 0:
            return not self.client_left
        server_fault = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or NO_ROUTE in self.flags
        return server_fault or self.error_seen or self.truncated

    @property
    def itl_us(self) -> float | None:
        """Mean time between output events: token_span_us / (token_events − 1); None below two."""
        if self.token_events < 2:  # an interval needs two events
            return None
        return self.token_span_us / (self.token_events - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessTail:
    """What was logged since a position, and where the next look begins."""

    rows: tuple[AccessRow, ...]
    end: LogPosition


def user_rows(rows: Iterable[AccessRow]) -> tuple[AccessRow, ...]:
    """Return the rows of users.

    What Slipway itself marked with a purpose never counts, nor what came by the preview header.
    """
    return tuple(row for row in rows if not row.purpose and row.route != PREVIEW_RULE)


def failures(rows: Iterable[AccessRow]) -> tuple[AccessRow, ...]:
    """Return the rows in which the user was failed, truncated ones included."""
    return tuple(row for row in rows if row.failed)


def truncated(rows: Iterable[AccessRow]) -> tuple[AccessRow, ...]:
    """Return the rows whose answer began well and broke off (`AccessRow.truncated`)."""
    return tuple(row for row in rows if row.truncated)


def of_slot(rows: Iterable[AccessRow], slot: str) -> tuple[AccessRow, ...]:
    """Return the rows that one slot answered."""
    return tuple(row for row in rows if row.slot == slot)
