"""The API server goes away for 30 s in the middle of a release: it waits, goes on, ends well.

A process that is stopped is the worst way to be away: connections open, nobody answers. The lock
runs out meanwhile (15 s). Nobody else can have taken it, since nobody else was answered either.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from slipway.core.release.record import Phase
from slipway.sandbox.supervisor_status import read_status
from tests.e2e.support import LONGEST_RELEASE_S, Sandbox, World, harmed, said, users

_AWAY_S = 30.0
_PHASES = (
    "requested",
    "built",
    "tested",
    "deployed",
    "smoked",
    "benchmarked",
    "promoted",
    "baking",
)
_SAMPLED = ("tested",)  # the deploy: reads, waits and writes
_ASKED = _PHASES if os.environ.get("SLIPWAY_SOAK") == "1" else _SAMPLED


@pytest.fixture(scope="module")
def live(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    world = World(sandbox, tmp_path_factory.mktemp("outages"))
    service = world.given_service("outages", replicas=1, policy__bake_s=2)
    first = world.release(service, world.given_version(service))
    assert first.returncode == 0, said(first)
    return world, service


@contextmanager
def stopped(sandbox: Sandbox, part: str) -> Iterator[None]:
    """Stop a part's process meanwhile, as `kill -STOP` does."""
    status = read_status(sandbox.home)
    assert status is not None
    found = status.part(part)
    assert found is not None
    assert found.process is not None
    os.kill(found.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(found.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("phase", _ASKED)
def test_release_goes_on_by_itself_when_the_api_server_was_away(
    live: tuple[World, str], phase: str
) -> None:
    world, service = live
    version = world.given_version(service, start_delay_s=1)
    following = _PHASES[_PHASES.index(phase) :]  # some phases last for milliseconds only
    with users(world, service, rate=10) as crowd:
        with world.releasing(service, version) as release:
            world.wait_for_phase(service, *following, timeout_s=LONGEST_RELEASE_S)
            with stopped(world.sandbox, "apiserver"):
                time.sleep(_AWAY_S)
            release.end()
        ledger = crowd.stop()
    record = world.record(service)
    assert (record.phase, record.version) == (Phase.DONE, version)
    assert world.leftovers(service) == []
    assert harmed(ledger) == {}
