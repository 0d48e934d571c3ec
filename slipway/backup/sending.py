"""Read pieces of files and send those that the store does not have, several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from slipway.backup.codec import Codec
from slipway.backup.fetching import Fetcher, into_nothing
from slipway.backup.repository import Known
from slipway.backup.source import ChangedError, OpenPiece, SourceFile, open_piece
from slipway.core.backup.cuts import Piece
from slipway.core.backup.manifest import Chunk
from slipway.core.backup.names import ChunkKey
from slipway.core.backup.sums import Sum
from slipway.ports.backups import BackupStore, Body

_QUEUED_PER_THREAD = 2
_SLICE_BYTES = 512 << 10
"""What is read and hashed at once: it stays in the processor's cache."""

Progress = Callable[[int, int], None]
"""Told after each piece how many bytes were read, and how many of them were sent."""


_Sendable: TypeAlias = tuple[Body, Sum]


def _says_nothing(_read: int, _sent: int) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a run may go.

    Args:
        threads: pieces in work at once. 1 uses no thread at all.
        limit: called with the bytes that are about to travel; waits at a limit.
        progress: told how it goes on.
    """

    threads: int = 4
    limit: Callable[[int], None] = lambda _: None
    progress: Progress = _says_nothing


@dataclass
class Sender:
    """Stores pieces under their names, each content once.

    Args:
        store: where to.
        codec: of the repository.
        known: what may be named without sending it.
        chunk_bytes: the largest piece.
        reads_back: nobody but us compares checksums: what was sent is read again.
    """

    store: BackupStore
    codec: Codec
    known: Known
    chunk_bytes: int
    pace: Pace
    reads_back: bool = False
    read_bytes: int = 0
    sent_bytes: int = 0
    sent_chunks: int = 0
    _reader: Fetcher = field(init=False)
    _keys: dict[str, ChunkKey] = field(default_factory=dict)
    _lost: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _local: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        """Read back by the same rules as everybody."""
        self._reader = Fetcher([self.store], self.codec)

    def chunks_of(
        self, pieces: Iterable[tuple[SourceFile, Piece]]
    ) -> Mapping[tuple[str, int], Chunk | None]:
        """Return the chunk of each piece by path and offset; None where the file has changed.

        Raises:
            SlipwayError: of the store; what was sent until then stays, and is found again.
        """
        found: dict[tuple[str, int], Chunk | None] = {}
        self._lost.clear()
        for (file, piece), chunk in self._worked(pieces):
            found[file.path, piece.offset_bytes] = chunk
        # Others may have relied on what could not be sent in the end: they are read again, too.
        return {
            place: None if chunk is None or chunk.digest in self._lost else chunk
            for place, chunk in found.items()
        }

    def _worked(
        self, pieces: Iterable[tuple[SourceFile, Piece]]
    ) -> Iterator[tuple[tuple[SourceFile, Piece], Chunk | None]]:
        if self.pace.threads == 1:
            for item in pieces:
                yield item, self._chunk(*item)
            return
        with _pool(self.pace.threads) as pool:
            pending: dict[Future[Chunk | None], tuple[SourceFile, Piece]] = {}
            for item in pieces:
                if len(pending) >= self.pace.threads * _QUEUED_PER_THREAD:
                    yield from _ended(pending)
                pending[pool.submit(self._chunk, *item)] = item
            while pending:
                yield from _ended(pending)

    def _chunk(self, file: SourceFile, piece: Piece) -> Chunk | None:
        try:
            with open_piece(file, piece) as opened:
                return self._named(opened)
        except ChangedError:
            return None

    def _named(self, opened: OpenPiece) -> Chunk:
        digest, seal = self._read(opened)
        with self._lock:
            key = self.known.chunks.get(digest) or self._keys.get(digest)
            is_new = key is None
            if key is None:
                key = ChunkKey(digest, self.known.epoch, self.codec.algorithm)
                self._keys[digest] = key
        if is_new:
            self._send(key, *seal())
        size_bytes = len(opened)
        with self._lock:
            self.read_bytes += size_bytes
            self.sent_bytes += size_bytes if is_new else 0
            self.sent_chunks += int(is_new)
            self.pace.progress(self.read_bytes, self.sent_bytes)
        return Chunk(digest=digest, size_bytes=size_bytes, epoch=key.epoch)

    def _read(self, opened: OpenPiece) -> tuple[str, Callable[[], _Sendable]]:
        """Return the name of a piece, and what makes of it what is stored.

        Where it is stored as it is, it stays in its file, and the store notices when what it gets
        from there is not what was read. Where nobody would notice, it is sent from memory.
        """
        plainly = None if self.reads_back else self.codec.plainly()
        if plainly is None:
            body = opened.read_into(self._buffer(self.chunk_bytes))
            digest = self.codec.digest(body)

            def seal() -> _Sendable:
                sealed = self.codec.seal(digest, body)
                return sealed.body, sealed.checksum

            return digest, seal
        for part in opened.slices(self._buffer(min(_SLICE_BYTES, self.chunk_bytes))):
            plainly.update(part)
        return plainly.digest(), lambda: (opened, plainly.checksum())

    def _send(self, key: ChunkKey, body: Body, checksum: Sum) -> None:
        self.pace.limit(len(body))
        try:
            self.store.put(str(key), body, checksum=checksum)
        except ChangedError:
            with self._lock:
                del self._keys[key.digest]
                self._lost.add(key.digest)
            raise
        if self.reads_back:
            self._reader.fetch(key, into_nothing)

    def _buffer(self, size_bytes: int) -> memoryview:
        if not hasattr(self._local, "buffer"):
            self._local.buffer = memoryview(bytearray(size_bytes))
        buffer: memoryview = self._local.buffer
        return buffer


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="backup")
    try:
        yield pool
    finally:
        # After an error nothing that waits is begun; what is being sent is sent to its end.
        pool.shutdown(wait=True, cancel_futures=True)


def _ended(
    pending: dict[Future[Chunk | None], tuple[SourceFile, Piece]],
) -> Iterator[tuple[tuple[SourceFile, Piece], Chunk | None]]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        yield pending.pop(future), future.result()
