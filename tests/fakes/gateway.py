"""The gateway as users see it: answers by the route it serves by, on the fake cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

    def stream(self) -> int:
        """Let one user stream an answer, and log it; returns the status."""
        route = self._cluster.look_at_gateway(self._service)
        # 61 and 100 have no common divisor: each hundred users are split exactly, and evenly.
        slot = _slot_of(route, self._users * 61 % 100)
        self._users += 1
        able = slot is not None and self._cluster.ready_count(self._service, slot) > 0
        status = 200 if able else 503
        if slot is not None:
            self._asked[slot] += 1
            if self.fails_every[slot] and self._asked[slot] % self.fails_every[slot] == 0:
                status = 500
        good = status == 200
        self._cluster.rows.append(
            AccessRow(
                started_ns=self._cluster.clock.time_ns(),
                status=status,
                route=USERS_RULE,
                slot=slot.value if slot else "",
                route_revision=route.revision,
                content_type="text/event-stream" if good else "",
                ttft_us=round(self.ttft_ms[slot] * 1000) if good and slot else None,
                done_seen=good,
            )
        )
        return status

    def ask(self, headers: Mapping[str, str]) -> GatewayAnswer:
        """Send one request with these headers, and log it."""
        route = self._cluster.look_at_gateway(self._service)
        slot = _destination(route, headers)
        able = slot is not None and self._cluster.ready_count(self._service, slot) > 0
        answer = GatewayAnswer(
            status=self.status if able else 503,
            slot=slot.value if slot else "",
            revision=route.revision,
        )
        self._cluster.rows.append(
            AccessRow(
                started_ns=self._cluster.clock.time_ns(),
                status=answer.status,
                slot=answer.slot,
                route_revision=answer.revision,
                purpose=headers.get(PURPOSE_HEADER, ""),
            )
        )
        return answer

    def post(
        self, url: str, *, json: Any, headers: Mapping[str, str], timeout: float, trust_env: bool
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
