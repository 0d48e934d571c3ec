"""A release and a refused one while users stream: nobody notices, and three ledgers agree."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from slipway.adapters.access_log import read_rows
from slipway.core.traffic import user_rows
from tests.e2e.support import Sandbox, World, harmed, said, users

pytestmark = pytest.mark.always

RATE_PER_S = 20
_LOG_PATIENCE_S = 60.0
LONG_STREAMS = 50


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


def test_release_and_refused_release_under_load_harm_nobody_and_three_ledgers_agree(
    world: World,
) -> None:
    service = world.given_service("load", policy__bake_s=5)
    # 550 tokens of a long stream at 40 ms take 22 s: longer than from the switch to the retirement.
    first = world.given_version(service, gap_ms=40)
    second = world.given_version(service, gap_ms=40, ttft_ms=8)
    wrong = world.given_version(service, gap_ms=40, wrong_answers=True)
    assert world.release(service, first).returncode == 0
    began_ns = time.time_ns()
    retired = world.record(service).live_slot
    truth_of_retired = _follow_logs(world, service, retired)

    with users(world, service, rate=RATE_PER_S, long_streams=LONG_STREAMS) as crowd:
        time.sleep(3)  # the long streams are open before the switch
        released = world.release(service, second)
        refused = world.release(service, wrong)
        ledger = crowd.stop()

    assert released.returncode == 0, said(released)
    assert refused.returncode == 6, said(refused)
    assert "model-test-failed" in said(refused)
    assert world.record(service).slot(world.ports(service).traffic.read(service).shares[0].slot)
    assert harmed(ledger) == {}
    assert sum(row["long"] for row in ledger) >= LONG_STREAMS
    gateway = _gateway_rows(world, service, began_ns)
    assert all(row.complete and not row.failed for row in gateway.values())
    asked = {row["request_id"] for row in ledger}
    assert [row for key, row in gateway.items() if key not in asked] == []
    assert asked <= gateway.keys()
    live = world.record(service).live_slot
    assert {row.slot for row in gateway.values()} == {retired, live}
    for slot, logs in ((retired, truth_of_retired), (live, _follow_logs(world, service, live))):
        seen = {key for key, row in gateway.items() if row.slot == slot}
        truth = logs.ended() if slot == retired else logs.so_far(seen)
        assert truth == seen
    assert world.leftovers(service) == []


def _gateway_rows(world: World, service: str, since_ns: int) -> dict[str, Any]:
    time.sleep(1)  # rows are flushed within a second
    log = world.settings.access_log
    assert log is not None
    rows = user_rows(read_rows(log, since_ns=since_ns))
    found = [row for row in rows if row.service.split(".")[0] == service]
    assert max(Counter(row.request_id for row in found).values()) == 1
    return {row.request_id: row for row in found}


class PodLogs:
    """What the servers of a slot say they answered, followed to the end of the pods."""

    def __init__(self, followers: dict[Path, subprocess.Popen[bytes]]) -> None:
        self._followers = followers

    def ended(self) -> set[str]:
        """Wait for the pods to be gone; return the ids of every user's request they finished."""
        for follower in self._followers.values():
            follower.wait(timeout=60)
        return self._requests()

    def so_far(self, expected: set[str]) -> set[str]:
        """Return the same of pods that live on, once what is expected is there, or after a minute.

        They are followed no longer.
        """
        deadline_s = time.monotonic() + _LOG_PATIENCE_S
        while not expected <= self._ids() and time.monotonic() < deadline_s:
            time.sleep(0.5)  # between two looks; the deadline decides
        for follower in self._followers.values():
            follower.kill()
            follower.wait()
        return self._requests()

    def _requests(self) -> set[str]:
        asked = self._rows()
        assert {row["finished"] for row in asked} == {"done"}
        return {row["x_request_id"] for row in asked}

    def _ids(self) -> set[str]:
        return {row["x_request_id"] for row in self._rows()}

    def _rows(self) -> list[dict[str, Any]]:
        texts = [log.read_text() for log in self._followers]
        # What stands behind the last line's end is still being written.
        lines = [line for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        return [row for row in rows if "x_request_id" in row and not row.get("x_slipway_purpose")]


def _follow_logs(world: World, service: str, slot: str | None) -> PodLogs:
    kubectl = world.sandbox.kubectl
    selector = f"slipway.dev/serves={service},slipway.dev/slot={slot}"
    pods = kubectl("-n", "serving", "get", "pods", "-o", "name", "-l", selector).stdout.split()
    assert pods
    followers = {}
    for pod in pods:
        log = world.folder / f"{Path(pod).name}.log"
        with log.open("wb") as output:
            followers[log] = world.sandbox.start_kubectl(
                *("-n", "serving", "logs", "--follow", pod), stdout=output
            )
    return PodLogs(followers)
