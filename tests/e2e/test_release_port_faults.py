"""Releases while doors are unsteady, a pod is slow or flaky, a node is lost: users see nothing.

Shares of a quarter or so: a retry bridges them. The dice are the faults' own, so a run repeats.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from slipway.core.release.record import Phase
from slipway.sandbox.faults.client import list_faults
from tests.e2e.support import Sandbox, World, harmed, said, users

NODES = ("node-a", "node-b")
SHAKEN = (
    "s3 reset --share 0.25 --seed 2",
    "s3 error --share 0.25 --seed 1",
    "s3 latency --latency-ms 300 --jitter-ms 300 --share 0.3 --seed 4",
    "registry reset --share 0.25 --seed 1",
    "registry error --share 0.3 --seed 7",
    "registry latency --latency-ms 300 --jitter-ms 300 --share 0.3 --seed 4",
    "mlflow reset --share 0.25 --seed 1",
    "mlflow error --status 500 --share 0.25 --seed 5",
    "mlflow latency --latency-ms 300 --jitter-ms 300 --share 0.3 --seed 4",
    "apiserver reset --share 0.3 --seed 4",
    "apiserver error --share 0.2 --seed 1",
    "apiserver error --status 429 --share 0.2 --seed 1",
    "apiserver error --status 500 --share 0.2 --seed 2",
    # In the middle of an answer, so that what was written is not learned of.
    "apiserver reset --after 6k --share 0.3 --seed 4",
    "apiserver latency --latency-ms 100 --jitter-ms 200 --share 0.3 --seed 4",
)


@pytest.fixture(scope="module")
def live(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """A service with a live version on the first node."""
    world = World(sandbox, tmp_path_factory.mktemp("shaken"))
    service = world.given_service(
        "shaken",
        replicas=1,
        probes__startup_budget_s=50,
        policy__ready_timeout_s=60,
        policy__drain_timeout_s=20,
    )
    with only(sandbox, NODES[0]):
        first = world.release(service, world.given_version(service))
    assert first.returncode == 0, said(first)
    return world, service


@pytest.fixture(autouse=True)
def mended(sandbox: Sandbox) -> Iterator[None]:
    yield
    done = sandbox.run_cli("sandbox", "fault", "remove", "--all")
    assert done.returncode == 0, done.stderr


@contextmanager
def only(sandbox: Sandbox, node: str) -> Iterator[None]:
    """Let new pods be put on this node only."""
    others = [other for other in NODES if other != node]
    try:
        for other in others:
            assert sandbox.kubectl("cordon", other).returncode == 0
        yield
    finally:
        for other in others:
            assert sandbox.kubectl("uncordon", other).returncode == 0


def fault(world: World, *args: str) -> None:
    done = world.sandbox.run_cli("sandbox", "fault", "add", *args)
    assert done.returncode == 0, done.stdout + done.stderr


def require_hit(world: World) -> None:
    """Else nothing was got through."""
    (hits,) = list_faults(world.sandbox.home.run).hits.values()
    assert hits > 0


def served_version(world: World, service: str) -> str:
    record = world.record(service)
    assert record.live_slot is not None
    return record.slot(record.live_slot).version


def candidate_pod(world: World, service: str, known: set[str], timeout_s: float = 120) -> Any:
    """Wait for a pod of a slot that is not `known` to be on a node, ready or not; return it."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = [
            pod
            for pod in slot_pods(world, service)
            if pod["metadata"]["name"] not in known and pod["status"].get("podIP")
        ]
        if found:
            return found[0]
        assert time.monotonic() < deadline_s
        time.sleep(0.2)  # between two looks; the deadline decides


def await_gone(world: World, pod: str, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while world.sandbox.kubectl("-n", "serving", "get", "pod", pod).returncode == 0:
        assert time.monotonic() < deadline_s
        time.sleep(0.2)  # between two looks; the deadline decides


def slot_pods(world: World, service: str) -> list[Any]:
    shown = world.sandbox.kubectl(
        *("-n", "serving", "get", "pods", "-o", "json"),
        *("-l", f"slipway.dev/serves={service},slipway.dev/slot"),
    )
    assert shown.returncode == 0, shown.stderr
    items: list[Any] = json.loads(shown.stdout)["items"]
    return items


def names(pods: list[Any]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


@pytest.mark.parametrize("shaking", SHAKEN)
def test_release_gets_through_an_unsteady_door(live: tuple[World, str], shaking: str) -> None:
    world, service = live
    version = world.given_version(service)
    with users(world, service, rate=5) as crowd:
        fault(world, *shaking.split())
        done = world.release(service, version)
        ledger = crowd.stop()
    assert done.returncode == 0, said(done)
    require_hit(world)
    # The looks of this test have no reason to get through.
    assert world.sandbox.run_cli("sandbox", "fault", "remove", "--all").returncode == 0
    assert (world.record(service).phase, served_version(world, service)) == (Phase.DONE, version)
    assert world.leftovers(service) == []
    assert harmed(ledger) == {}


def test_release_refuses_a_slow_pod_and_users_stay(live: tuple[World, str]) -> None:
    outcome = released_with_a_fault_on_the_candidate(live, "latency", "--latency-ms", "900")
    assert "benchmark-failed" in outcome


def test_release_gets_through_with_a_pod_that_is_late_within_its_objectives(
    live: tuple[World, str],
) -> None:
    assert released_with_a_fault_on_the_candidate(live, "latency", "--latency-ms", "30") == ""


def test_release_refuses_a_flaky_pod_and_users_stay(live: tuple[World, str]) -> None:
    # Its first eight requests are answered: the smoke test sees nothing.
    outcome = released_with_a_fault_on_the_candidate(live, "error", "--share", "0.2", "--seed", "3")
    assert "benchmark-failed" in outcome


def released_with_a_fault_on_the_candidate(live: tuple[World, str], *args: str) -> str:
    """Release a version whose pod has a fault; return why it was refused, "" when it was not."""
    world, service = live
    before, known = served_version(world, service), names(slot_pods(world, service))
    version = world.given_version(service, start_delay_s=6)
    with users(world, service, rate=5) as crowd:
        with world.releasing(service, version) as release:
            pod = candidate_pod(world, service, known)
            fault(world, f"pod/{pod['metadata']['name']}", *args)
            code, output = release.wait()
        ledger = crowd.stop()
    require_hit(world)
    assert harmed(ledger) == {}
    assert world.leftovers(service) == []
    record = world.record(service)
    if code == 0:
        assert (record.phase, served_version(world, service)) == (Phase.DONE, version)
        return ""
    assert (record.phase, served_version(world, service)) == (Phase.ROLLED_BACK, before)
    return output


def test_node_lost_during_a_release_is_survived_and_the_release_taken_back(
    live: tuple[World, str],
) -> None:
    world, service = live
    sandbox, known = world.sandbox, names(slot_pods(world, service))
    before, stable_on = served_version(world, service), node_of_users(world, service)
    (lost,) = set(NODES) - {stable_on}
    version = world.given_version(service, start_delay_s=6)
    with users(world, service, rate=5) as crowd:
        with world.releasing(service, version) as release:
            with only(sandbox, lost):
                pod = candidate_pod(world, service, known)
            # Else it is the test pod that cannot end there, and the release says that instead.
            await_gone(world, f"{service}-test")
            assert pod["spec"]["nodeName"] == lost
            assert sandbox.run_cli("sandbox", "node", "kill", lost).returncode == 0
            try:
                code, output = release.wait()
            finally:
                assert sandbox.run_cli("sandbox", "node", "revive", lost).returncode == 0
        assert code != 0
        assert "not-in-time" in output
        # What the node held cannot end while it is down: the release says so, and goes on later.
        again = world.release(service, version)
        ledger = crowd.stop()
    assert world.record(service).phase is Phase.ROLLED_BACK, said(again)
    assert served_version(world, service) == before
    assert world.leftovers(service) == []
    assert harmed(ledger) == {}


def node_of_users(world: World, service: str) -> str:
    live_slot = world.record(service).live_slot
    (node,) = {
        pod["spec"]["nodeName"]
        for pod in slot_pods(world, service)
        if pod["metadata"]["labels"]["slipway.dev/slot"] == live_slot
    }
    return str(node)
