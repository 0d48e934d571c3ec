"""A step of a canary that needs a person's yes, typed in Prefect."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.canaries import POLICY
from tests.e2e.support import Sandbox, World, harmed, users


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


def test_step_that_needs_a_person_waits_in_prefect_for_a_typed_answer(world: World) -> None:
    steps = [
        {"weight_percent": 10, "bake_s": 1},
        {"weight_percent": 50, "bake_s": 1, "approval": True},
    ]
    service = world.given_service("canary-asks", **{**POLICY, "policy__ramp__steps": steps})
    first, second = (world.given_version(service, ttft_ms=ttft_ms) for ttft_ms in (5, 6))
    assert world.release(service, first).returncode == 0

    with users(world, service, rate=20) as crowd, world.releasing(service, second) as release:
        held = world.wait_for_phase(service, "held")
        assert held.weight_percent == 10
        run = paused_run(world, f"{service}-v{second}")
        refused = resume(world, run, {"decision": "approve"})
        assert refused["status"] == "REJECT", "an answer without a name is none"
        assert (
            resume(world, run, {"decision": "approve", "approved_by": "ann"})["status"] == "ACCEPT"
        )
        release.end()
        ledger = crowd.stop()

    assert harmed(ledger) == {}
    record = world.record(service)
    assert [(item.weight_percent, item.by) for item in record.approvals] == [(50, "ann")]
    assert record.phase == "done"


def prefect(world: World, path: str, body: dict[str, Any]) -> Any:
    url = f"{world.environment['PREFECT_API_URL']}{path}"
    answer = httpx.post(url, json=body, trust_env=False)
    answer.raise_for_status()
    return answer.json()


def paused_run(world: World, name: str) -> str:
    """Wait until the flow run shows as paused; returns its id."""
    deadline = time.monotonic() + 30
    wanted = {"flow_runs": {"name": {"any_": [name]}, "state": {"type": {"any_": ["PAUSED"]}}}}
    while not (found := prefect(world, "/flow_runs/filter", wanted)):
        assert time.monotonic() < deadline, "the flow run did not pause"
        time.sleep(0.2)  # between two looks; the deadline decides
    return str(found[0]["id"])


def resume(world: World, run: str, answer: dict[str, str]) -> Any:
    return prefect(world, f"/flow_runs/{run}/resume", {"run_input": answer})
