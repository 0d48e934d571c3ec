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
    """

    def __init__(self, cluster: FakeCluster, service: str) -> None:
        self._cluster = cluster
        self._service = service
        self.text = "pong"
        self.status = 200
        self.broken = False

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


def _destination(route: Route, headers: Mapping[str, str]) -> Slot | None:
    if route.preview is not None and headers.get(PREVIEW_HEADER) == route.preview.token:
        return route.preview.slot
    return max(route.shares, key=lambda share: share.percent).slot if route.shares else None
