"""Overtaken, undone: whatever is ordered, users are answered, each to the last token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slipway.core.release.record import Phase
from tests.e2e.orders import bake_s, crowd_of, live_service, live_version, orders, unharmed
from tests.e2e.support import LONGEST_RELEASE_S, Sandbox, Users, World, said


@pytest.fixture(scope="module")
def live(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """A service with a live version."""
    world, service = World(sandbox, tmp_path_factory.mktemp("orders")), "orders"
    live_service(world, service)
    return world, service


@pytest.fixture
def crowd(live: tuple[World, str]) -> Iterator[Users]:
    """Users of the service."""
    with crowd_of(*live) as some:
        yield some


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
