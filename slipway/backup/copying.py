"""Copy a backup from one repository to another; chunks that are there already are not sent."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from slipway.backup.codec import Codec
from slipway.backup.fetching import Fetcher, into_nothing
from slipway.backup.pacing import several
from slipway.backup.repository import Known, Repository
from slipway.backup.taking import DAY_S, Surroundings
from slipway.core.backup.collection import Run, RunKind
from slipway.core.backup.manifest import Chunk, Manifest
from slipway.core.backup.names import ChunkKey, ManifestName
from slipway.core.backup.ulid import ulid
from slipway.core.errors import InputError


def require_fit(source: Repository, target: Repository) -> None:
    """Refuse two repositories of which one cannot be a replica of the other.

    Raises:
        InputError: `replica-unfit`.
    """
    if source.settings.id == target.settings.id:
        raise InputError(
            f"{target.place} is the repository itself",
            code="replica-unfit",
            hint="name another bucket or prefix, and make a repository there",
        )
    if source.settings.algorithm != target.settings.algorithm:
        raise InputError(
            f"{target.place} names chunks by {target.settings.algorithm}, "
            f"{source.place} by {source.settings.algorithm}",
            code="replica-unfit",
            hint="make the replica as the repository was: with the same key, or the same --hash",
        )


@dataclass(frozen=True, kw_only=True)
class Copier:
    """Copies backups between two repositories that fit.

    Args:
        source: where they are.
        target: where they shall be.
        codec: of both.
        around: clock, chance, and how fast it may go.
    """

    source: Repository
    target: Repository
    codec: Codec
    around: Surroundings

    def commit(self, own: ManifestName, name: ManifestName, manifest: Manifest) -> int:
        """Make a copy exist; return the bytes that were sent.

        Args:
            own: name of the copy.
            name: of the backup in the source.
            manifest: of it.

        Raises:
            PermanentError: `chunk-damaged` or `chunk-missing`, in the source.
            ConflictError: `run-ended`, `repository-busy`.
            SlipwayError: of a store.
        """
        begun_ns = self.around.now_ns()
        run = Run(
            writer=ulid(begun_ns, self.around.random_bits()),
            kind=RunKind.WRITES,
            manifest=own.key,
            lifetime_s=DAY_S,
        )
        with self.target.writing(run, now_ns=begun_ns) as known:
            copying = _Copying(self, known)
            with several(self.around.pace.threads, "copy") as each:
                keys = [manifest.key_of(chunk) for chunk in manifest.chunks]
                stored = list(each(copying.copy, keys))
            copy = replace(
                manifest,
                repository=self.target.settings.id,
                chunks=_renamed(manifest, stored),
                copy_of=name.key,
            )
            self.target.commit(own, copy)
        return copying.sent_bytes


def _renamed(manifest: Manifest, keys: list[ChunkKey]) -> tuple[Chunk, ...]:
    return tuple(
        replace(chunk, epoch=key.epoch) for chunk, key in zip(manifest.chunks, keys, strict=True)
    )


@dataclass
class _Copying:
    """Chunks on their way."""

    copier: Copier
    known: Known
    sent_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def copy(self, key: ChunkKey) -> ChunkKey:
        """Return where the target has a chunk, which is sent there if need be."""
        there = self.known.chunks.get(key.digest)
        if there is not None:
            return there
        copier, target = self.copier, self.copier.target
        body = Fetcher([copier.source.store], copier.codec).get(key)
        sealed = copier.codec.seal(key.digest, body)
        copier.around.pace.limit(len(sealed.body))
        own = replace(key, epoch=self.known.epoch)
        target.store.put(str(own), sealed.body, checksum=sealed.checksum)
        if not target.settings.checks_chunks:
            Fetcher([target.store], copier.codec).fetch(own, into_nothing)
        with self._lock:
            self.sent_bytes += len(sealed.body)
            copier.around.pace.progress(self.sent_bytes, self.sent_bytes)
        return own
