"""Where no release lives: the watcher gives the users back, reconcile finishes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slipway.core.release.record import Phase
from slipway.manifests.names import WATCH_ACCOUNT, workload_name
from slipway.settings import CONTEXT_VARIABLE
from tests.e2e.conftest import PROJECT
from tests.e2e.support import Sandbox, World, harmed, users

pytestmark = pytest.mark.drawn_file("long")

STEPS = [{"weight_percent": 25, "bake_s": 300}]
RATE_PER_S = 10


@contextmanager
def watcher(world: World) -> Iterator[None]:
    """Run a watcher of this test's services; no Prefect of the sandbox knows them."""
    ready = world.folder / "watcher.ready"
    environment = {
        **world.process_environment,
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        CONTEXT_VARIABLE: WATCH_ACCOUNT,
    }
    with subprocess.Popen(
        (sys.executable, "-m", "slipway.cli", "watch", "--ready-file", str(ready)),
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait(ready.exists, 60, "the watcher to look")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0


def wait(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < timeout_s, f"waited for {what}"
        time.sleep(0.05)  # between two looks; the deadline decides
    return time.monotonic() - began_s


def test_users_of_a_dead_candidate_whose_release_died_go_back_before_anything_else(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    world = World(sandbox, tmp_path)
    changes = {"policy__strategy": "canary", "policy__ramp__steps": STEPS}
    service = world.given_service("watched", **changes)
    first, second = (world.given_version(service, ttft_ms=ttft_ms) for ttft_ms in (5, 6))
    assert world.release(service, first).returncode == 0
    ports = world.ports(service)

    with watcher(world), users(world, service, rate=RATE_PER_S) as crowd:
        with world.releasing(service, second):
            wait(lambda: world.record(service).weight_percent == 25, 180, "a weight of 25 %")
        candidate = world.record(service).candidate  # the release is killed, by SIGKILL
        stable = candidate.other
        gone = sandbox.kubectl(
            *("-n", "serving", "scale", "--replicas=0"),
            f"deployment/{workload_name(service, candidate)}",
        )
        assert gone.returncode == 0, gone.stderr
        wait(
            lambda: ports.traffic.read(service).percent(stable) == 100,
            60,
            "the users to be back on the stable slot",
        )
        record = world.record(service)
        assert (record.phase, record.failure_code) == (Phase.ROLLING_BACK, "candidate-unhealthy")
        back_ns = time.time_ns() + 1_000_000_000
        reconciled = world.cli("reconcile", service)
        assert reconciled.returncode == 0, reconciled.stderr
        ledger = crowd.stop()

    assert world.record(service).phase is Phase.ROLLED_BACK
    assert world.leftovers(service) == []
    later = [row for row in ledger if row["started_ns"] > back_ns]
    assert later
    assert harmed(later) == {}
