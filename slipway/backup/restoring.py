"""Bring a version back: each byte checked before the file gets its name, none fetched twice."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from slipway.backup.codec import Codec
from slipway.backup.fetching import Fetcher
from slipway.backup.settling import WholeFile, settling, written
from slipway.core.backup.manifest import Extent, FileEntry, Hole, Manifest, extents
from slipway.core.backup.names import ChunkKey
from slipway.core.errors import InputError
from slipway.ports.backups import BackupStore

PART = ".part"
"""Behind the name of a file that is not whole yet."""

_THREADS = 4
_SLICE_BYTES = 512 << 10
"""What is read, hashed and written at once: it stays in the processor's cache."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class LocalVersion:
    """A folder that should hold the files of a manifest; nothing of it is trusted unchecked."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be restored, and where.

    Args:
        target: folder, made when it is missing.
        paths: of the version's files; empty: all.
        local: folders with other versions, which chunks are copied from before any is fetched.
    """

    target: Path
    paths: tuple[str, ...] = ()
    local: tuple[LocalVersion, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did.

    Args:
        files: that are in place now.
        fetched_bytes: from stores, with what was fetched again.
        copied_bytes: from local versions.
        kept_bytes: that were in place, or that a restore before had written.
        found_bad: chunks that came from a replica, with what was wrong with the repository's own.
    """

    files: int
    size_bytes: int
    fetched_bytes: int
    copied_bytes: int
    kept_bytes: int
    found_bad: Mapping[ChunkKey, str]


def restore(
    manifest: Manifest,
    wanted: Wanted,
    stores: Sequence[BackupStore],
    codec: Codec,
    *,
    threads: int = _THREADS,
    progress: Callable[[int], None] = lambda _: None,
    limit: Callable[[int], None] = lambda _: None,
) -> Restored:
    """Write files of a version below a folder; killed anywhere, the next one goes on.

    The small files come first: those that a server reads before it needs any weights. A file gets
    its name when every byte of it has been checked and synced; until then it ends in `.part`, and
    what had the name before keeps it.

    Args:
        manifest: of the version.
        wanted: which files, and where.
        stores: the repository's own, then its replicas.
        codec: of the repository.
        threads: chunks in work at once.
        progress: told the bytes that are in place, after each chunk.
        limit: called with the bytes that have arrived; waits at a limit.

    Raises:
        InputError: `path-unknown`, the version has no such file.
        PermanentError: `chunk-damaged`, `chunk-missing`, or the target cannot be written
            (`target-full`, `target-refused`).
        TransientError: of the store.
    """
    fetcher = Fetcher(stores[:1], codec, replicas=stores[1:], limit=limit)
    work = _Restoring(manifest, fetcher, codec, _local_places(wanted), progress)
    entries = _entries(manifest, wanted.paths)
    with ThreadPoolExecutor(threads, thread_name_prefix="restore") as pool, settling() as names:
        for entry in sorted(entries, key=lambda item: (item.size_bytes, item.path)):
            target = wanted.target / entry.path
            with written(target):
                whole = work.bring(entry, target, pool)
                if whole is not None:
                    names.add(whole)
    return Restored(
        files=len(entries),
        size_bytes=sum(entry.size_bytes for entry in entries),
        fetched_bytes=work.fetcher.got_bytes,
        copied_bytes=work.copied_bytes,
        kept_bytes=work.kept_bytes,
        found_bad=dict(fetcher.found_bad),
    )


def _entries(manifest: Manifest, paths: Sequence[str]) -> list[FileEntry]:
    if not paths:
        return list(manifest.files)
    by_path = {entry.path: entry for entry in manifest.files}
    unknown = [path for path in paths if path not in by_path]
    if unknown:
        raise InputError(
            f"the version has no file {unknown[0]!r}",
            code="path-unknown",
            hint="list its files: slipway backup show",
        )
    return [by_path[path] for path in paths]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a chunk should lie on this machine."""

    file: Path
    offset_bytes: int


def _local_places(wanted: Wanted) -> Mapping[str, _Place]:
    found: dict[str, _Place] = {}
    for version in wanted.local:
        for entry in version.manifest.files:
            file = version.folder / entry.path
            for extent in extents(version.manifest, entry):
                found.setdefault(extent.chunk.digest, _Place(file, extent.offset_bytes))
    return found


@dataclass
class _Restoring:
    """Files of one version on their way."""

    manifest: Manifest
    fetcher: Fetcher
    codec: Codec
    local: Mapping[str, _Place]
    progress: Callable[[int], None]
    copied_bytes: int = 0
    kept_bytes: int = 0
    _done_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bring(self, entry: FileEntry, target: Path, pool: ThreadPoolExecutor) -> WholeFile | None:
        """Return one file with all its bytes checked; None when it has its name already."""
        placed = list(extents(self.manifest, entry))
        if self._is_there(entry, target, placed, pool):
            return None
        part = target.with_name(target.name + PART)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            had = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, entry.size_bytes)
            for hole in entry.holes:
                for at, found in _data_in(descriptor, hole):
                    _write(descriptor, bytes(len(found)), at)
            _each(pool, lambda item: self._place(descriptor, item, had), placed)
        except BaseException:
            os.close(descriptor)
            raise
        return WholeFile(
            descriptor=descriptor,
            part=part,
            target=target,
            mode=entry.mode,
            mtime_ns=entry.mtime_ns,
        )

    def _is_there(
        self, entry: FileEntry, target: Path, placed: Sequence[Extent], pool: ThreadPoolExecutor
    ) -> bool:
        if not target.is_file() or target.stat().st_size != entry.size_bytes:
            return False
        descriptor = os.open(target, os.O_RDONLY)
        try:
            same = not any(any(_data_in(descriptor, hole)) for hole in entry.holes)
            same = same and all(_each(pool, lambda item: self._holds(descriptor, item), placed))
        finally:
            os.close(descriptor)
        if same:
            self._account(entry.size_bytes, kept=entry.size_bytes)
        return same

    def _place(self, descriptor: int, extent: Extent, had_bytes: int) -> None:
        """Put a chunk into a file, from the nearest place that has it right."""
        size = extent.chunk.size_bytes
        if extent.end_bytes <= had_bytes and self._holds(descriptor, extent):
            self._account(size, kept=size)
            return
        copied = self._copy(descriptor, extent)
        if not copied:
            self._fetch(descriptor, extent)
        # Have the disk begin on it now, so that the sync at the file's end waits for little. The
        # pages stay in memory, for whoever reads the file next: they are not clean yet.
        os.posix_fadvise(descriptor, extent.offset_bytes, size, os.POSIX_FADV_DONTNEED)
        self._account(size, copied=size if copied else 0)

    def _fetch(self, descriptor: int, extent: Extent) -> None:
        def sink(offset_bytes: int, piece: memoryview) -> None:
            # One that is too long is not right, and must not reach into the next chunk's place.
            rest = max(0, extent.chunk.size_bytes - offset_bytes)
            _write(descriptor, piece[:rest], extent.offset_bytes + offset_bytes)

        self.fetcher.fetch(self.manifest.key_of(extent.chunk), sink)

    def _holds(self, descriptor: int, extent: Extent) -> bool:
        found = self.codec.hasher()
        for _, piece in _slices(descriptor, extent.offset_bytes, extent.chunk.size_bytes):
            found.update(piece)
        return found.hexdigest() == extent.chunk.digest

    def _copy(self, descriptor: int, extent: Extent) -> bool:
        place = self.local.get(extent.chunk.digest)
        if place is None:
            return False
        found = self.codec.hasher()
        try:
            source = os.open(place.file, os.O_RDONLY)
        except OSError:  # it only saves a download
            return False
        try:
            pieces = _slices(source, place.offset_bytes, extent.chunk.size_bytes)
            for at, piece in _as_far_as_readable(pieces):
                found.update(piece)
                _write(descriptor, piece, extent.offset_bytes + at)
        finally:
            os.close(source)
        return found.hexdigest() == extent.chunk.digest

    def _account(self, size_bytes: int, *, kept: int = 0, copied: int = 0) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            self.kept_bytes += kept
            self.copied_bytes += copied
            self.progress(self._done_bytes)


def _slices(
    descriptor: int, offset_bytes: int, size_bytes: int
) -> Iterator[tuple[int, memoryview]]:
    """Yield the bytes of a file, as far as there are any; each is valid until the next is asked."""
    buffer = memoryview(bytearray(min(_SLICE_BYTES, size_bytes)))
    done = 0
    while done < size_bytes:
        count = os.preadv(descriptor, [buffer[: size_bytes - done]], offset_bytes + done)
        if count == 0:
            return
        yield done, buffer[:count]
        done += count


def _as_far_as_readable(
    pieces: Iterator[tuple[int, memoryview]],
) -> Iterator[tuple[int, memoryview]]:
    while True:
        try:
            piece = next(pieces)
        except (StopIteration, OSError):
            return
        yield piece


def _write(descriptor: int, body: bytes | memoryview, offset_bytes: int) -> None:
    rest = memoryview(body)
    while rest:
        count = os.pwrite(descriptor, rest, offset_bytes)
        rest, offset_bytes = rest[count:], offset_bytes + count


def _data_in(descriptor: int, hole: Hole) -> Iterator[tuple[int, bytes]]:
    """Yield what is not zero where a hole should be, in slices with their offsets."""
    at, end = hole.offset_bytes, hole.offset_bytes + hole.size_bytes
    while at < end:
        try:
            at = max(at, os.lseek(descriptor, at, os.SEEK_DATA))
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here on
                return
            raise
        if at >= end:
            return
        found = os.pread(descriptor, min(_SLICE_BYTES, end - at), at)
        if any(found):
            yield at, found
        at += len(found)


def _each(
    pool: ThreadPoolExecutor, work: Callable[[Extent], _Result], placed: Iterable[Extent]
) -> list[_Result]:
    """Return what `work` makes of each; when it returns, nobody is at it any more.

    What is at work after an error would write to a descriptor that is another file's by then.
    """
    futures = [pool.submit(work, extent) for extent in placed]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
