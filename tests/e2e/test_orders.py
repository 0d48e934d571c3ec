"""Overtaken, undone: whatever is ordered, users are answered, each to the last token."""

from __future__ import annotations

from slipway.core.release.record import Phase
from tests.e2e.orders import bake_s, live_version, orders, unharmed
from tests.e2e.support import LONGEST_RELEASE_S, Users, World, said

SERVICE = "orders"


def test_newer_request_supersedes_a_release_and_is_released(
    ordered: tuple[World, str], crowd: Users
) -> None:
    world, service = ordered
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
    # Where the older one gives way quickly, the lock is free before anybody knows whether it lives.
    assert "waits for its turn" in said(second) or "watching for" in said(second)
    assert live_version(world, service) == newer
    assert world.record(service).phase is Phase.DONE
    assert orders(world, service) == {}
    assert world.leftovers(service) == []
    unharmed(ledger)


def test_rollback_brings_the_users_to_the_version_before_and_stays_there(
    ordered: tuple[World, str], crowd: Users
) -> None:
    world, service = ordered
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
