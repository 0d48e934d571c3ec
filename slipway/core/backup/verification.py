"""What is known of stored chunks by reading them back, and which are to be read next.

Chunks are looked at, not backups: most are part of several. A backup is verified when each of its
chunks was read and right since it was stored; the oldest of those looks is the backup's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from slipway.core.backup.manifest import Manifest
from slipway.core.backup.names import ChunkKey

MISSING = "it is missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A chunk that was not right.

    Args:
        chunk: key of it.
        why: what was wrong.
    """

    chunk: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one verification saw.

    Args:
        at_ns: when it began to read, since 1970 UTC.
        good: keys of the chunks that were right.
        bad: those that were not.
    """

    at_ns: int
    good: tuple[str, ...] = ()
    bad: tuple[Bad, ...] = ()


UNREADABLE = Record(at_ns=0)
"""Stands for a record that is damaged: what it said is not known any more, and looked at anew."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a chunk last.

    Args:
        at_ns: when.
        why: what was wrong with it; "" when it was right.
    """

    at_ns: int
    why: str = ""


Ledger = Mapping[str, Look]
"""Key of a chunk → what was seen of it last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of one backup.

    Args:
        verified_at_ns: the oldest of the last looks at its chunks; None while one was never read.
        verified_bytes: of its distinct chunks that were read and right.
        size_bytes: of its distinct chunks.
        broken: its chunks that are damaged or missing, with what is wrong.
    """

    verified_at_ns: int | None
    verified_bytes: int
    size_bytes: int
    broken: Mapping[str, str]


def ledger_of(records: Iterable[Record]) -> Ledger:
    """Return what was seen last of each chunk; of looks at the same time the bad one counts."""
    found: dict[str, Look] = {}
    for record in records:
        looks = [
            *((key, Look(record.at_ns)) for key in record.good),
            *((bad.chunk, Look(record.at_ns, bad.why)) for bad in record.bad),
        ]
        for key, look in looks:
            before = found.get(key)
            if before is None or (look.at_ns, look.why) > (before.at_ns, before.why):
                found[key] = look
    return found


def standing_of(manifest: Manifest, ledger: Ledger) -> Standing:
    """Return what is known of a backup."""
    looks: list[Look | None] = []
    verified_bytes, broken = 0, {}
    for chunk in manifest.chunks:
        key = str(manifest.key_of(chunk))
        look = ledger.get(key)
        looks.append(look)
        if look is not None and look.why:
            broken[key] = look.why
        elif look is not None:
            verified_bytes += chunk.size_bytes
    is_whole = not broken and all(look is not None for look in looks)
    oldest = min((look.at_ns for look in looks if look is not None), default=manifest.taken_at_ns)
    return Standing(
        verified_at_ns=oldest if is_whole else None,
        verified_bytes=verified_bytes,
        size_bytes=sum(chunk.size_bytes for chunk in manifest.chunks),
        broken=broken,
    )


def in_order_of_need(
    chunks: Iterable[tuple[ChunkKey, int]], ledger: Ledger, *, budget_bytes: int
) -> Iterator[tuple[ChunkKey, int]]:
    """Yield which chunks to read now: those never read, and then the oldest within a budget.

    Args:
        chunks: with their sizes in bytes.
        ledger: what was seen of them.
        budget_bytes: to read in all; what was never read, or was wrong, is read whatever it says.
    """

    def need(item: tuple[ChunkKey, int]) -> tuple[int, str]:
        look = ledger.get(str(item[0]))
        return (-1 if look is None or look.why else look.at_ns, str(item[0]))

    for key, size_bytes in sorted(chunks, key=need):
        if need((key, size_bytes))[0] >= 0 and budget_bytes <= 0:
            return
        budget_bytes -= size_bytes
        yield key, size_bytes


def superseded(records: Mapping[str, Record], chunks: Iterable[ChunkKey]) -> Sequence[str]:
    """Return which records say nothing that is not said later, or of chunks that nobody asks for.

    Args:
        records: by name.
        chunks: that are there, or should be.
    """
    ledger = ledger_of(records.values())
    asked_for = {str(key) for key in chunks}
    return [
        name
        for name, record in records.items()
        if all(
            key not in asked_for or ledger[key].at_ns > record.at_ns
            for key in (*record.good, *(bad.chunk for bad in record.bad))
        )
    ]
