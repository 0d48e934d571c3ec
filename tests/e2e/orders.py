"""What the tests of orders have in common: a service whose requests supersede one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.e2e.support import Users, World, harmed, said, users

_RATE_PER_S = 10.0


def live_service(world: World, service: str) -> None:
    """Release a first version of a service of one replica."""
    world.given_service(service, replicas=1, policy__bake_s=20, policy__when_busy="supersede")
    bake_s(world, service, 1)
    first = world.release(service, world.given_version(service))
    assert first.returncode == 0, said(first)


def bake_s(world: World, service: str, seconds: int) -> None:
    """Let releases that begin from now on bake for so long."""
    file = world.services / f"{service}.yaml"
    lines = file.read_text().splitlines()
    changed = [
        # Of the policy, not of a step of its ramp.
        f"  bake_s: {seconds}" if line.startswith("  bake_s:") else line
        for line in lines
    ]
    file.write_text("\n".join(changed) + "\n")


@contextmanager
def crowd_of(world: World, service: str) -> Iterator[Users]:
    """Run users of the service meanwhile, some with streams that outlast a switch."""
    with users(world, service, rate=_RATE_PER_S, long_streams=2) as some:
        yield some


def unharmed(ledger: list[dict[str, Any]]) -> None:
    """Every user got a whole answer."""
    assert len(ledger) > 10
    assert harmed(ledger) == {}


def live_version(world: World, service: str) -> str:
    record = world.record(service)
    assert record.live_slot is not None
    return record.slot(record.live_slot).version


def orders(world: World, service: str) -> dict[str, str]:
    """Return what stands in the service's orders, key → kind."""
    found = world.ports(service).orders.read(service)
    return {order.order_id: order.kind for order in found.orders} | dict(found.unreadable)
