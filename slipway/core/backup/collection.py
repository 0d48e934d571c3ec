"""What a removal may remove while others write: lists first, deeds last, and no lock.

A removal publishes what it condemns. Runs that begin later treat that as absent: they store it
anew, under a key of that removal's epoch, and name that. Runs that had begun are waited for, or
ended: somebody else's mark at the place of their manifest keeps them from committing. Only then it
is known for good what nobody names, and only that is removed. No clock decides about safety: a
run that wakes up after its deadline finds the mark, and a remover that wakes up late removes keys
that nobody writes again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from slipway.core.backup.names import ChunkKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Condemned:
    """What one removal is about to remove.

    Args:
        epoch: its number; chunks of this epoch or a later one are never in it.
        manifests: keys of the backups that go first.
        chunks: keys of the chunks that nothing else names.
        through: everything is done; it is kept for its epoch alone.
    """

    epoch: int
    through: bool = False
    manifests: tuple[str, ...] = ()
    chunks: tuple[str, ...] = ()


class RunKind(StrEnum):
    """What a run that is under way does."""

    WRITES = "writes"
    READS = "reads"
    REMOVES = "removes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run that is under way says of itself.

    Args:
        writer: its ULID, never a host or a process: those repeat.
        kind: what it does.
        manifest: key that it will write, or that it reads.
        lifetime_s: it ends before so many seconds have passed since it said so.
        epoch: of the removal published last when it read what is condemned; -1: it has not yet.
    """

    writer: str
    kind: RunKind
    manifest: str
    lifetime_s: int
    epoch: int = -1

    def is_overdue(self, begun_at_ns: int, now_ns: int) -> bool:
        """Return whether a run that began then should have ended by now."""
        return now_ns - begun_at_ns > self.lifetime_s * 10**9

    def is_disturbed_by(self, other: Run) -> bool:
        """Return whether two runs may not go on side by side in a store that honours no conditions.

        Readers disturb nobody but those who remove.
        """
        kinds = {self.kind, other.kind}
        both_change = RunKind.READS not in kinds
        return self.writer != other.writer and (both_change or RunKind.REMOVES in kinds)


def reusable(stored: Iterable[ChunkKey], condemned: Iterable[Condemned]) -> Mapping[str, ChunkKey]:
    """Return by digest which stored chunks a new backup may name: none that is condemned.

    Args:
        stored: listed after `condemned` was read.
        condemned: of every removal that is not through.
    """
    gone = {key for removal in condemned for key in removal.chunks}
    found: dict[str, ChunkKey] = {}
    for key in sorted(stored):
        if str(key) not in gone:
            found[key.digest] = key
    return found


def current_epoch(epochs: Iterable[int]) -> int:
    """Return the epoch in which new chunks are written: that of the removal published last."""
    return max(epochs, default=0)


def condemnable(
    stored: Iterable[ChunkKey], named: Iterable[ChunkKey], *, epoch: int
) -> tuple[ChunkKey, ...]:
    """Return which chunks nobody names and no run of this epoch or a later one can have written.

    Args:
        stored: what the store lists.
        named: by the manifests that stay.
        epoch: of the removal.
    """
    kept = set(named)
    return tuple(sorted(key for key in stored if key not in kept and key.epoch < epoch))


def doomed(condemned: Condemned, named: Iterable[ChunkKey]) -> tuple[str, ...]:
    """Return which condemned chunks are removed for good.

    Args:
        condemned: as it was published.
        named: by every manifest that is there, now that no run is left that began before.
    """
    kept = {str(key) for key in named}
    return tuple(key for key in condemned.chunks if key not in kept)
