"""A slot whose Deployment somebody else made: scaled, never written anew, and left in the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.errors import PermanentError
from slipway.core.release.record import Phase
from slipway.core.routing import Slot
from tests.flow.world import SERVICE, World

_KEY = ("serving", "by-hand")


@pytest.fixture
def adopted(released_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world whose live version 1 runs in a Deployment of another name."""
    world = released_world.copy()
    world.enter(monkeypatch)
    found = world.cluster.deployments.pop(("serving", "chat-blue"))
    found.manifest["metadata"]["name"] = "by-hand"
    found.manifest["spec"]["selector"] = {"matchLabels": {"app": "by-hand"}}
    found.manifest["spec"]["template"]["metadata"]["labels"]["app"] = "by-hand"
    world.cluster.deployments[_KEY] = found
    world.cluster.fences["Deployment", "by-hand"] = world.cluster.leases[SERVICE].fence
    stored = world.releases.load(SERVICE)
    assert stored is not None
    slots = tuple(
        replace(item, workload="by-hand", adopted=True) if item.slot is Slot.BLUE else item
        for item in stored.record.slots
    )
    world.releases.save(replace(stored.record, slots=slots), version=stored.version)
    world.journal.next_process()
    return world


def test_next_release_leaves_the_adopted_deployment_as_it_is(adopted: World) -> None:
    before = adopted.cluster.deployments[_KEY].manifest["spec"]["template"]

    adopted.release("2")

    assert adopted.record.live_slot is Slot.GREEN
    assert adopted.cluster.deployments[_KEY].replicas == 0
    assert adopted.cluster.deployments[_KEY].manifest["spec"]["template"] == before


def test_rollback_wakes_the_adopted_deployment_and_writes_nothing_else_of_it(
    adopted: World,
) -> None:
    adopted.release("2")
    before = adopted.cluster.deployments[_KEY].manifest["spec"]["template"]

    adopted.rollback()

    record = adopted.record
    assert (record.version, record.phase, record.live_slot) == ("1", Phase.DONE, Slot.BLUE)
    assert adopted.cluster.deployments[_KEY].replicas == 2
    assert adopted.cluster.deployments[_KEY].manifest["spec"]["template"] == before
    assert ("serving", "chat-blue") not in adopted.cluster.deployments


def test_slot_that_is_used_again_gets_a_deployment_of_a_release(adopted: World) -> None:
    adopted.release("2")

    adopted.release("3")

    left = adopted.cluster.deployments[_KEY].labels
    assert not {"slipway.dev/serves", "slipway.dev/slot"} & left.keys()
    assert left["app"] == "by-hand"
    held = adopted.record.slot(Slot.BLUE)
    assert (held.workload, held.adopted, held.version) == ("chat-blue", False, "3")
    assert adopted.cluster.deployments[_KEY].replicas == 0
    assert adopted.cluster.deployments["serving", "chat-blue"].replicas == 2
    assert not adopted.cluster.violations


def test_warm_adopted_pods_end_before_those_of_a_release_begin(adopted: World) -> None:
    adopted.set_policy(rollback_window_s=3600)
    adopted.release("2")
    assert adopted.cluster.deployments[_KEY].replicas == 2

    adopted.release("3")

    assert adopted.cluster.deployments[_KEY].replicas == 0
    assert adopted.record.live_slot is Slot.BLUE


def test_what_a_policy_refuses_is_refused_before_anything_is_kept(adopted: World) -> None:
    before = adopted.record
    adopted.cluster.refusal = PermanentError(
        "admission webhook says no", code="refused-by-cluster", hint="ask its owner"
    )

    with pytest.raises(PermanentError, match="admission webhook says no"):
        adopted.release("2")

    assert replace(adopted.record, fence=before.fence) == before
    assert not [item for item in adopted.writes() if item.startswith(("apply", "route", "pod"))]
