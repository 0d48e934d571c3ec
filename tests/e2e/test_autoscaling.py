"""Autoscaled releases with the real HPA controller, a metrics API of ours, and real users."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from slipway.adapters.kubernetes_api import KubernetesApi, object_path
from slipway.core.routing import Slot
from slipway.core.service import AutoscalerKind
from slipway.manifests.autoscaling import autoscaler
from tests.e2e.canaries import rows_of
from tests.e2e.foreign_kinds import KEDA, installed
from tests.e2e.metrics_api import METRIC, UsersSeen, metrics_api
from tests.e2e.support import Sandbox, World, harmed, said, users
from tests.examples import autoscaling

SERVICE = "elastic"
RATE_PER_S = 17
"""With five a pod: four pods for all users, two for half of them, one for a tenth."""

ALL, HALF = 4, 2
SCALED: dict[str, Any] = {
    "kind": "hpa",
    "min_replicas": 1,
    "max_replicas": 6,
    "metric": METRIC,
    "target_average": 5,
    # Short, so that whatever holds a slot is the floor, not the window.
    "scale_down_window_s": 3,
    "settle_s": 10,
}


@dataclass(frozen=True)
class Seen:
    """One look: pods that each slot is to have, and the new slot's share of the users."""

    at_s: float
    pods: dict[str, int]
    shares: dict[str, int]
    limited: dict[str, str]


@dataclass
class Looks:
    """What was seen, look by look."""

    seen: list[Seen] = field(default_factory=list)

    def numbers(self, slot: str) -> list[int]:
        """Return the numbers of pods that a slot was to have, each change once."""
        found: list[int] = []
        for look in self.seen:
            if slot in look.pods and look.pods[slot] != (found[-1] if found else None):
                found.append(look.pods[slot])
        return found

    def while_shared(self) -> list[Seen]:
        """Return the looks at which both slots had users."""
        return [look for look in self.seen if len(look.shares) == len(Slot)]


@contextmanager
def looking(world: World) -> Iterator[Looks]:
    """Look at both slots all the time meanwhile."""
    looks, ended = Looks(), threading.Event()

    def watch() -> None:
        ports = world.ports(SERVICE)
        while not ended.wait(0.3):
            pods, limited = {}, {}
            for slot in Slot:
                name = f"{SERVICE}-{slot}"
                observed = ports.workloads.observe("serving", name)
                if observed is not None:
                    pods[slot.value] = observed.desired
                limited[slot.value] = condition(world, name)
            route = ports.traffic.read(SERVICE)
            shares = {item.slot.value: item.percent for item in route.shares if item.percent}
            looks.seen.append(
                Seen(at_s=time.monotonic(), pods=pods, shares=shares, limited=limited)
            )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join()


def hpa(world: World, name: str) -> dict[str, Any] | None:
    api = KubernetesApi(str(world.sandbox.home.kubeconfig))
    return api.get(object_path("HorizontalPodAutoscaler", "serving", name))


def condition(world: World, name: str) -> str:
    """Return why the controller does not give a slot what it would; empty when it does."""
    found = hpa(world, name) or {}
    for item in found.get("status", {}).get("conditions", []):
        if item["type"] == "ScalingLimited" and item["status"] == "True":
            return str(item["reason"])
    return ""


def pods_asked(world: World, slot: Slot) -> int:
    observed = world.ports(SERVICE).workloads.observe("serving", f"{SERVICE}-{slot}")
    return 0 if observed is None else observed.desired


def wait_for_pods(world: World, slot: Slot, count: int, *, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while pods_asked(world, slot) != count:
        assert time.monotonic() < deadline, (slot, pods_asked(world, slot), hpa_said(world, slot))
        time.sleep(0.5)  # between two looks; the deadline decides


def hpa_said(world: World, slot: Slot) -> Any:
    found = hpa(world, f"{SERVICE}-{slot}") or {}
    return found.get("status")


def slots(world: World) -> tuple[Slot, Slot]:
    """Return the slot that serves and the one that comes next."""
    live = world.record(SERVICE).live_slot
    assert live is not None
    return live, live.other


def owners_of_replicas(world: World, slot: Slot) -> set[str]:
    """Return the managers that own the number of pods of a slot."""
    found = world.sandbox.kubectl(
        *("-n", "serving", "get", "deployment", f"{SERVICE}-{slot}"),
        *("-o", "json", "--show-managed-fields"),
    )
    assert found.returncode == 0, found.stderr
    return {
        item["manager"]
        for item in json.loads(found.stdout)["metadata"]["managedFields"]
        if "f:replicas" in item["fieldsV1"].get("f:spec", {})
    }


def given_canary(world: World, *, half_s: int) -> None:
    """State the service, whose canaries stay at 50 % for so long."""
    world.given_service(
        SERVICE,
        replicas=1,
        autoscaling=SCALED,
        policy__strategy="canary",
        policy__ramp__steps=[
            {"weight_percent": 10, "bake_s": 3},
            {"weight_percent": 50, "bake_s": half_s},
        ],
        policy__ramp__requests_min=5,
        policy__ramp__ttft_ratio_max=20,
    )


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(sandbox, tmp_path_factory.mktemp(SERVICE))
    given_canary(made, half_s=25)
    first = made.release(SERVICE, made.given_version(SERVICE))
    assert first.returncode == 0, said(first)
    return made


@pytest.fixture(scope="module")
def metric(world: World) -> Iterator[UsersSeen]:
    with metrics_api(world, SERVICE) as seen:
        yield seen


def test_first_release_begins_with_the_least_number(world: World) -> None:
    assert pods_asked(world, Slot.BLUE) == 1
    found = hpa(world, f"{SERVICE}-blue")
    assert found is not None
    assert found["spec"]["minReplicas"] == 1
    assert hpa(world, f"{SERVICE}-green") is None


def test_canary_is_promoted_and_the_controller_never_fights(
    world: World, metric: UsersSeen
) -> None:
    began_ns = time.time_ns()
    stable, candidate = slots(world)
    with users(world, SERVICE, rate=RATE_PER_S, long_streams=2) as crowd:
        wait_for_pods(world, stable, ALL)
        with looking(world) as looks:
            released = world.release(SERVICE, world.given_version(SERVICE, ttft_ms=6))
        time.sleep(5)  # a controller that fights would have begun by then
        ledger = crowd.stop()
    assert released.returncode == 0, said(released)
    assert harmed(ledger) == {}
    assert [row for row in rows_of(world, SERVICE, began_ns) if row.failed] == []

    shared = looks.while_shared()
    assert {look.shares[candidate] for look in shared} == {10, 50}
    assert looks.numbers(stable) == [ALL, 0], "the stable slot shrank, or grew, in between"
    # It is the floor that held it: the controller itself wanted fewer pods.
    assert "TooFewReplicas" in {look.limited[stable] for look in shared}
    assert [count for count in looks.numbers(candidate) if count] == [1, HALF, ALL]
    for look in shared:
        assert 100 * look.pods[candidate] / ALL >= look.shares[candidate]

    # Its first number was ours to give, and is the controller's since.
    assert not any(
        manager.startswith("slipway") for manager in owners_of_replicas(world, candidate)
    )
    assert world.leftovers(SERVICE) == []
    assert hpa(world, f"{SERVICE}-{stable}") is None
    found = hpa(world, f"{SERVICE}-{candidate}")
    assert found is not None
    assert found["spec"]["minReplicas"] == 1
    wait_for_pods(world, candidate, 1)  # nothing holds it when its users have left


def test_canary_that_is_aborted_never_grows_again(world: World, metric: UsersSeen) -> None:
    given_canary(world, half_s=600)  # the order comes late on a busy machine
    began_ns = time.time_ns()
    stable, candidate = slots(world)
    with users(world, SERVICE, rate=RATE_PER_S, long_streams=2) as crowd:
        wait_for_pods(world, stable, ALL)
        version = world.given_version(SERVICE, ttft_ms=7)
        with looking(world) as looks, world.releasing(SERVICE, version) as release:
            wait_for_weight(world, 50)
            time.sleep(8)  # longer than the controller's window: half of the users ask for two
            aborted = world.cli("abort", SERVICE)
            assert aborted.returncode == 0, said(aborted)
            code, output = release.wait()
            assert code != 0, output
            time.sleep(10)  # several rounds of the controller, which must not wake the slot
        ledger = crowd.stop()
    assert harmed(ledger) == {}
    assert [row for row in rows_of(world, SERVICE, began_ns) if row.failed] == []
    assert looks.numbers(stable) == [ALL], "the stable slot shrank"
    assert "TooFewReplicas" in {look.limited[stable] for look in looks.while_shared()}
    grown = looks.numbers(candidate)
    assert [count for count in grown if count] == [1, HALF]
    assert grown[-1] == 0
    assert hpa(world, f"{SERVICE}-{candidate}") is None
    found = hpa(world, f"{SERVICE}-{stable}")
    assert found is not None
    assert found["spec"]["minReplicas"] == 1
    assert world.leftovers(SERVICE) == []


def wait_for_weight(world: World, percent: int) -> None:
    deadline = time.monotonic() + 300
    while world.record(SERVICE).weight_percent != percent:
        assert time.monotonic() < deadline, world.record(SERVICE)
        time.sleep(0.2)  # between two looks; the deadline decides


def test_slot_that_a_person_scales_is_refused_before_the_first_write(world: World) -> None:
    before, (stable, _) = world.record(SERVICE), slots(world)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{SERVICE}-{stable}"}
    by_hand = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "by-hand", "namespace": "serving"},
        "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3},
    }
    made = world.sandbox.kubectl("create", "-f", "-", stdin=json.dumps(by_hand))
    assert made.returncode == 0, made.stderr
    try:
        refused = world.release(SERVICE, world.given_version(SERVICE))
    finally:
        world.sandbox.kubectl("-n", "serving", "delete", "hpa", "by-hand")
    assert refused.returncode != 0
    assert "by-hand" in said(refused)
    assert "autoscaler-foreign" in said(refused)
    assert world.record(SERVICE) == before


def test_scaled_object_of_keda_passes_its_schema_and_a_misspelt_one_does_not(
    sandbox: Sandbox,
) -> None:
    settings = autoscaling(AutoscalerKind.KEDA)
    manifest = autoscaler(
        "chat", "default", settings, slot=Slot.BLUE, workload="chat-blue", floor=3
    )
    apply = (
        *("apply", "--server-side", "--validate=strict", "--dry-run=server"),
        *("--field-manager=slipway-release", "-f", "-"),
    )
    with installed(sandbox, KEDA):
        accepted = sandbox.kubectl(*apply, stdin=json.dumps(manifest))
        manifest["spec"]["minReplicas"] = 3
        refused = sandbox.kubectl(*apply, stdin=json.dumps(manifest))
    assert accepted.returncode == 0, accepted.stderr
    assert refused.returncode != 0
    assert "minReplicas" in refused.stderr
