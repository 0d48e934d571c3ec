"""Killed anywhere, under user traffic on two services."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.core.errors import SlipwayError
from slipway.core.routing import Slot, all_to
from slipway.manifests.names import workload_name
from slipway.manifests.routes.istio import destination_rule, virtual_service
from slipway.manifests.workload import slot_deployment
from tests.e2e.conftest import PROJECT
from tests.e2e.kills import BACK_WITHIN_S, Butcher, Kill, charge, plan, status_of, table, wait
from tests.e2e.support import Sandbox, World, users

pytestmark = pytest.mark.drawn_file("disturbing")

SERVICES = ("kills-one", "kills-two")
SOAK = bool(os.environ.get("SLIPWAY_SOAK"))
SAMPLE = ("gateway", "cri-node-a+kubelet-node-a", "container", "etcd", "relay+istiod", "s3")
COUNT = int(os.environ.get("SLIPWAY_KILLS", "100"))
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


@pytest.mark.timeout(3 * 3600 if SOAK else 600)
def test_killed_parts_come_back_and_users_see_only_what_they_explain(
    sandbox: Sandbox, world: World
) -> None:
    butcher = Butcher(sandbox, SERVICES, SEED)
    parts = [part.name for part in status_of(sandbox).parts]
    targets = plan(parts, COUNT, SEED) if SOAK else list(SAMPLE)
    kills = [Kill(number, target) for number, target in enumerate(targets)]
    wrong: list[str] = []
    log = PROJECT / "build" / "kills.txt"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"seed {SEED}\n")
    with ExitStack() as stack, log.open("a", buffering=1) as report:
        crowds = [
            stack.enter_context(users(world, name, rate=RATE_PER_S, long_streams=2, long_tokens=80))
            for name in SERVICES
        ]
        for kill in kills:
            try:
                butcher.kill(kill)
                report.write(f"{kill.number:3} {kill.target}: back after {kill.back_s:.1f} s\n")
            except (AssertionError, SlipwayError, httpx.HTTPError) as error:
                wrong.append(f"{kill.number} {kill.target}: {error!r}")
                report.write(f"{wrong[-1]}\n")
                # The others are worth knowing too.
                wait(butcher.shortfall, BACK_WITHIN_S, "everything to be back")
                kill.back_ns = time.time_ns()
        rows = [row for crowd in crowds for row in crowd.stop()]
        unexplained = charge(kills, rows)
        report.write(f"{len(rows)} requests of users\n{table(kills)}\n")
        report.writelines(f"unexplained: {line}\n" for line in unexplained)
    assert wrong == []
    assert unexplained == []
    wait(lambda: "; ".join(butcher.orphans()), 10, "nothing orphaned")


def test_lost_node_leaves_the_endpoints_and_its_pods_come_back(
    sandbox: Sandbox, world: World
) -> None:
    """Long form only: Kubernetes misses a node after 50 s (node-monitor-grace-period).

    In the quick run `test_sandbox_lifecycle` revives it before.
    """
    service, node = SERVICES[0], "node-b"
    pods = pods_on(sandbox, node, service)
    assert pods, "no pod of the service on that node"
    assert sandbox.run_cli("sandbox", "node", "kill", node).returncode == 0
    try:
        if SOAK:
            wait(lambda: "" if readiness(sandbox, node) == "Unknown" else "Ready", 90, "NotReady")
            wait(lambda: "; ".join(pods & endpoints(sandbox, service)), 30, "to leave endpoints")
        codes = {world.ask(service).status_code for _ in range(20)}
        assert codes == {200}
    finally:
        assert sandbox.run_cli("sandbox", "node", "revive", node).returncode == 0
    wait(lambda: "" if readiness(sandbox, node) == "True" else "not Ready", 60, "Ready")
    wait(lambda: "; ".join(pods - endpoints(sandbox, service)), 60, "the pods to be back")


def told(sandbox: Sandbox, *words: str) -> Any:
    shown = sandbox.kubectl(*words, "-o", "json")
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout)


def readiness(sandbox: Sandbox, node: str) -> str:
    conditions = told(sandbox, "get", "node", node)["status"]["conditions"]
    (status,) = [one["status"] for one in conditions if one["type"] == "Ready"]
    return str(status)


def pods_on(sandbox: Sandbox, node: str, service: str) -> set[str]:
    """Return the service's pods on a node that are there to stay.

    Those of the test before end for a while yet, under the same names of service and ReplicaSet.
    """
    pods = told(sandbox, "-n", "serving", "get", "pods")["items"]
    staying = [
        pod["metadata"] for pod in pods if _stays(pod) and pod["spec"].get("nodeName") == node
    ]
    return {found["name"] for found in staying if found["name"].startswith(service)}


def _stays(pod: Any) -> bool:
    return "deletionTimestamp" not in pod["metadata"]


def endpoints(sandbox: Sandbox, service: str) -> set[str]:
    """Return the pods of a service that its EndpointSlices call ready."""
    found = told(sandbox, "-n", "serving", "get", "endpointslices")["items"]
    return {
        one["targetRef"]["name"]
        for item in found
        for one in item["endpoints"] or ()
        if one["conditions"]["ready"] and one["targetRef"]["name"].startswith(service)
    }
