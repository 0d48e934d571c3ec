"""An adoption that dies after any of its writes goes on, in either direction."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.bootstrap.releases import administration
from slipway.core.routing import ROUTE_HEADER
from slipway.ports.objects import Objects
from slipway.ports.workloads import Manifest
from tasks.adopting import Adopting, originals_of
from tasks.adoption import adopt
from tasks.giving_back import give_back
from tasks.progress import Progress
from tests.e2e.by_hand import (
    Shape,
    differences,
    pods,
    remove_by_hand,
    run_by_hand,
    same_names,
    state,
)
from tests.e2e.draw import seed_in_force
from tests.e2e.support import Sandbox, World, harmed, said, users

_SAMPLE = 2
_NEVER = 10_000


class KilledError(BaseException):
    """Nobody catches it, as nobody catches a signal 9."""


class DeadlyObjects:
    """Objects of the cluster; after so many writes, or the first of a kind, the process dies."""

    def __init__(self, objects: Objects, dies_after: int, *, dies_at: str = "") -> None:
        self._objects = objects
        self._left = dies_after
        self._dies_at = dies_at
        self.written = 0

    def get(self, kind: str, namespace: str | None, name: str) -> Manifest | None:
        return self._objects.get(kind, namespace, name)

    def list(self, kind: str, namespace: str | None) -> tuple[Manifest, ...]:
        return self._objects.list(kind, namespace)

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        return self._counted(self._objects.apply(manifest, dry_run=dry_run), dry_run=dry_run)

    def put(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        return self._counted(self._objects.put(manifest, dry_run=dry_run), dry_run=dry_run)

    def patch(
        self, found: Manifest, changes: Mapping[str, Any], *, dry_run: bool = False
    ) -> Manifest:
        written = self._objects.patch(found, changes, dry_run=dry_run)
        return self._counted(written, dry_run=dry_run)

    def delete(self, found: Manifest) -> None:
        self._objects.delete(found)
        self._counted(found, dry_run=False)

    def _counted(self, written: Manifest, *, dry_run: bool) -> Manifest:
        if not dry_run:
            self.written += 1
            if self.written >= self._left or written["kind"] == self._dies_at:
                raise KilledError
        return written


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


@pytest.mark.timeout(1800)
def test_adoption_that_dies_after_a_write_goes_on_and_harms_nobody(world: World) -> None:
    shape = same_names("hand-killed")
    version = run_by_hand(world, shape)
    before, first_pods = state(world, shape), pods(world, shape)
    work = _administrator(world, shape)

    def take(some: Adopting) -> object:
        return adopt(some, version, managed_elsewhere=False)

    with users(world, shape.name, rate=20, long_streams=2) as crowd:
        counts = [_writes(work, step) for step in (take, give_back)]
        assert min(counts) > 10
        for taken, given in _deaths(*counts):
            _dies(work, take, after=taken)
            take(work)
            assert world.record(shape.name).live_slot is not None
            _dies(work, give_back, after=given)
            if originals_of(work) is not None:  # which are what it removes last
                give_back(work)
            assert differences(before, state(world, shape)) == []
            assert pods(world, shape) == first_pods
        ledger = crowd.stop()
    assert harmed(ledger) == {}
    remove_by_hand(world, shape)


def test_half_an_adoption_is_given_back_and_no_release_begins_meanwhile(world: World) -> None:
    shape = same_names("hand-halved")
    version = run_by_hand(world, shape)
    before = state(world, shape)
    work = _administrator(world, shape)
    _dies(work, lambda some: adopt(some, version, managed_elsewhere=False), at="ReplicaSet")
    early = world.release(shape.name, version)
    assert early.returncode == 6, said(early)
    assert "is being adopted, or given back" in said(early)
    undone = world.cli("adopt", shape.name, "--undo")
    assert undone.returncode == 0, said(undone)
    assert differences(before, state(world, shape)) == []
    remove_by_hand(world, shape)


def test_half_given_back_is_taken_over_again(world: World) -> None:
    shape = same_names("hand-again-back")
    version = run_by_hand(world, shape)
    before = state(world, shape)
    work = _administrator(world, shape)
    adopt(work, version, managed_elsewhere=False)
    assert ROUTE_HEADER in world.ask(shape.name).headers
    _dies(work, give_back, at="VirtualService")
    work.hand_over.confirm_handed_over(timeout_s=30)

    adopt(work, version, managed_elsewhere=False)

    assert ROUTE_HEADER in world.ask(shape.name).headers
    give_back(work)
    assert differences(before, state(world, shape)) == []
    remove_by_hand(world, shape)


def test_adoption_that_died_before_its_alias_moves_it_when_it_is_run_again(world: World) -> None:
    shape = same_names("hand-alias")
    version = run_by_hand(world, shape)
    work = _administrator(world, shape)
    adopt(work, version, managed_elsewhere=False)
    spec, registry = work.spec, work.ports.registry
    registry.set_alias(spec.model, spec.alias, None)

    adopt(work, version, managed_elsewhere=False)

    assert registry.alias(spec.model, spec.alias) == version
    give_back(work)
    assert registry.alias(spec.model, spec.alias) is None
    remove_by_hand(world, shape)


def _administrator(world: World, shape: Shape) -> Adopting:
    ports, objects, hand_over = administration(shape.name, world.settings)
    progress = Progress("adopt", stream=None)
    return Adopting(ports=ports, objects=objects, hand_over=hand_over, progress=progress)


def _writes(work: Adopting, step: Callable[[Adopting], object]) -> int:
    counting = DeadlyObjects(work.objects, _NEVER)
    step(replace(work, objects=counting))
    return counting.written


def _dies(
    work: Adopting, step: Callable[[Adopting], object], *, after: int = _NEVER, at: str = ""
) -> None:
    with pytest.raises(KilledError):
        step(replace(work, objects=DeadlyObjects(work.objects, after, dies_at=at)))


def _deaths(takes: int, gives: int) -> Iterator[tuple[int, int]]:
    """Yield after which write each direction dies: every one, or some by the seed."""
    if os.environ.get("SLIPWAY_SOAK"):
        for number in range(max(takes, gives)):
            yield min(number + 1, takes), min(number + 1, gives)
        return
    drawn = random.Random(seed_in_force())
    for _ in range(_SAMPLE):
        yield drawn.randint(1, takes), drawn.randint(1, gives)
