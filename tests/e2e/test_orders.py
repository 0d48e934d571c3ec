"""Stopped, overtaken, undone: whatever is ordered, users are answered, each to the last token."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from slipway.core.release.record import Phase
from tests.e2e.support import LONGEST_RELEASE_S, Sandbox, Users, World, said, users

_RATE_PER_S = 10.0


@pytest.fixture(scope="module")
def live(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """A service of one replica with a live version, whose requests supersede one another."""
    world = World(sandbox, tmp_path_factory.mktemp("orders"))
    service = world.given_service(
        "orders", replicas=1, policy__bake_s=20, policy__when_busy="supersede"
    )
    bake_s(world, service, 1)
    first = world.release(service, world.given_version(service))
    assert first.returncode == 0, said(first)
    return world, service


def bake_s(world: World, service: str, seconds: int) -> None:
    """Let releases that begin from now on bake for so long."""
    file = world.services / f"{service}.yaml"
    lines = file.read_text().splitlines()
    changed = [
        line.partition("bake_s:")[0] + f"bake_s: {seconds}" if "bake_s:" in line else line
        for line in lines
    ]
    file.write_text("\n".join(changed) + "\n")


@pytest.fixture
def crowd(live: tuple[World, str]) -> Iterator[Users]:
    """Users of the service, some with streams that outlast a switch."""
    world, service = live
    with users(world, service, rate=_RATE_PER_S, long_streams=2) as some:
        yield some


def unharmed(ledger: list[dict[str, Any]]) -> None:
    """Every user got a whole answer."""
    assert len(ledger) > 10
    assert [row for row in ledger if row["status"] != "ok"] == []


def live_version(world: World, service: str) -> str:
    record = world.record(service)
    assert record.live_slot is not None
    return record.slot(record.live_slot).version


def test_release_aborted_in_its_bake_is_taken_back_and_says_who_asked(
    live: tuple[World, str], crowd: Users
) -> None:
    world, service = live
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


def orders(world: World, service: str) -> dict[str, str]:
    """Return what stands in the service's orders, key → kind."""
    found = world.ports(service).orders.read(service)
    return {order.order_id: order.kind for order in found.orders} | dict(found.unreadable)


def test_newer_request_supersedes_a_release_and_is_released(
    live: tuple[World, str], crowd: Users
) -> None:
    world, service = live
    bake_s(world, service, 1)
    older = world.given_version(service, start_delay_s=6)
    newer = world.given_version(service)
    with world.releasing(service, older) as first:
        world.wait_for_phase(service, "built", "tested", timeout_s=LONGEST_RELEASE_S)
        second = world.release(service, newer)
        code, output = first.wait()
    ledger = crowd.stop()
    assert code == 6, output
    assert f"gave way to version {newer}" in output
    assert second.returncode == 0, said(second)
    assert "waits for its turn" in said(second)
    assert live_version(world, service) == newer
    assert world.record(service).phase is Phase.DONE
    assert orders(world, service) == {}
    assert world.leftovers(service) == []
    unharmed(ledger)


def test_rollback_brings_the_users_to_the_version_before_and_stays_there(
    live: tuple[World, str], crowd: Users
) -> None:
    world, service = live
    bake_s(world, service, 1)
    ended = world.record(service)
    if ended.phase is not Phase.DONE or ended.stable is None:  # this test alone, or after an abort
        done = world.release(service, world.given_version(service))
        assert done.returncode == 0, said(done)
        ended = world.record(service)
    assert ended.stable is not None
    before = ended.slot(ended.stable).version
    back = world.cli("rollback", service)
    again = world.cli("rollback", service)
    ledger = crowd.stop()
    assert back.returncode == again.returncode == 0, said(back) + said(again)
    assert "served before: not tested again" in said(back)
    assert "live already" in said(again)
    record = world.record(service)
    assert (record.version, record.phase, record.rollback) == (before, Phase.DONE, True)
    assert live_version(world, service) == before
    assert world.leftovers(service) == []
    unharmed(ledger)


def test_cancelled_run_gives_its_lock_back_at_once_and_abort_takes_the_rest_back(
    live: tuple[World, str], crowd: Users
) -> None:
    """SIGTERM is what Prefect's runner sends to the process of a run that is cancelled."""
    world, service = live
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
