"""Stopped by a person: users are answered, each to the last token."""

from __future__ import annotations

import signal
import time

from slipway.core.release.record import Phase
from tests.e2e.orders import bake_s, live_version, orders, unharmed
from tests.e2e.support import LONGEST_RELEASE_S, Users, World, said

SERVICE = "orders-stop"


def test_release_aborted_in_its_bake_is_taken_back_and_says_who_asked(
    ordered: tuple[World, str], crowd: Users
) -> None:
    world, service = ordered
    before = live_version(world, service)
    bake_s(world, service, 120)
    version = world.given_version(service)
    with world.releasing(service, version) as release:
        world.wait_for_phase(service, "baking", timeout_s=LONGEST_RELEASE_S)
        stopped = world.cli("abort", service, "--reason", "odd answers")
        code, output = release.wait()
    ledger = crowd.stop()
    assert stopped.returncode == 0, said(stopped)
    assert "odd answers" in said(stopped)
    assert code == 6, output
    assert "aborted" in output
    record = world.record(service)
    assert (record.version, record.phase) == (version, Phase.ROLLED_BACK)
    assert record.failure_code == "aborted"
    assert live_version(world, service) == before
    assert orders(world, service) == {}
    assert world.leftovers(service) == []
    unharmed(ledger)


def test_cancelled_run_gives_its_lock_back_at_once_and_abort_takes_the_rest_back(
    ordered: tuple[World, str], crowd: Users
) -> None:
    """SIGTERM is what Prefect's runner sends to the process of a run that is cancelled."""
    world, service = ordered
    bake_s(world, service, 120)
    before = live_version(world, service)
    version = world.given_version(service)
    process = world.start_release(service, version)
    try:
        world.wait_for_phase(service, "baking", timeout_s=LONGEST_RELEASE_S)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode != 0
    assert world.ports(service).releases.lock(service).holder == ""
    assert (world.record(service).version, world.record(service).phase) == (version, Phase.BAKING)
    began_s = time.monotonic()
    stopped = world.cli("abort", service)
    took_s = time.monotonic() - began_s
    ledger = crowd.stop()
    assert stopped.returncode == 0, said(stopped)
    assert "watching" not in said(stopped), f"the lock was not given back ({took_s:.0f} s)"
    assert live_version(world, service) == before
    assert world.leftovers(service) == []
    unharmed(ledger)
