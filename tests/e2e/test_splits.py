"""Divided users: sessions never change sides, and a dead candidate fails nobody but the gate.

`make soak` asks 3,000 sessions at each weight, and sends 50,000 requests past dead candidates.
"""

from __future__ import annotations

import asyncio
import math
import os
import time

import httpx
import pytest
import yaml

from slipway.core.release.record import Phase
from slipway.core.routing import SESSION_HEADER, SLOT_HEADER, Slot, all_to, split
from slipway.core.service import RouterKind
from slipway.core.verdicts import Verdict
from tests.e2e.canaries import POLICY
from tests.e2e.gateways import doors_shut
from tests.e2e.support import LONGEST_RELEASE_S, Sandbox, World, said, users

_SOAK = bool(os.environ.get("SLIPWAY_SOAK"))
_SESSIONS = 3000 if _SOAK else 600
_PAST_THE_DEAD = 50_000 if _SOAK else 1000
_RATE_PER_S = 250.0 if _SOAK else 40.0
_AT_ONCE = 32
_RISES = (1, 5, 25, 50)
_DEAD_AT = (1, 25, 50)
_GATEWAYS = (RouterKind.ISTIO, RouterKind.GATEWAY_API)


@pytest.fixture(scope="module", params=_GATEWAYS)
def divided(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> tuple[World, str]:
    """A service with a live version, on each router that divides users."""
    kind = request.param
    world = World(sandbox, tmp_path_factory.mktemp(f"split-{kind}"))
    service = world.given_service(
        f"divided-{kind.replace('_', '-')}",
        router={"kind": kind.value},
        policy__rollback_window_s=600,
        **POLICY,
    )
    _given_step(world, service, 50, bake_s=2)
    with users(world, service, rate=20):  # a canary rises on what its users meet
        for _ in Slot:  # the second leaves pods of the first warm: both slots serve
            done = world.release(service, world.given_version(service))
            assert done.returncode == 0, said(done)
    return world, service


def _given_step(world: World, service: str, weight: int, *, bake_s: int) -> None:
    """Let releases that begin from now on have this one weight before everybody."""
    file = world.services / f"{service}.yaml"
    data = yaml.safe_load(file.read_text())
    data["policy"]["strategy"] = "canary"
    data["policy"]["ramp"]["steps"] = [{"weight_percent": weight, "bake_s": bake_s}]
    file.write_text(yaml.safe_dump(data))


def test_sessions_follow_the_weight_and_none_comes_back(divided: tuple[World, str]) -> None:
    world, service = divided
    ports = world.ports(service)
    traffic, fence = ports.traffic, ports.releases.lock(service).fence
    stable = world.record(service).live_slot
    assert stable is not None
    candidate = stable.other
    both = frozenset(Slot)
    routes = [split(service, stable=stable, candidate_percent=weight) for weight in _RISES]
    arrived: set[str] = set()
    for weight, route in zip(
        (*_RISES, 100), (*routes, all_to(service, candidate, subsets=both)), strict=True
    ):
        traffic.apply(route, fence=fence)
        traffic.confirm(route, timeout_s=30)
        now = asyncio.run(_candidates_sessions(world, service, candidate))
        share, sigma = len(now) / _SESSIONS, math.sqrt(weight * (100 - weight)) / 100
        assert arrived <= now, f"{len(arrived - now)} sessions came back at {weight} %"
        assert abs(share - weight / 100) <= 3 * sigma / math.sqrt(_SESSIONS), (weight, share)
        arrived = now
    back = all_to(service, stable, subsets=both)
    traffic.apply(back, fence=fence)
    traffic.confirm(back, timeout_s=30)


async def _candidates_sessions(world: World, service: str, candidate: Slot) -> set[str]:
    """Ask once for each session; return those that the candidate answered."""
    turns = asyncio.Semaphore(_AT_ONCE)
    limits = httpx.Limits(max_connections=_AT_ONCE)
    async with httpx.AsyncClient(trust_env=False, timeout=30, limits=limits) as client:

        async def ask(session: str) -> str | None:
            async with turns:
                answer = await client.get(
                    f"{world.sandbox.gateway_url}/v1/models",
                    headers={"Host": f"{service}.localhost", SESSION_HEADER: session},
                )
            assert answer.status_code == 200
            return session if answer.headers[SLOT_HEADER] == candidate else None

        found = await asyncio.gather(*(ask(f"session-{n}") for n in range(_SESSIONS)))
    return {session for session in found if session is not None}


def test_dead_candidate_fails_no_user_and_the_gate_says_fail(divided: tuple[World, str]) -> None:
    world, service = divided
    before = world.record(service).live_slot
    with users(
        world,
        service,
        rate=_RATE_PER_S,
        tokens=2,
        prompts=("Tell me about the sea.",),
        sessions=2000,
    ) as crowd:
        for weight in _DEAD_AT:
            _die_at(world, service, weight)
            assert world.record(service).live_slot == before
        while len(crowd.ledger.read_text().splitlines()) < _PAST_THE_DEAD:
            time.sleep(1)  # between two looks at the ledger
        ledger = crowd.stop()
    bad = [row for row in ledger if row["status"] != "ok"]
    assert bad == [], f"{len(bad)} of {len(ledger)}: {bad[:3]}"


def _die_at(world: World, service: str, weight: int) -> None:
    """Have every pod of the candidate refuse connections once it has this weight."""
    # Long enough to shut the doors; a gate that fails ends it.
    _given_step(world, service, weight, bake_s=30)
    version = world.given_version(service)
    with world.releasing(service, version) as release:
        world.wait_for_phase(service, "ramping", timeout_s=LONGEST_RELEASE_S)
        candidate = world.record(service).candidate
        _await_share(world, service, candidate, weight)
        with doors_shut(world.sandbox, service, candidate):
            code, output = release.wait()
    assert code == 6, output
    record = world.record(service)
    assert (record.version, record.phase) == (version, Phase.ROLLED_BACK)
    verdicts = {item.stage: item.verdict for item in record.verdicts}
    assert verdicts[f"ramp {weight} %"] is Verdict.FAIL, output


def _await_share(world: World, service: str, candidate: Slot, weight: int) -> None:
    deadline_s = time.monotonic() + LONGEST_RELEASE_S
    traffic = world.ports(service).traffic
    while traffic.read(service).percent(candidate) != weight:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)  # between two looks; the deadline decides
