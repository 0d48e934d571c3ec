"""Promoted, aborted, overtaken, undone on each router, under users whose streams outlast it all.

Of `make test` the rate is small; `make soak` runs 200 streams of a second each second, and fifty of
twenty seconds all the time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from slipway.core.release.record import Phase
from slipway.core.service import RouterKind
from tests.e2e.canaries import POLICY
from tests.e2e.gateways import gateway_in_front
from tests.e2e.orders import bake_s, live_version
from tests.e2e.priorities import BEHIND, put_users_first
from tests.e2e.support import LONGEST_RELEASE_S, Sandbox, Users, World, said, users

_SOAK = bool(os.environ.get("SLIPWAY_SOAK"))
_RATE_PER_S = 200.0 if _SOAK else 20.0
_LONG_STREAMS = 50 if _SOAK else 5
_GAP_MS = 60
_LONG_TOKENS = 330
"""Of 60 ms each: twenty seconds."""
_ASKED = "Tell me about the sea."
"""Answered by sixteen tokens: a second."""


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(sandbox, tmp_path_factory.mktemp("routers-under-load"))
    if _SOAK:
        put_users_first(sandbox.home)
        world.before_commands = BEHIND
    return world


@pytest.mark.drawn("routers under load")
@pytest.mark.parametrize("kind", list(RouterKind))
def test_release_abort_supersede_and_rollback_harm_no_user_on_any_router(
    world: World, kind: RouterKind
) -> None:
    service = _live_service(world, kind)
    with _front(world, service, kind), _crowd(world, service) as crowd:
        _await_streams(crowd)
        promoted = _promoted(world, service)
        _aborted(world, service, stays=promoted)
        newer = _superseded(world, service)
        _rolled_back(world, service, newer, to=promoted)
        ledger = crowd.stop()
        if kind is not RouterKind.SERVICE:
            slots = {row["slot"] for row in ledger}
            assert slots == {"blue", "green"}
    bad = [row for row in ledger if row["status"] != "ok"]
    assert bad == [], f"{len(bad)} of {len(ledger)}: {bad[:3]}"
    assert sum(row["long"] for row in ledger) >= _LONG_STREAMS
    assert world.leftovers(service) == []
    assert _strangers(world, service, kind) == []


def _live_service(world: World, kind: RouterKind) -> str:
    """Return a service of this router with a live version; a canary where that can be."""
    router: dict[str, Any] = {"kind": kind.value}
    if kind is RouterKind.SERVICE:
        router["propagation_s"] = 2
    service = world.given_service(
        f"loaded-{kind.replace('_', '-')}",
        router=router,
        slo__output_tokens_per_s=5,
        policy__bake_s=2,
        policy__when_busy="supersede",
        **({} if kind is RouterKind.SERVICE else POLICY),
    )
    first = world.release(service, world.given_version(service, gap_ms=_GAP_MS))
    assert first.returncode == 0, said(first)
    return service


@contextmanager
def _front(world: World, service: str, kind: RouterKind) -> Iterator[None]:
    """Let the gateway serve the users, whatever routes them behind it."""
    if kind is not RouterKind.SERVICE:
        yield
        return
    with gateway_in_front(world.sandbox, world.ports(service).spec):
        deadline_s = time.monotonic() + 30
        while world.ask(service).status_code != 200:
            assert time.monotonic() < deadline_s, "the gateway in front does not serve"
            time.sleep(0.1)  # between two looks; the deadline decides
        yield


@contextmanager
def _crowd(world: World, service: str) -> Iterator[Users]:
    with users(
        world,
        service,
        rate=_RATE_PER_S,
        long_streams=_LONG_STREAMS,
        long_tokens=_LONG_TOKENS,
        prompts=(_ASKED,),
    ) as crowd:
        yield crowd


def _await_streams(crowd: Users) -> None:
    """Wait for the first short stream to end: it lasts longer than all long ones take to begin."""
    deadline_s = time.monotonic() + 60
    while not (crowd.ledger.exists() and crowd.ledger.read_text()):
        assert time.monotonic() < deadline_s, "no stream has ended"
        time.sleep(0.1)  # between two looks; the deadline decides


def _promoted(world: World, service: str) -> str:
    version = world.given_version(service, gap_ms=_GAP_MS, ttft_ms=8)
    done = world.release(service, version)
    assert done.returncode == 0, said(done)
    assert live_version(world, service) == version
    return version


def _aborted(world: World, service: str, *, stays: str) -> None:
    """Abort a release after its users have moved."""
    bake_s(world, service, 120)
    version = world.given_version(service, gap_ms=_GAP_MS, ttft_ms=9)
    with world.releasing(service, version) as release:
        world.wait_for_phase(service, "ramping", "baking", timeout_s=LONGEST_RELEASE_S)
        world.wait_for_phase(service, "baking", timeout_s=LONGEST_RELEASE_S)
        stopped = world.cli("abort", service)
        code, output = release.wait()
    assert stopped.returncode == 0, said(stopped)
    assert code == 6, output
    assert world.record(service).phase is Phase.ROLLED_BACK
    assert live_version(world, service) == stays


def _superseded(world: World, service: str) -> str:
    """Overtake a release while it starts its pods; returns the newer version."""
    bake_s(world, service, 2)
    older = world.given_version(service, gap_ms=_GAP_MS, start_delay_s=6)
    newer = world.given_version(service, gap_ms=_GAP_MS, ttft_ms=10)
    with world.releasing(service, older) as first:
        world.wait_for_phase(service, "built", "tested", timeout_s=LONGEST_RELEASE_S)
        second = world.release(service, newer)
        code, output = first.wait()
    assert code == 6, output
    assert second.returncode == 0, said(second)
    assert live_version(world, service) == newer
    return newer


def _rolled_back(world: World, service: str, version: str, *, to: str) -> None:
    back = world.cli("rollback", service)
    assert back.returncode == 0, said(back)
    assert live_version(world, service) == to != version


def _strangers(world: World, service: str, kind: RouterKind) -> list[str]:
    """Return what belongs to the service and is neither installed nor of the live slot."""
    kinds = (
        *("virtualservice", "destinationrule", "httproute", "service", "deployment", "pod"),
        *("lease", "configmap", "horizontalpodautoscaler", "envoyfilter", "poddisruptionbudget"),
    )
    listed = world.sandbox.kubectl(
        *("-n", "serving", "get", ",".join(kinds), "-l", f"slipway.dev/service={service}"),
        *("-o", "json"),
    )
    assert listed.returncode == 0, listed.stderr
    live = world.record(service).live_slot
    permanent = {
        *(f"Deployment/{service}-{slot}" for slot in ("blue", "green")),
        *(f"{name}/slipway-{service}" for name in ("Lease", "ConfigMap")),
        *(f"ConfigMap/{name}" for name in (f"{service}-release", f"slipway-{service}-orders")),
        *_OF_ROUTERS[kind](service),
    }
    return [
        name
        for item in json.loads(listed.stdout)["items"]
        if (name := f"{item['kind']}/{item['metadata']['name']}") not in permanent
        and not (
            item["kind"] == "Pod" and item["metadata"]["labels"].get("slipway.dev/slot") == live
        )
    ]


_OF_ROUTERS = {
    RouterKind.ISTIO: lambda name: {
        f"{kind}/{name}" for kind in ("Service", "VirtualService", "DestinationRule")
    },
    RouterKind.GATEWAY_API: lambda name: {
        *(f"{kind}/{name}" for kind in ("Service", "HTTPRoute")),
        *(
            f"{kind}/{name}-{backend}"
            for kind in ("Service", "DestinationRule")
            for backend in ("blue", "green", "blue-or-green", "green-or-blue")
        ),
    },
    RouterKind.SERVICE: lambda name: {f"Service/{name}", f"Service/{name}-preview"},
}
