"""A canary that its users find too slow is taken back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.canaries import POLICY, rows_of
from tests.e2e.support import Sandbox, World, harmed, said, users


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


def test_canary_slower_than_the_stable_slot_is_taken_back_and_nobody_fails(world: World) -> None:
    steps = [{"weight_percent": 25, "bake_s": 1}, {"weight_percent": 50, "bake_s": 60}]
    changes = {**POLICY, "policy__ramp__steps": steps, "policy__ramp__ttft_ratio_max": 2}
    service = world.given_service("canary-slow", **changes)
    first = world.given_version(service, ttft_ms=20)
    slow = world.given_version(service, ttft_ms=400)
    assert world.release(service, first).returncode == 0
    began_ns = time.time_ns()

    with users(world, service, rate=20) as crowd:
        refused = world.release(service, slow)
        ledger = crowd.stop()

    assert refused.returncode == 6, said(refused)
    assert "canary-failed" in said(refused)
    assert harmed(ledger) == {}
    rows = rows_of(world, service, began_ns)
    assert [row for row in rows if row.failed] == []
    record = world.record(service)
    assert (record.phase, record.failure_code) == ("rolled_back", "canary-failed")
    assert record.weight_percent == 0
    assert world.ask(service).headers["x-slipway-slot"] == record.stable
    assert world.leftovers(service) == []
