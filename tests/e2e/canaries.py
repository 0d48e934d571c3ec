"""What the tests of canaries have in common: steps and limits, what the gateway saw of users."""

from __future__ import annotations

import time
from typing import Any

from slipway.adapters.access_log import read_rows
from slipway.core.traffic import AccessRow, user_rows
from tests.e2e.support import World

STEPS: list[dict[str, Any]] = [{"weight_percent": weight, "bake_s": 2} for weight in (5, 25, 50)]
POLICY: dict[str, Any] = {
    "policy__strategy": "canary",
    "policy__ramp__steps": STEPS,
    "policy__ramp__requests_min": 5,
    # The pauses of a busy machine hit ten requests of one slot and none of the other.
    "policy__ramp__ttft_ratio_max": 20,
}


def rows_of(world: World, service: str, since_ns: int) -> list[AccessRow]:
    """Return the gateway's rows of users, in the order they began."""
    time.sleep(1)  # rows are flushed within a second
    log = world.settings.access_log
    assert log is not None
    rows = user_rows(read_rows(log, since_ns=since_ns))
    mine = [row for row in rows if row.service.split(".")[0] == service]
    return sorted(mine, key=lambda row: row.started_ns)
