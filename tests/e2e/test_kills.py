"""Killed anywhere, under user traffic on two services."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.core.routing import Slot, all_to
from slipway.manifests.names import workload_name
from slipway.manifests.traffic import destination_rule, virtual_service
from slipway.manifests.workload import slot_deployment
from tests.e2e.conftest import PROJECT
from tests.e2e.kills import Butcher, Kill, charge, plan, status_of, table, wait
from tests.e2e.support import Sandbox, World, users

pytestmark = pytest.mark.alone

SERVICES = ("kills-one", "kills-two")
SOAK = bool(os.environ.get("SLIPWAY_SOAK"))
SAMPLE = ("gateway", "cri-node-a+kubelet-node-a", "container", "etcd", "relay+istiod", "s3")
COUNT = 100
SEED = int(os.environ.get("SLIPWAY_KILL_SEED", "20261122"))
RATE_PER_S = 5


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> Iterator[World]:
    """Two services that serve as after a release, each from pods on both nodes."""
    made = World(sandbox, tmp_path)
    try:
        for name in SERVICES:
            serve(made, name)
        for name in SERVICES:
            workload = f"deployment/{workload_name(name, Slot.BLUE)}"
            rolled = sandbox.kubectl("-n", "serving", "rollout", "status", workload)
            assert rolled.returncode == 0, rolled.stdout + rolled.stderr
        yield made
    finally:
        for name in SERVICES:
            workload = workload_name(name, Slot.BLUE)
            sandbox.kubectl("-n", "serving", "delete", "deployment", workload, "--wait=false")


def serve(world: World, name: str) -> None:
    """Install a service and give its blue slot all users."""
    world.given_service(name, replicas=2)
    ports = world.ports(name)
    model = world.folder / "simulated.json"
    model.write_text(json.dumps({"ttft_ms": 5, "gap_ms": 20}))
    image = ports.images.append(
        ports.images.resolve(ports.spec.server.image),
        repository=f"models/{name}",
        files={"/model/simulated.json": model},
        labels={},
    )
    blue = slot_deployment(
        ports.spec,
        slot=Slot.BLUE,
        workload=workload_name(name, Slot.BLUE),
        image=image.reference,
        release_id="kills",
    )
    api = KubernetesApi(str(world.sandbox.home.kubeconfig))
    route = all_to(name, Slot.BLUE)
    rule = destination_rule(ports.spec, frozenset({Slot.BLUE}))
    for document in (blue, rule, virtual_service(ports.spec, route)):
        api.apply(document)


def test_killed_parts_come_back_and_users_see_only_what_they_explain(
    sandbox: Sandbox, world: World
) -> None:
    butcher = Butcher(sandbox, SERVICES, SEED)
    parts = [part.name for part in status_of(sandbox).parts]
    targets = plan(parts, COUNT, SEED) if SOAK else list(SAMPLE)
    kills = [Kill(number, target) for number, target in enumerate(targets)]
    done: list[Kill] = []
    report: list[str] = []
    with ExitStack() as stack:
        crowds = [
            stack.enter_context(users(world, name, rate=RATE_PER_S, long_streams=2, long_tokens=80))
            for name in SERVICES
        ]
        try:
            for kill in kills:
                butcher.kill(kill)
                done.append(kill)
                report.append(f"{kill.number:3} {kill.target}: back after {kill.back_s:.1f} s")
        finally:
            rows = [row for crowd in crowds for row in crowd.stop()]
            unexplained = charge(done, rows)
            report += [f"seed {SEED}, {len(rows)} requests of users", table(done), *unexplained]
            (PROJECT / "build" / "kills.txt").write_text("\n".join(report) + "\n")
    assert unexplained == []
    wait(lambda: "; ".join(butcher.orphans()), 10, "nothing orphaned")
