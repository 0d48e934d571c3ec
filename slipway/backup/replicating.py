"""Copy backups to a second repository: another bucket, another region, a disk that is carried away.

A replica is a repository of its own, with its own removals; what it says of a backup is its own
manifest, which names the one that it is a copy of.
"""

from __future__ import annotations

import calendar
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from slipway.backup.codec import Codec
from slipway.backup.fetching import Fetcher, into_nothing
from slipway.backup.pacing import several
from slipway.backup.repository import Known, Repository
from slipway.backup.taking import DAY_S, Surroundings
from slipway.backup.verifying import read_library
from slipway.core.backup.collection import Run, RunKind
from slipway.core.backup.names import TAKEN, ChunkKey, ManifestName
from slipway.core.backup.ulid import ulid
from slipway.core.errors import InputError, PermanentError

_UNREADABLE = {"version-unknown", "manifest-damaged", "chunk-damaged", "chunk-missing"}


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """What a replication did.

    Args:
        copied: backups that are in the replica now and were not before.
        skipped: backups that cannot be read or have a bad chunk, with why.
        sent_bytes: to the replica.
        lag_s: how much older the replica's newest backup is than the repository's; by model.
    """

    copied: tuple[ManifestName, ...]
    skipped: Mapping[ManifestName, str]
    sent_bytes: int
    lag_s: Mapping[str, float | None]


def replicate(
    source: Repository, replica: Repository, codec: Codec, around: Surroundings
) -> Replicated:
    """Copy what the replica does not have, the newest backup first.

    Killed anywhere, the next one goes on. Nothing is ever removed from the replica: that is what
    its own `prune` is for, so that who can empty the one cannot empty the other.

    Raises:
        InputError: `replica-unfit`, the two name chunks in different ways, or are the same.
        SlipwayError: of a store.
    """
    _require_fit(source, replica)
    there = _copied_already(source, replica)
    copied, skipped, sent_bytes = [], {}, 0
    for name in reversed(source.manifests()):
        if name.key in there:
            continue
        try:
            sent_bytes += _copy(source, replica, name, codec, around)
            copied.append(name)
        except PermanentError as error:
            if error.code not in _UNREADABLE:
                raise
            # One that was removed since it was listed is nothing that anybody has to mend.
            if name in source.manifests(name.model):
                skipped[name] = error.message
    return Replicated(
        copied=tuple(copied),
        skipped=skipped,
        sent_bytes=sent_bytes,
        lag_s=lag_s(source, replica),
    )


def lag_s(source: Repository, replica: Repository) -> Mapping[str, float | None]:
    """Return by model how much older the replica's newest backup is, in seconds; None: it has none.

    Raises:
        SlipwayError: of a store.
    """
    here, there = _newest_s(source), _newest_s(replica)
    return {
        model: max(0.0, taken_s - there[model]) if model in there else None
        for model, taken_s in here.items()
    }


def _newest_s(repository: Repository) -> dict[str, float]:
    # The oldest come first, the newest of a model stays.
    return {
        name.model: float(calendar.timegm(time.strptime(name.taken, TAKEN)))
        for name in repository.manifests()
    }


def _require_fit(source: Repository, replica: Repository) -> None:
    if source.settings.id == replica.settings.id:
        raise InputError(
            f"{replica.place} is the repository itself",
            code="replica-unfit",
            hint="name another bucket or prefix, and make a repository there",
        )
    if source.settings.algorithm != replica.settings.algorithm:
        raise InputError(
            f"{replica.place} names chunks by {replica.settings.algorithm}, "
            f"{source.place} by {source.settings.algorithm}",
            code="replica-unfit",
            hint="make the replica as the repository was: with the same key, or the same --hash",
        )


def _copied_already(source: Repository, replica: Repository) -> set[str]:
    """Return keys of the backups whose copies are there; only those of the same second are read."""
    taken = {(name.model, name.taken) for name in source.manifests()}
    candidates = (name for name in replica.manifests() if (name.model, name.taken) in taken)
    return {manifest.copy_of for manifest in read_library(replica, candidates).manifests.values()}


def _copy(
    source: Repository, replica: Repository, name: ManifestName, codec: Codec, around: Surroundings
) -> int:
    """Copy one backup; return the bytes that were sent."""
    manifest = source.load(name)
    begun_ns = around.now_ns()
    own = replace(name, writer=ulid(begun_ns, around.random_bits()))
    run = Run(writer=own.writer, kind=RunKind.WRITES, manifest=own.key, lifetime_s=DAY_S)
    with replica.writing(run, now_ns=begun_ns) as known:
        copying = _Copying(source, replica, codec, known, around)
        with several(around.pace.threads, "replicate") as each:
            keys = [manifest.key_of(chunk) for chunk in manifest.chunks]
            stored = list(each(copying.copy, keys))
        chunks = tuple(
            replace(chunk, epoch=key.epoch)
            for chunk, key in zip(manifest.chunks, stored, strict=True)
        )
        replica.commit(
            own,
            replace(manifest, repository=replica.settings.id, chunks=chunks, copy_of=name.key),
        )
    return copying.sent_bytes


@dataclass
class _Copying:
    """Chunks on their way from one repository to another."""

    source: Repository
    replica: Repository
    codec: Codec
    known: Known
    around: Surroundings
    sent_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def copy(self, key: ChunkKey) -> ChunkKey:
        """Return where the replica has a chunk, which is sent there if need be."""
        there = self.known.chunks.get(key.digest)
        if there is not None:
            return there
        body = Fetcher([self.source.store], self.codec).get(key)
        sealed = self.codec.seal(key.digest, body)
        self.around.pace.limit(len(sealed.body))
        own = replace(key, epoch=self.known.epoch)
        self.replica.store.put(str(own), sealed.body, checksum=sealed.checksum)
        if not self.replica.settings.checks_chunks:
            Fetcher([self.replica.store], self.codec).fetch(own, into_nothing)
        with self._lock:
            self.sent_bytes += len(sealed.body)
            self.around.pace.progress(self.sent_bytes, self.sent_bytes)
        return own
