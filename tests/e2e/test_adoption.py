"""Services that are live without Slipway are taken over and given back, and no user notices."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.by_hand import (
    Shape,
    differences,
    managers,
    pods,
    remove_by_hand,
    run_by_hand,
    same_names,
    shapes,
    state,
)
from tests.e2e.support import Sandbox, World, harmed, said, users

_RATE_PER_S = 100.0 if os.environ.get("SLIPWAY_SOAK") else 20.0


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


@pytest.mark.drawn("fault or adoption")
@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: shape.name)
def test_live_service_is_taken_over_released_and_given_back_as_it_was(
    world: World, shape: Shape
) -> None:
    version = run_by_hand(world, shape)
    before, first_pods = state(world, shape), pods(world, shape)
    with users(world, shape.name, rate=_RATE_PER_S, long_streams=4) as crowd:
        planned = world.cli("adopt", shape.name, version)
        assert planned.returncode == 0, said(planned)
        assert "nothing was written" in said(planned)
        assert differences(before, state(world, shape)) == []

        adopted = world.cli("adopt", shape.name, version, "--apply")
        assert adopted.returncode == 0, said(adopted)
        assert pods(world, shape) == first_pods
        record = world.record(shape.name)
        assert record.live_slot is not None
        assert record.slot(record.live_slot).workload == shape.deployment

        released = world.release(shape.name, world.given_version(shape.name))
        assert released.returncode == 0, said(released)
        back = world.cli("rollback", shape.name)
        assert back.returncode == 0, said(back)

        undone = world.cli("adopt", shape.name, "--undo")
        assert undone.returncode == 0, said(undone)
        ledger = crowd.stop()
    assert harmed(ledger) == {}
    assert len(ledger) > 100
    assert differences(before, state(world, shape)) == []
    _nothing_of_slipway_is_left(world, shape)
    remove_by_hand(world, shape)


@pytest.mark.drawn("fault or adoption")
def test_slot_that_is_used_again_leaves_the_adopted_deployment_without_pods(world: World) -> None:
    shape = same_names("hand-again")
    version = run_by_hand(world, shape)
    with users(world, shape.name, rate=_RATE_PER_S, long_streams=2) as crowd:
        adopted = world.cli("adopt", shape.name, version, "--apply")
        assert adopted.returncode == 0, said(adopted)
        for _ in range(2):
            released = world.release(shape.name, world.given_version(shape.name))
            assert released.returncode == 0, said(released)
        refused = world.cli("adopt", shape.name, "--undo")
        assert refused.returncode == 3, said(refused)
        assert "users of service hand-again are on slot blue, version 3" in said(refused)
        ledger = crowd.stop()
    assert harmed(ledger) == {}
    assert pods(world, shape) == {}
    left = state(world, shape)[f"Deployment/{shape.deployment}"]["spec"]
    assert left["replicas"] == 0
    assert left["template"]["metadata"]["labels"] == {**shape.selector, **shape.labels}


def _nothing_of_slipway_is_left(world: World, shape: Shape) -> None:
    kinds = "all,configmap,lease,role,rolebinding,horizontalpodautoscaler"
    routes = "virtualservice,destinationrule,httproute"
    left = world.sandbox.kubectl(
        *("-n", shape.namespace, "get", f"{kinds},{routes}", "-o", "name"),
        *("-l", f"slipway.dev/service={shape.name}"),
    )
    assert left.stdout == "", left.stdout
    for item in shape.objects:
        kind, name = item["kind"].lower(), item["metadata"]["name"]
        assert not [who for who in managers(world, shape, kind, name) if who.startswith("slipway")]
    labelled = world.sandbox.kubectl(
        *("-n", shape.namespace, "get", "pods", "-l", "slipway.dev/serves", "-o", "json")
    )
    names = [item["metadata"]["name"] for item in json.loads(labelled.stdout)["items"]]
    assert not [name for name in names if name.startswith(shape.deployment)]
