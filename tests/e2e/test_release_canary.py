"""Canaries under users: who moves when, and that nobody notices."""

from __future__ import annotations

import time
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest

from slipway.core.traffic import AccessRow
from tests.e2e.canaries import POLICY, STEPS, rows_of
from tests.e2e.support import Sandbox, World, harmed, said, users

RATE_PER_S = 20


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


@pytest.mark.drawn("release")
def test_canary_rises_under_users_who_notice_nothing(world: World) -> None:
    service = world.given_service("canary", **POLICY)
    first, second = (world.given_version(service, ttft_ms=ttft_ms) for ttft_ms in (5, 6))
    assert world.release(service, first).returncode == 0
    began_ns = time.time_ns()

    with users(world, service, rate=RATE_PER_S, long_streams=5, long_tokens=1000) as crowd:
        time.sleep(1)  # some users were there before
        released = world.release(service, second)
        ledger = crowd.stop()

    assert released.returncode == 0, said(released)
    assert harmed(ledger) == {}
    rows = rows_of(world, service, began_ns)
    assert [row for row in rows if row.failed] == []
    shares = shares_by_revision(rows)
    assert (shares[0], shares[-1]) == (0, 100)
    risen = [share for share in shares if 0 < share < 100]
    assert len(risen) == len(STEPS)
    assert risen[1:] == [pytest.approx(25, abs=15), pytest.approx(50, abs=20)]
    record = world.record(service)
    assert (record.phase, record.weight_percent) == ("done", 100)
    stages = [item.stage for item in record.verdicts if item.stage.startswith("ramp")]
    assert stages == ["ramp 5 %", "ramp 25 %", "ramp 50 %"]
    assert world.leftovers(service) == []


def shares_by_revision(rows: list[AccessRow]) -> list[float]:
    """Return the percent of requests that the second slot got under each route, in order."""
    first = rows[0].slot
    # The workers of the gateway learn of a route one by one: the first sight of one counts.
    order = list(dict.fromkeys(row.route_revision for row in rows))
    by_route = groupby(
        sorted(rows, key=lambda row: order.index(row.route_revision)),
        key=lambda row: row.route_revision,
    )
    counts = [Counter(row.slot != first for row in group) for _, group in by_route]
    return [100 * count[True] / count.total() for count in counts]
