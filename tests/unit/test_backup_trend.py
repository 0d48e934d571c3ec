"""A repository's growth is told by the chunks that each day brought."""

from __future__ import annotations

from slipway.core.backup.manifest import Chunk, FileEntry, Manifest, Origin
from slipway.core.backup.trend import nights

DAY_NS = 86_400 * 10**9


def manifest(at_ns: int, **chunks: int) -> Manifest:
    sizes = tuple(chunks.values())
    entry = FileEntry(
        path="w",
        size_bytes=sum(sizes),
        mode=0o644,
        mtime_ns=0,
        ctime_ns=0,
        chunks=tuple(range(len(sizes))),
    )
    return Manifest(
        repository="r",
        model="m",
        taken_at_ns=at_ns,
        algorithm="sha256",
        origin=Origin(place="here", tool="a test"),
        files=(entry,),
        chunks=tuple(Chunk(digest=name, size_bytes=size, epoch=0) for name, size in chunks.items()),
    )


def test_each_day_counts_what_no_earlier_backup_has() -> None:
    rows = nights(
        [
            manifest(3 * DAY_NS + 5, a=10, b=4, c=1),
            manifest(DAY_NS, a=10, b=5),
            manifest(DAY_NS + 7, a=10, b=5),
        ]
    )
    assert [(row.begun_ns // DAY_NS, row.backups) for row in rows] == [(1, 2), (3, 1)]
    assert [(row.size_bytes, row.new_bytes) for row in rows] == [(30, 15), (15, 0)]


def test_share_that_was_there_is_of_the_files_and_nothing_is_all_there() -> None:
    first, second = nights([manifest(0, a=6), manifest(DAY_NS, a=6, b=2)])
    assert (first.reused, second.reused) == (0.0, 0.75)
    assert (first.stored_bytes, second.stored_bytes) == (6, 8)
    assert nights([manifest(0)])[0].reused == 1.0
    assert nights([]) == []
