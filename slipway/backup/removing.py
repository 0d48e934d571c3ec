"""Remove backups and chunks that nobody names, while others write (`core.backup.collection`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from slipway.backup.repository import Repository
from slipway.backup.taking import DAY_S
from slipway.core.backup import names
from slipway.core.backup.collection import (
    Condemned,
    Run,
    RunKind,
    condemnable,
    current_epoch,
    doomed,
)
from slipway.core.backup.names import ChunkKey, ManifestName
from slipway.core.backup.ulid import time_of, ulid
from slipway.core.errors import ConflictError, PermanentError

_BATCH = 1_000
"""Keys that S3 removes at once."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What a removal did.

    Args:
        manifests: keys of the backups that are gone.
        chunks: how many are gone.
        waits_for: runs that began before it and may still go on; the removal goes on when it is
            run again after they have ended.
    """

    manifests: tuple[str, ...] = ()
    chunks: int = 0
    waits_for: tuple[Run, ...] = ()


def remove(
    repository: Repository,
    manifests: Iterable[ManifestName],
    *,
    now_ns: Callable[[], int],
    random_bits: Callable[[], int],
) -> Removed:
    """Remove backups, and every chunk that no other backup names.

    Removals that died are gone on with first. May be repeated, also by two at once.

    Raises:
        ConflictError: `removal-overtaken`, another one has begun; run it again. `repository-busy`,
            another run is under way, and the store honours no conditional writes.
    """
    repository.store.tidy()
    if repository.settings.store.conditional_writes:
        return _remove(repository, manifests, now_ns)
    begun_ns = now_ns()
    run = Run(
        writer=ulid(begun_ns, random_bits()),
        kind=RunKind.REMOVES,
        manifest="",
        lifetime_s=DAY_S,
    )
    with repository.registered(run, now_ns=begun_ns):
        return _remove(repository, manifests, now_ns)


def _remove(
    repository: Repository, manifests: Iterable[ManifestName], now_ns: Callable[[], int]
) -> Removed:
    done, naming = Removed(), _Naming(repository)
    for removal in repository.removals():
        if not removal.through:
            done = _joined(done, _carry_out(naming, removal, now_ns))
            if done.waits_for:
                return done
    there = repository.manifests()
    going = {name.key for name in manifests} - _held(repository)
    removal = Condemned(
        epoch=1 + current_epoch(item.epoch for item in repository.removals()),
        manifests=tuple(sorted(going)),
        chunks=(),
    )
    stored = list(repository.stored_chunks())
    named = naming.chunks_of(name for name in there if name.key not in going)
    chunks = condemnable(stored, named, epoch=removal.epoch)
    removal = replace(removal, chunks=tuple(map(str, chunks)))
    if not removal.manifests and not removal.chunks:
        return done
    if not repository.publish(removal):
        raise ConflictError(
            f"another removal has begun in {repository.place}",
            code="removal-overtaken",
            hint="run it again; both may go on",
        )
    return _joined(done, _carry_out(naming, removal, now_ns))


def _carry_out(naming: _Naming, removal: Condemned, now_ns: Callable[[], int]) -> Removed:
    """Wait for nobody: remove when no run is left that began before, else say whom it waits for."""
    repository = naming.repository
    left = tuple(_left(repository, removal, now_ns))
    if left:
        return Removed(waits_for=left)
    going = sorted(set(removal.manifests) - _held(repository))
    for key in going:
        # The sum goes last: a manifest without one would look damaged.
        repository.store.delete([key])
        repository.store.delete([key + names.SUM])
    gone = doomed(removal, naming.chunks_of(repository.manifests()))
    for keys in _batches(gone):
        repository.store.delete(keys)
    repository.close(removal)
    return Removed(manifests=tuple(going), chunks=len(gone))


def _left(repository: Repository, removal: Condemned, now_ns: Callable[[], int]) -> Iterator[Run]:
    """Yield the runs that keep a removal waiting; what is past its time is ended for good."""
    for run in repository.runs():
        if run.kind is RunKind.WRITES and run.epoch >= removal.epoch:
            continue  # it knows what is condemned, and names none of it
        if not run.is_overdue(time_of(run.writer), now_ns()):
            if run.kind is RunKind.WRITES or run.manifest in removal.manifests:
                yield run
            continue
        if run.kind is RunKind.WRITES:
            repository.end(run)
        repository.forget(run)


def _held(repository: Repository) -> set[str]:
    found = (names.held_manifest(item.key) for item in repository.store.list(names.HOLDS))
    return {name.key for name in found if name is not None}


@dataclass
class _Naming:
    """Which chunks backups name; each manifest is read once, for it never changes."""

    repository: Repository
    read: dict[ManifestName, frozenset[ChunkKey]] = field(default_factory=dict)

    def chunks_of(self, manifests: Iterable[ManifestName]) -> set[ChunkKey]:
        """Return the chunks that any of the backups names."""
        return {key for name in manifests for key in self._chunks(name)}

    def _chunks(self, name: ManifestName) -> frozenset[ChunkKey]:
        if name not in self.read:
            try:
                self.read[name] = self.repository.load(name).chunk_keys()
            except PermanentError as error:
                # Another removal has taken it since it was listed: it names nothing any more.
                if error.code != "version-unknown":
                    raise
                return frozenset()
        return self.read[name]


def _batches(keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]


def _joined(one: Removed, other: Removed) -> Removed:
    return Removed(
        manifests=(*one.manifests, *other.manifests),
        chunks=one.chunks + other.chunks,
        waits_for=other.waits_for,
    )
