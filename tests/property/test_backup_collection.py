"""Writers and removers at once, killed and stopped anywhere: nothing that is named is lost."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from slipway.backup import removing, taking
from slipway.backup.repository import Known, Repository
from tests.property.backup_world import BackupWorld

_STEPS = 1_000_000 if os.environ.get("SLIPWAY_SOAK") else 20_000
_MENDED_WORLDS = 50 if os.environ.get("SLIPWAY_SOAK") else 2
_CONTENTS = (b"aaaaaaaa", b"aaaaaaaabbbbbbbb", b"bbbbbbbbcccc", b"ccccaaaaaaaa")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    made = []
    for content in _CONTENTS:
        folder = tmp_path_factory.mktemp("version")
        (folder / "weights").write_bytes(content)
        made.append(folder)
    return tuple(made)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_that_a_backup_names_is_ever_missing(folders: tuple[Path, ...], seed: int) -> None:
    world = BackupWorld(folders, random.Random(seed))
    world.run(_STEPS // 5)
    assert world.committed > _STEPS / 10_000
    assert world.removed > _STEPS / 10_000


def test_healing_beside_them_brings_nothing_back_that_was_removed(
    folders: tuple[Path, ...],
) -> None:
    worlds = [
        BackupWorld(folders, random.Random(seed), has_mender=True) for seed in range(_MENDED_WORLDS)
    ]
    for world in worlds:
        world.run(8_000)
    assert sum(world.healed for world in worlds) > 0
    assert sum(world.removed for world in worlds) > 0


def _one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that were removed are stored anew under the same key."""
    known = Repository.known

    def changed(self: Repository) -> Known:
        return Known(epoch=0, chunks=known(self).chunks)

    monkeypatch.setattr(Repository, "known", changed)


def _condemned_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers name what is about to go."""

    def changed(self: Repository) -> Known:
        epoch = max((item.epoch for item in self.removals()), default=0)
        return Known(epoch=epoch, chunks={key.digest: key for key in self.stored_chunks()})

    monkeypatch.setattr(Repository, "known", changed)


def _nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removing, "_left", lambda *_: iter(()))


def _nobody_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer past its time is taken for dead, and commits nevertheless."""
    monkeypatch.setattr(Repository, "end", lambda *_: True)


def _decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published is removed, whoever names it by now."""
    monkeypatch.setattr(removing, "doomed", lambda removal, _named: removal.chunks)


def _chunks_before_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer lists what is there before it says that it has begun."""
    real = Repository.known
    early: dict[int, Any] = {}
    registered = Repository.registered

    def first(self: Repository, run: Any, *, now_ns: int) -> Any:
        early[id(self)] = real(self)
        return registered(self, run, now_ns=now_ns)

    monkeypatch.setattr(Repository, "registered", first)
    monkeypatch.setattr(Repository, "known", lambda self: early.pop(id(self)))


@pytest.mark.parametrize(
    "broken",
    [
        _one_epoch,
        _condemned_is_named,
        _nobody_is_waited_for,
        _nobody_is_ended,
        _decided_once,
        _chunks_before_runs,
    ],
)
def test_each_rule_of_the_protocol_is_needed(
    folders: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    broken(monkeypatch)
    # Without the second look, which hides most of it without being a proof.
    monkeypatch.setattr(taking, "_require_all", lambda *_: None)
    with pytest.raises(AssertionError, match="has lost"):
        _run_many(folders)


def _run_many(folders: tuple[Path, ...]) -> None:
    for seed in range(100):  # a few are enough; the rest is for later code
        BackupWorld(folders, random.Random(seed)).run(2_000)
