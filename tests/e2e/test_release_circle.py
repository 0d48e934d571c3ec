"""What goes wrong around a release: slow versions, lost pods, clocks. Users of the old one stay.

When a pod of the stable slot is killed, the requests it was answering are lost with it: nobody can
answer the rest of a stream. Every other request finds a pod that lives (the gateway tries another
one when it cannot connect), and the release goes on: its own pods are well.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipway.adapters.access_log import read_rows
from slipway.core.release.record import Phase
from slipway.sandbox.network.addresses import shown_address
from tests.e2e.support import LONGEST_RELEASE_S, Sandbox, World, harmed, said, users
from tests.e2e.test_network_stays_on_loopback import sockets_of

_RATE_PER_S = 10.0


@pytest.fixture(scope="module")
def live(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """A service of two replicas with a live version: 40 ms to the first token, 5 ms per token."""
    world = World(sandbox, tmp_path_factory.mktemp("circle"))
    service = world.given_service("circle", policy__bake_s=2, policy__benchmark__slowdown_max=2)
    first = world.release(service, world.given_version(service, ttft_ms=40, gap_ms=5))
    assert first.returncode == 0, said(first)
    return world, service


def live_version(world: World, service: str) -> str:
    record = world.record(service)
    assert record.live_slot is not None
    return record.slot(record.live_slot).version


@pytest.mark.drawn("release")
def test_version_with_good_answers_but_five_times_slower_is_refused(
    live: tuple[World, str],
) -> None:
    world, service = live
    before = live_version(world, service)
    slow = world.given_version(service, ttft_ms=200, gap_ms=25)
    with users(world, service, rate=_RATE_PER_S) as crowd:
        refused = world.release(service, slow)
        ledger = crowd.stop()
    assert refused.returncode == 6, said(refused)
    assert "benchmark-failed" in said(refused)
    assert "time to first token against the stable slot" in said(refused)
    assert "×, at most 2 asked (n = 10)" in said(refused)
    assert harmed(ledger) == {}
    assert world.record(service).phase is Phase.ROLLED_BACK
    assert live_version(world, service) == before
    assert world.leftovers(service) == []


def _delete_pod(world: World, pod: dict[str, Any]) -> None:
    name = pod["metadata"]["name"]
    deleted = world.sandbox.kubectl(
        *("-n", "serving", "delete", "pod", name, "--grace-period=0", "--force")
    )
    assert deleted.returncode == 0, deleted.stderr


def _kill_server(world: World, pod: dict[str, Any]) -> None:
    address = pod["status"]["podIP"]
    everybody = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    servers = {
        int(socket.owner.split()[0])
        for socket in sockets_of(everybody)
        if socket.listening and shown_address(str(socket.local.address)) == address
    }
    assert len(servers) == 1, f"{len(servers)} processes listen on {address}"
    os.kill(servers.pop(), signal.SIGKILL)


@pytest.mark.drawn("release")
@pytest.mark.parametrize("kill", [_delete_pod, _kill_server], ids=["deleted", "kill -9"])
def test_pod_of_the_stable_slot_killed_costs_its_own_requests_and_not_the_release(
    live: tuple[World, str], kill: Callable[[World, dict[str, Any]], None]
) -> None:
    world, service = live
    slot = world.record(service).live_slot
    version = world.given_version(service, ttft_ms=40, gap_ms=5, start_delay_s=1)
    began_ns = time.time_ns()
    with users(world, service, rate=_RATE_PER_S, long_streams=4) as crowd:
        with world.releasing(service, version) as release:
            world.wait_for_phase(service, "built", "tested", timeout_s=LONGEST_RELEASE_S)
            victim = _pods(world, service, slot)[0]
            kill(world, victim)
            release.end()
        ledger = crowd.stop()
    assert live_version(world, service) == version
    assert world.leftovers(service) == []
    lost = {row["request_id"]: row for row in ledger if row["status"] != "ok"}
    answered_by = _answered_by(world, began_ns)
    elsewhere = {key: row for key, row in lost.items() if answered_by[key] != _address(victim)}
    assert elsewhere == {}
    assert len(ledger) - len(lost) > 10


def _pods(world: World, service: str, slot: str | None) -> list[dict[str, Any]]:
    selector = f"slipway.dev/serves={service},slipway.dev/slot={slot}"
    found = world.sandbox.kubectl("-n", "serving", "get", "pods", "-o", "json", "-l", selector)
    pods: list[dict[str, Any]] = json.loads(found.stdout)["items"]
    assert pods
    return pods


def _address(pod: dict[str, Any]) -> str:
    return str(pod["status"]["podIP"])


def _answered_by(world: World, since_ns: int) -> dict[str, str]:
    """Return the address of the pod that each request was sent to last."""
    time.sleep(1)  # rows are flushed within a second
    log = world.settings.access_log
    assert log is not None
    return {
        row.request_id: shown_address(row.pod.rpartition(":")[0])
        for row in read_rows(log, since_ns=since_ns)
        if row.pod
    }


@pytest.mark.drawn("release")
def test_release_whose_clock_steps_by_an_hour_again_and_again_bakes_as_long_as_it_should(
    live: tuple[World, str],
) -> None:
    world, service = live
    version = world.given_version(service, ttft_ms=40, gap_ms=5)
    with users(world, service, rate=_RATE_PER_S) as crowd:
        with world.releasing(service, version, module="tests.e2e.stepping_clock") as release:
            world.wait_for_phase(
                *(service, "built", "tested", "deployed"), timeout_s=LONGEST_RELEASE_S
            )
            # Its lock looks an hour old, or an hour from now: whoever asks must not believe it.
            second = world.release(service, world.given_version(service))
            output = release.end()
        ledger = crowd.stop()
    assert second.returncode == 5, said(second)
    assert "release-running" in said(second)
    assert live_version(world, service) == version
    assert "no user asked during the bake" not in output
    baked = re.search(r"✓ bake:? +([0-9.]+) s", output)
    assert baked is not None, output
    assert 2 <= float(baked[1]) < 60
    assert harmed(ledger) == {}
    assert world.leftovers(service) == []
