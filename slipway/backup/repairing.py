"""Heal what is damaged or missing: from the store itself, replicas, or files here.

A healed chunk goes back under its own name. That is safe beside removals because only chunks that
a backup needs are healed, by a run that has registered, and none that is condemned: a removal that
begins later waits for the run, and one that had begun has published what it will remove.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipway.backup.codec import Codec
from slipway.backup.fetching import Fetcher, wrong_with
from slipway.backup.recovering import Replica, recover
from slipway.backup.repository import Repository
from slipway.backup.taking import DAY_S, Surroundings
from slipway.backup.verifying import Library, read_library
from slipway.core.backup.collection import Run, RunKind
from slipway.core.backup.manifest import extents
from slipway.core.backup.names import ChunkKey, ManifestName
from slipway.core.backup.ulid import ulid
from slipway.core.backup.verification import Bad, Record, ledger_of
from slipway.core.errors import ConflictError


@dataclass(frozen=True, kw_only=True)
class Remedies:
    """Where good copies of chunks may be.

    Args:
        replicas: that this repository is copied to.
        folders: by model: folders that hold, or held, files of its versions.
    """

    replicas: Sequence[Replica] = ()
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What a repair did.

    Args:
        was_right: chunks that were noted as bad and are not.
        healed: with where the good copy was found.
        lost: with what is wrong; no copy is right.
        broken: backups that need a chunk that is lost.
        back: backups whose manifest was damaged → the name under which they came back.
        damaged: backups whose manifest is damaged and that no replica has, with what is wrong.
    """

    was_right: tuple[ChunkKey, ...]
    healed: Mapping[ChunkKey, str]
    lost: Mapping[ChunkKey, str]
    broken: tuple[ManifestName, ...]
    back: Mapping[ManifestName, ManifestName]
    damaged: Mapping[ManifestName, str]


def repair(
    repository: Repository, codec: Codec, around: Surroundings, remedies: Remedies
) -> Repaired:
    """Bring back damaged manifests; heal every chunk that was found bad and that a backup needs.

    May be repeated. What it cannot heal stays noted; the next backup sends it anew if its source
    still has it.

    Raises:
        InputError: `replica-unfit`.
        ConflictError: `repository-busy`, see `Repository.registered`.
        SlipwayError: of the store.
    """
    recovered = recover(repository, remedies.replicas, codec, around)
    begun_ns = around.now_ns()
    writer = ulid(begun_ns, around.random_bits())
    run = Run(
        writer=writer,
        kind=RunKind.WRITES,
        manifest=ManifestName("repair", "repair", writer).key,
        lifetime_s=DAY_S,
    )
    with repository.writing(run, now_ns=begun_ns):
        library = read_library(repository)
        condemned = {key for removal in repository.removals() for key in removal.chunks}
        needs = library.needs()
        bad = [key for key in _bad_chunks(repository, needs) if str(key) not in condemned]
        healing = _Healing(repository, codec, remedies, library)
        for key in sorted(bad):
            _require_running(repository, run)
            healing.heal(key)
        right = (*healing.was_right, *healing.healed)
        if right or healing.lost:
            repository.record(
                ulid(around.now_ns(), around.random_bits()),
                Record(
                    at_ns=around.now_ns(),
                    good=tuple(map(str, right)),
                    bad=tuple(Bad(chunk=str(key), why=why) for key, why in healing.lost.items()),
                ),
            )
    return Repaired(
        was_right=tuple(healing.was_right),
        healed=healing.healed,
        lost=healing.lost,
        broken=tuple(
            name
            for name, manifest in library.manifests.items()
            if manifest.chunk_keys() & set(healing.lost)
        ),
        back=recovered.back,
        damaged=recovered.damaged,
    )


def _bad_chunks(repository: Repository, needs: Iterable[ChunkKey]) -> Iterator[ChunkKey]:
    ledger = ledger_of(record for _, record in repository.records())
    for key in needs:
        look = ledger.get(str(key))
        if look is not None and look.why:
            yield key


def _require_running(repository: Repository, run: Run) -> None:
    if repository.is_ended(run):
        raise ConflictError(
            "the repair took longer than it had said, and a removal has ended it",
            code="run-ended",
            hint="run it again: what is healed stays healed",
        )


@dataclass
class _Healing:
    """Bad chunks, one after the other: they are few, or the store is lost."""

    repository: Repository
    codec: Codec
    remedies: Remedies
    library: Library
    was_right: list[ChunkKey] = field(default_factory=list)
    healed: dict[ChunkKey, str] = field(default_factory=dict)
    lost: dict[ChunkKey, str] = field(default_factory=dict)

    def heal(self, key: ChunkKey) -> None:
        """Put a good copy in the place of a bad one, if there is any."""
        why = self._wrong(key)
        if not why:
            self.was_right.append(key)
            return
        for place, body in self._copies(key):
            sealed = self.codec.seal(key.digest, body)
            self.repository.store.put(str(key), sealed.body, checksum=sealed.checksum)
            why = self._wrong(key)
            if not why:
                self.healed[key] = place
                return
        self.lost[key] = why

    def _wrong(self, key: ChunkKey) -> str:
        return wrong_with(Fetcher([self.repository.store], self.codec), key)

    def _copies(self, key: ChunkKey) -> Iterator[tuple[str, bytes]]:
        """Yield good copies; those that are near come first."""
        for file, offset_bytes, size_bytes in self._local_places(key):
            body = _read(file, offset_bytes, size_bytes)
            if self.codec.digest(body) == key.digest:
                yield str(file), body
        for opened in (lambda: self.repository, *self.remedies.replicas):
            other = opened()
            fetcher = Fetcher([], self.codec, replicas=[other.store])
            if not wrong_with(fetcher, key):
                yield _named(other, self.repository), fetcher.get(key)

    def _local_places(self, key: ChunkKey) -> Iterator[tuple[Path, int, int]]:
        for name, manifest in self.library.manifests.items():
            folders = self.remedies.folders.get(name.model, ())
            for entry in manifest.files if folders else ():
                for extent in extents(manifest, entry):
                    if manifest.key_of(extent.chunk) == key:
                        for folder in folders:
                            file = folder / entry.path
                            yield file, extent.offset_bytes, extent.chunk.size_bytes


def _named(other: Repository, own: Repository) -> str:
    return "the repository itself" if other is own else other.place


def _read(file: Path, offset_bytes: int, size_bytes: int) -> bytes:
    """Return what is there; what cannot be read is no remedy."""
    try:
        with file.open("rb") as opened:
            return os.pread(opened.fileno(), size_bytes, offset_bytes)
    except OSError:
        return b""
