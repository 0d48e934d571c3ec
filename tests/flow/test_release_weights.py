"""Releases of a service whose weights lie on a volume: bound by their digest, removed when idle."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from slipway.core.errors import InputError, PermanentError
from slipway.core.release.record import Phase
from slipway.core.routing import Slot
from slipway.core.service import Weights, WeightsVolume
from slipway.evaluation.integrity import weights_digest
from tests.fakes.cluster import Fault
from tests.fakes.stores import FakeImageStore
from tests.flow.world import MODEL, SERVICE, World

VOLUME = WeightsVolume(claim="models", artifacts="s3://mlflow")
WRITES = 42
"""Writes of a second release that goes well."""

FIRST_KILL = 1 if os.environ.get("SLIPWAY_SOAK") else WRITES - 9
"""The last ones remove old weights; those before are the same as without a volume."""


def put_weights_on_a_volume(world: World) -> World:
    world.spec = replace(world.spec, weights=Weights.PVC, volume=VOLUME)
    program = FakeImageStore(world.journal, bases=[VOLUME.fetcher])
    world.images.images.update(program.images)
    return world


@pytest.fixture
def shelf(fresh: World) -> World:
    """Return a world in which version 1 is live in slot blue, its weights on a volume."""
    put_weights_on_a_volume(fresh).release("1")
    return fresh


def digest(world: World, version: str) -> str:
    return weights_digest(world.registry.version(MODEL, version))


def test_image_is_the_servers_own_and_every_pod_asks_for_the_records_weights(shelf: World) -> None:
    pushed = len(shelf.images.images)

    shelf.release("2")

    assert len(shelf.images.images) == pushed
    record = shelf.record
    assert record.digests.image == shelf.images.resolve(shelf.spec.server.image).digest
    assert record.digests.weights == digest(shelf, "2")
    for slot, version in ((Slot.BLUE, "1"), (Slot.GREEN, "2")):
        assert record.slot(slot).weights == digest(shelf, version)
        (deployment,) = shelf.cluster.slot_deployments(SERVICE, slot)
        assert deployment.weights == digest(shelf, version)
        arguments = str(deployment.manifest["spec"]["template"]["spec"]["initContainers"])
        assert digest(shelf, version) in arguments
        assert f"s3://mlflow/{MODEL}/{version}" in arguments


def test_evidence_of_the_model_test_names_the_weights_that_were_tested(shelf: World) -> None:
    (verdict,) = (item for item in shelf.record.verdicts if item.stage == "test")
    key = verdict.evidence_key
    assert json.loads(shelf.objects.get(key))["weights"] == digest(shelf, "1")


def test_end_of_a_release_removes_what_neither_slot_names(shelf: World) -> None:
    shelf.release("2")
    shelf.release("3")
    assert [set(kept) for kept in shelf.cluster.swept] == [
        {digest(shelf, "1")},
        {digest(shelf, "1"), digest(shelf, "2")},
        {digest(shelf, "2"), digest(shelf, "3")},
    ]
    assert shelf.cluster.pods == {}


def test_release_is_done_though_old_weights_stay(shelf: World) -> None:
    shelf.cluster.sweep_fault = True
    outcome = shelf.release("2")
    assert outcome["outcome"] == "done"
    assert shelf.cluster.pods == {}


def test_pods_that_ask_for_other_weights_get_nobody(shelf: World) -> None:
    def swap() -> None:
        for pod in shelf.cluster.pods_of(SERVICE, Slot.GREEN):
            pod.weights = digest(shelf, "1")

    shelf.model.while_benchmarked.append(swap)
    with pytest.raises(PermanentError, match=r"weights .* expected"):
        shelf.release("2")
    assert shelf.record.phase is Phase.ROLLED_BACK
    assert shelf.alias == "1"


def test_weights_that_are_refused_take_the_release_back(shelf: World) -> None:
    shelf.cluster.test_pod_fault = Fault.WEIGHTS
    with pytest.raises(PermanentError, match="checksum-mismatch: other bytes") as caught:
        shelf.release("2")
    assert caught.value.code == "weights-not-placed"
    shelf.assert_taken_back("2", code="weights-not-placed")


def test_version_that_pods_could_not_fetch_is_refused_before_anything_is_made(
    fresh: World,
) -> None:
    put_weights_on_a_volume(fresh)
    fresh.spec = replace(fresh.spec, volume=replace(VOLUME, artifacts=""))
    with pytest.raises(InputError) as caught:
        fresh.release("1")
    assert caught.value.code == "weights-source-unknown"
    assert list(fresh.cluster.deployments) == []


def test_missing_image_of_the_fetching_program_is_refused_before_anything_is_made(
    fresh: World,
) -> None:
    fresh.spec = replace(fresh.spec, weights=Weights.PVC, volume=VOLUME)
    with pytest.raises(PermanentError, match="slipway/weights:base") as caught:
        fresh.release("1")
    assert caught.value.code == "infeasible"
    assert list(fresh.cluster.deployments) == []


@pytest.fixture(scope="module")
def first_done(fresh_world: World, prefect_server: None) -> World:
    """Return the world after the first release; only ever copied."""
    world = put_weights_on_a_volume(fresh_world.copy())
    with pytest.MonkeyPatch.context() as patch:
        world.enter(patch)
        world.release("1")
    return world


@pytest.fixture(scope="module")
def second_done(first_done: World) -> World:
    """Return the end of a second release that nobody killed."""
    world = first_done.copy()
    with pytest.MonkeyPatch.context() as patch:
        world.enter(patch)
        world.release("2")
    return world


def test_sweep_of_kills_covers_every_write(second_done: World) -> None:
    assert len(second_done.journal.writes) == WRITES


@pytest.mark.parametrize("write", range(FIRST_KILL, WRITES + 1))
def test_release_killed_after_a_write_ends_as_if_never_killed(
    first_done: World, second_done: World, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = first_done.copy()
    world.enter(monkeypatch)
    world.journal.die_after = write
    world.die_in_release("2")
    outcome = world.release_after_death("2")
    assert outcome["outcome"] == "done"
    assert world.final_state() == second_done.final_state()
