"""Read stored chunks back and write down what was seen (`core.backup.verification`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from slipway.backup.codec import Codec
from slipway.backup.fetching import Fetcher, wrong_with
from slipway.backup.pacing import several
from slipway.backup.repository import Repository
from slipway.backup.taking import Surroundings
from slipway.core.backup.manifest import Manifest
from slipway.core.backup.names import ChunkKey, ManifestName
from slipway.core.backup.ulid import ulid
from slipway.core.backup.verification import (
    MISSING,
    UNREADABLE,
    Bad,
    Record,
    Standing,
    in_order_of_need,
    ledger_of,
    standing_of,
    superseded,
)
from slipway.core.errors import PermanentError

_CHUNKS_PER_RECORD = 256
"""What a verification that is killed has to read again: 4 GiB."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a verification saw.

    Args:
        chunks: that were read, or that were not there to be read.
        read_bytes: from the store.
        bad: chunks that are damaged or missing, and that a backup needs.
        damaged: backups whose manifest itself cannot be read, with why.
        broken: backups that need a bad chunk, also one that an earlier verification found.
        standings: of every backup that can be read, afterwards.
        unreadable: keys of records of verifications before; what they said was looked at anew.
    """

    chunks: int
    read_bytes: int
    bad: Mapping[ChunkKey, str]
    damaged: Mapping[ManifestName, str]
    standings: Mapping[ManifestName, Standing]
    unreadable: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[ManifestName, ...]:
        """Backups that need a bad chunk, also one that an earlier verification found."""
        return tuple(name for name, standing in self.standings.items() if standing.broken)

    @property
    def verified_share(self) -> float:
        """Of the bytes that backups are made of, as each counts them; 1.0 when there are none."""
        size = sum(item.size_bytes for item in self.standings.values())
        good = sum(item.verified_bytes for item in self.standings.values())
        return good / size if size else 1.0


@dataclass(frozen=True, kw_only=True)
class Library:
    """The backups of a repository as they can be read now.

    Args:
        manifests: those that are whole.
        damaged: those that are not, with why.
    """

    manifests: Mapping[ManifestName, Manifest]
    damaged: Mapping[ManifestName, str]

    def needs(self) -> dict[ChunkKey, int]:
        """Return the chunks that backups need, with their sizes in bytes."""
        return {
            manifest.key_of(chunk): chunk.size_bytes
            for manifest in self.manifests.values()
            for chunk in manifest.chunks
        }


def read_library(
    repository: Repository,
    only: Iterable[ManifestName] | None = None,
    *,
    where: Callable[[ManifestName], bool] = lambda _: True,
) -> Library:
    """Return the backups of a repository.

    Args:
        repository: to read.
        only: these, which must be there; None: those that are there.
        where: whether one of those is wanted.

    Raises:
        PermanentError: `version-unknown`, one of `only` is not there.
    """
    manifests, damaged = {}, {}
    for name in filter(where, repository.manifests()) if only is None else only:
        try:
            manifests[name] = repository.load(name)
        except PermanentError as error:
            if error.code == "version-unknown" and only is None:
                continue  # removed since it was listed
            if error.code != "manifest-damaged":
                raise
            damaged[name] = error.message
    return Library(manifests=manifests, damaged=damaged)


def verify(
    repository: Repository,
    codec: Codec,
    around: Surroundings,
    *,
    only: Sequence[ManifestName] | None = None,
    budget_bytes: int | None = None,
) -> Verified:
    """Look whether chunks are there, and read those that need it most.

    Killed, it has to read again what it read in the last four GiB.

    Args:
        repository: to look at.
        codec: of it.
        around: clock, chance, and how fast it may go.
        only: the chunks of these backups; None: of all.
        budget_bytes: what may be read besides chunks that were never read; None: everything.

    Raises:
        SlipwayError: the store does not answer; what was seen until then is written down.
    """
    library = read_library(repository, only)
    stored = dict(repository.stored_sizes())
    needs = library.needs()
    reading = _Reading(repository, codec, around, around.now_ns())
    absent, there = {}, []
    for key, size_bytes in needs.items():
        expected = codec.stored_bytes(size_bytes)
        if key not in stored:
            absent[key] = MISSING
        elif stored[key] != expected:
            absent[key] = f"it has {stored[key]} bytes, not {expected}"
        else:
            there.append((key, size_bytes))
    ledger = ledger_of(dict(repository.records()).values())
    budget = sum(needs.values()) if budget_bytes is None else budget_bytes
    due = [key for key, _ in in_order_of_need(there, ledger, budget_bytes=budget)]
    reading.read(due)
    bad = _still_needed(repository, {**absent, **reading.bad})
    reading.write_down((), bad)
    records = dict(repository.records())
    if only is None:
        repository.forget_records(superseded(records, {*stored, *needs}))
    ledger = ledger_of(records.values())
    return Verified(
        chunks=len(due) + len(absent),
        read_bytes=reading.fetcher.got_bytes,
        bad=bad,
        damaged=library.damaged,
        standings={
            name: standing_of(manifest, ledger) for name, manifest in library.manifests.items()
        },
        unreadable=tuple(key for key, record in records.items() if record is UNREADABLE),
    )


def _still_needed(repository: Repository, bad: Mapping[ChunkKey, str]) -> dict[ChunkKey, str]:
    """A backup may have been removed, with its chunks, while they were looked at."""
    if not bad:
        return {}
    needs = read_library(repository).needs()
    return {key: why for key, why in bad.items() if key in needs}


@dataclass
class _Reading:
    """Chunks that are read back, several at once."""

    repository: Repository
    codec: Codec
    around: Surroundings
    at_ns: int
    bad: dict[ChunkKey, str] = field(default_factory=dict)
    fetcher: Fetcher = field(init=False)

    def __post_init__(self) -> None:
        limit = self.around.pace.limit
        self.fetcher = Fetcher([self.repository.store], self.codec, limit=limit)

    def read(self, keys: Sequence[ChunkKey]) -> None:
        """Read chunks, and write down after each few which of them were right."""
        with several(self.around.pace.threads, "verify") as each:
            for start in range(0, len(keys), _CHUNKS_PER_RECORD):
                batch = keys[start : start + _CHUNKS_PER_RECORD]
                seen = dict(zip(batch, each(self._look, batch), strict=True))
                self.bad.update({key: why for key, why in seen.items() if why})
                self.write_down([key for key, why in seen.items() if not why], {})

    def write_down(self, good: Sequence[ChunkKey], bad: Mapping[ChunkKey, str]) -> None:
        """Record what was seen."""
        if good or bad:
            self.repository.record(
                ulid(self.around.now_ns(), self.around.random_bits()),
                Record(
                    at_ns=self.at_ns,
                    good=tuple(map(str, good)),
                    bad=tuple(Bad(chunk=str(key), why=why) for key, why in bad.items()),
                ),
            )

    def _look(self, key: ChunkKey) -> str:
        return wrong_with(self.fetcher, key, lambda _offset, piece: self._account(len(piece)))

    def _account(self, size_bytes: int) -> None:
        self.around.pace.limit(size_bytes)
        self.around.pace.progress(self.fetcher.got_bytes + size_bytes, 0)
