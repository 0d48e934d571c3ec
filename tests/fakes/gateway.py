"""The gateway as users see it: answers by the route it serves by, on the fake cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from slipway.core.routing import (
    PREVIEW_HEADER,
    PURPOSE_HEADER,
    ROUTE_HEADER,
    SLOT_HEADER,
    USERS_RULE,
    Route,
    Slot,
)
from slipway.core.traffic import AccessRow
from tests.fakes.cluster import FakeCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAnswer:
    """What one request got.

    Args:
        slot: value of the slot header, empty when no slot answered.
        revision: value of the route header.
    """

    status: int
    slot: str
    revision: str


@dataclass(kw_only=True)
class _Moment:
    """What is the same for all requests of one moment: equal rows are one value then.

    A row takes longer to make than all the rest of a request.
    """

    now_ns: int
    route: Route
    revision: str = ""
    rows: dict[tuple[Any, ...], AccessRow] = field(default_factory=dict)


class FakeGateway:
    """Serves one service.

    Attributes:
        text: what the model answers.
        status: of answers from a slot; 200, or the fault a test wants.
        broken: every request ends in a connection error.
        ttft_ms: of users' streams, per slot.
        fails_every: per slot, every so manieth request of a user gets a 500; 0 is none.
    """

    def __init__(self, cluster: FakeCluster, service: str) -> None:
        self._cluster = cluster
        self._service = service
        self.text = "pong"
        self.status = 200
        self.broken = False
        self.ttft_ms = dict.fromkeys(Slot, 50.0)
        self.fails_every = dict.fromkeys(Slot, 0)
        self._asked = dict.fromkeys(Slot, 0)
        self._users = 0
        self._moment = _Moment(now_ns=-1, route=Route(service=service))

    def stream(self) -> int:
        """Let one user stream an answer, and log it; returns the status."""
        return self.streams(1)[0]

    def streams(self, users: int) -> list[int]:
        """Let users stream an answer each, all at this moment; returns the statuses."""
        able = {slot: self._cluster.ready_count(self._service, slot) > 0 for slot in Slot}
        return [self._stream(able) for _ in range(users)]

    def _stream(self, able: Mapping[Slot, bool]) -> int:
        route = self._cluster.look_at_gateway(self._service)
        # 61 and 100 have no common divisor: each hundred users are split exactly, and evenly.
        slot = _slot_of(route, self._users * 61 % 100)
        self._users += 1
        status = 200 if slot is not None and able[slot] else 503
        if slot is not None:
            self._asked[slot] += 1
            if self.fails_every[slot] and self._asked[slot] % self.fails_every[slot] == 0:
                status = 500
        good = status == 200
        self._log(
            route,
            status=status,
            route=USERS_RULE,
            slot=slot.value if slot else "",
            content_type="text/event-stream" if good else "",
            ttft_us=round(self.ttft_ms[slot] * 1000) if good and slot else None,
            done_seen=good,
        )
        return status

    def ask(self, headers: Mapping[str, str]) -> GatewayAnswer:
        """Send one request with these headers, and log it."""
        route = self._cluster.look_at_gateway(self._service)
        slot = _destination(route, headers)
        able = slot is not None and self._cluster.ready_count(self._service, slot) > 0
        status, answered_by = self.status if able else 503, slot.value if slot else ""
        purpose = headers.get(PURPOSE_HEADER, "")
        revision = self._log(route, status=status, slot=answered_by, purpose=purpose)
        return GatewayAnswer(status=status, slot=answered_by, revision=revision)

    def _log(self, by: Route, **said: Any) -> str:
        """Log a request; returns the revision of the route that it was served by."""
        now_ns, moment = self._cluster.clock.time_ns(), self._moment
        if moment.route is not by or moment.now_ns != now_ns:
            revision = moment.revision if moment.route is by else by.revision
            moment = self._moment = _Moment(now_ns=now_ns, route=by, revision=revision)
        key = tuple(said.values())
        row = moment.rows.get(key)
        if row is None:
            row = AccessRow(started_ns=now_ns, route_revision=moment.revision, **said)
            moment.rows[key] = row
        self._cluster.rows.append(row)
        return moment.revision

    def post(
        self,
        url: str,
        *,
        json: Any,
        headers: Mapping[str, str],
        timeout: float,
        trust_env: bool,
        proxy: str | None,
    ) -> httpx.Response:
        """Stand in for `httpx.post` towards the gateway."""
        request = httpx.Request("POST", url)
        if self.broken:
            raise httpx.ConnectError("refused", request=request)
        answer = self.ask(headers)
        return httpx.Response(
            answer.status,
            request=request,
            headers={SLOT_HEADER: answer.slot, ROUTE_HEADER: answer.revision},
            json={"choices": [{"message": {"content": self.text}}]},
        )


def _slot_of(route: Route, percentile: int) -> Slot | None:
    for share in route.shares:
        if percentile < share.percent:
            return share.slot
        percentile -= share.percent
    return None


def _destination(route: Route, headers: Mapping[str, str]) -> Slot | None:
    if route.preview is not None and headers.get(PREVIEW_HEADER) == route.preview.token:
        return route.preview.slot
    return max(route.shares, key=lambda share: share.percent).slot if route.shares else None
