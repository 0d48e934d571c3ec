"""What cannot be taken over as it is is said, all of it, and nothing is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.by_hand import (
    differences,
    helm_like,
    remove_by_hand,
    run_by_hand,
    same_names,
    state,
)
from tests.e2e.support import Sandbox, World, said


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


def test_every_obstacle_is_named_at_once_and_nothing_is_written(world: World) -> None:
    shape = helm_like()
    shape = replace(shape, file={})  # a service file that knows nothing of what is live
    kept = json.loads(json.dumps(shape.objects[2]))
    kept["metadata"]["annotations"] = {"argocd.argoproj.io/tracking-id": "x"}
    kept["spec"]["http"][1]["rewrite"] = {"uri": "/v1"}
    shape = replace(shape, objects=(*shape.objects[:2], kept))
    version = run_by_hand(world, shape)
    before = state(world, shape)
    for options in ((), ("--apply",)):
        refused = world.cli("adopt", shape.name, version, *options)
        assert refused.returncode == 6, said(refused)
        for words in (
            "it has no port 80",
            "states no autoscaling",
            "it says rewrite",
            "Argo CD keeps it",
            "do not tell how many requests they have open",
        ):
            assert words in said(refused)
    assert differences(before, state(world, shape)) == []
    remove_by_hand(world, shape)


def test_version_that_the_registry_does_not_know_is_refused(world: World) -> None:
    shape = same_names("hand-unknown")
    run_by_hand(world, shape)
    before = state(world, shape)
    refused = world.cli("adopt", shape.name, "99", "--apply")
    assert refused.returncode == 3, said(refused)
    assert differences(before, state(world, shape)) == []
    remove_by_hand(world, shape)


def test_service_that_slipway_released_is_not_adopted(world: World) -> None:
    service = world.given_service("own-already", replicas=1)
    version = world.given_version(service)
    released = world.release(service, version)
    assert released.returncode == 0, said(released)
    for arguments in ((version, "--apply"), ("--undo",)):
        refused = world.cli("adopt", service, *arguments)
        assert refused.returncode == 3, said(refused)
    assert world.ask(service).status_code == 200
