"""Runs of Prefect's worker that end before their release: cancelled by a person, or dead unseen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slipway.core.release.record import Phase
from tests.e2e.orchestrator import Orchestrator
from tests.e2e.support import PROJECT, Sandbox, World, harmed, said, users

SERVICE = "canary"  # one of the project's own, which the worker knows
PATIENCE_S = 180.0
SILENCE_S = 95.0
"""Three of the sandbox's heartbeats, and a look more."""


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    made = World(sandbox, tmp_path)
    made.environment["SLIPWAY_SERVICES"] = str(PROJECT / "deployments/services")
    if made.ports(SERVICE).releases.load(SERVICE) is None:
        first = made.release(SERVICE, made.given_version(SERVICE))
        assert first.returncode == 0, said(first)
    return made


@pytest.fixture
def orchestrator(world: World) -> Iterator[Orchestrator]:
    api = Orchestrator(world.environment["PREFECT_API_URL"])
    yield api
    api.close()


def until(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.3)  # between two looks; the deadline decides


def ramping(world: World, orchestrator: Orchestrator) -> tuple[str, str]:
    """Start a run and wait until its canary has users, whom nobody is there to be."""
    version = world.given_version(SERVICE)
    started = orchestrator.start(service=SERVICE, version=version).raise_for_status().json()

    def has_users() -> bool:
        record = world.record(SERVICE)
        return record.version == version and record.weight_percent > 0

    until(has_users, "the candidate has users")
    return started["id"], version


def process_of(run_id: str) -> int:
    """Return the process that runs a flow run, by the variable that the worker gives it."""
    mark = f"PREFECT__FLOW_RUN_ID={run_id}".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    raise AssertionError(f"no process runs {run_id}")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_run_that_a_person_cancels_takes_its_release_back(
    world: World, orchestrator: Orchestrator
) -> None:
    live = world.record(SERVICE).live_slot
    run_id, version = ramping(world, orchestrator)
    with users(world, SERVICE, rate=2) as crowd:
        orchestrator.cancel(run_id)
        until(lambda: world.record(SERVICE).terminal, "the release has ended")
        ledger = crowd.stop()
    assert orchestrator.ended(run_id).state == "CANCELLED"
    record = world.record(SERVICE)
    assert (record.phase, record.version, record.live_slot) == (Phase.ROLLED_BACK, version, live)
    assert "was cancelled in Prefect" in record.reason
    assert harmed(ledger) == {}
    until(lambda: world.leftovers(SERVICE) == [], "nothing is left over")


def test_run_that_died_with_its_worker_is_gone_on_with_and_marked(
    world: World, orchestrator: Orchestrator
) -> None:
    run_id, version = ramping(world, orchestrator)
    process = process_of(run_id)
    for pid in (parent_of(process), process):  # as when their machine is lost
        os.kill(pid, signal.SIGKILL)
    died_s = time.monotonic()
    with users(world, SERVICE, rate=20) as crowd:
        until(lambda: world.record(SERVICE).terminal, "the release has ended")
        ledger = crowd.stop()
    record = world.record(SERVICE)
    assert (record.phase, record.version) == (Phase.DONE, version), record.reason
    assert harmed(ledger) == {}
    assert orchestrator.read(run_id)["state"]["type"] == "RUNNING", "nobody has told Prefect"
    time.sleep(max(0.0, died_s + SILENCE_S - time.monotonic()))  # its heartbeats are missed
    assert world.cli("reconcile", SERVICE).returncode == 0
    dead = orchestrator.ended(run_id)
    assert (dead.state, "its process is gone" in dead.message) == ("CRASHED", True)
