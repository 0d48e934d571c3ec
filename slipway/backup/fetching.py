"""Get chunks that are what their names say: again from the store, or else from a replica."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from slipway.backup.codec import Codec, damaged
from slipway.core.backup.names import ChunkKey, read_chunk_key
from slipway.core.backup.verification import MISSING
from slipway.core.errors import PermanentError, SlipwayError, TransientError
from slipway.ports.backups import BackupStore

_TRIES = 8
_TRIES_OF_DAMAGED = 5
"""A bit may have flipped on the way; one that flips each time has flipped at rest."""

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0

Sink = Callable[[int, memoryview], None]
"""Takes bytes of a chunk at an offset in it. They may come again, and are right only in the end."""


def into_nothing(_offset_bytes: int, _piece: memoryview) -> None:
    """Be the `Sink` of whoever only looks whether a chunk is right."""


@dataclass
class Fetcher:
    """Gets chunks from the first store that has them right.

    Args:
        stores: of the repository.
        codec: of the repository.
        replicas: stores of its replicas, asked in the end.
        sleep: waits between attempts.
        limit: called with the bytes that have arrived; waits at a limit.
        found_bad: chunks that the repository had wrong or not at all, with what was wrong.
        got_bytes: that stores sent, with what was sent again.
    """

    stores: Sequence[BackupStore]
    codec: Codec
    replicas: Sequence[BackupStore] = ()
    sleep: Callable[[float], None] = time.sleep
    limit: Callable[[int], None] = lambda _: None
    found_bad: dict[ChunkKey, str] = field(default_factory=dict)
    got_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: ChunkKey) -> bytes:
        """Return the bytes of a chunk; raises what `fetch` raises."""
        body = bytearray()

        def sink(offset_bytes: int, piece: memoryview) -> None:
            body[offset_bytes:] = piece

        self.fetch(key, sink)
        return bytes(body)

    def fetch(self, key: ChunkKey, sink: Sink) -> None:
        """Give the bytes of a chunk to a sink; when it returns, they were right.

        Raises:
            PermanentError: `chunk-damaged` or `chunk-missing`, in every store.
            TransientError: a store did not answer, and no other has it.
        """
        failed: SlipwayError = damaged(key.digest, "there is no store to get it from")
        for store in self.stores:
            try:
                return self._from(store, key, sink)
            except (PermanentError, TransientError) as error:
                failed = error
                if isinstance(error, PermanentError):
                    self.found_bad[key] = error.message
        for store in self.replicas:
            try:
                return self._from_replica(store, key, sink)
            except (PermanentError, TransientError) as error:
                # What is missing in a replica says less than what is wrong in the store.
                failed = failed if error.code == "object-missing" else error
        if failed.code != "object-missing":
            raise failed
        raise PermanentError(
            f"chunk {key.digest} is missing",
            code="chunk-missing",
            hint="heal it from the source or a replica: slipway backup repair",
        ) from failed

    def _from_replica(self, store: BackupStore, key: ChunkKey, sink: Sink) -> None:
        failed: SlipwayError = damaged(key.digest, "the replica has none")
        for place, other in enumerate(_keys_in_replica(store, key)):
            try:
                self._from(store, other, sink)
            except (PermanentError, TransientError) as error:
                failed = error if place == 0 or error.code != "object-missing" else failed
            else:
                return
        raise failed

    def _from(self, store: BackupStore, key: ChunkKey, sink: Sink) -> None:
        wait_s, was_damaged = _FIRST_WAIT_S, 0
        for attempt in range(1, _TRIES + 1):
            try:
                return self._once(store, key, sink)
            except TransientError as error:
                if attempt == _TRIES:
                    raise
                self.sleep(min(error.retry_after_s or wait_s, _LONGEST_WAIT_S))
                wait_s *= 2
            except PermanentError as error:
                was_damaged += 1
                if error.code != "chunk-damaged" or was_damaged == _TRIES_OF_DAMAGED:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _once(self, store: BackupStore, key: ChunkKey, sink: Sink) -> None:
        opening, offset_bytes, got_bytes = self.codec.opening(key.digest), 0, 0
        try:
            for stored in store.read(str(key)):
                got_bytes += len(stored)
                self.limit(len(stored))
                piece = opening.update(stored)
                sink(offset_bytes, piece)
                offset_bytes += len(piece)
            opening.finish()
        finally:
            with self._lock:
                self.got_bytes += got_bytes


def _keys_in_replica(store: BackupStore, key: ChunkKey) -> Iterator[ChunkKey]:
    """Yield where a replica may have a chunk: it has removals, and thus epochs, of its own."""
    yield key
    for item in store.list(str(key).rpartition(".")[0] + "."):
        other = read_chunk_key(item.key)
        if other is not None and other != key:
            yield other


def wrong_with(fetcher: Fetcher, key: ChunkKey, sink: Sink = into_nothing) -> str:
    """Return what is wrong with a chunk, in words; "" when it is right.

    Raises:
        SlipwayError: nobody can say, for the store does not answer.
    """
    try:
        fetcher.fetch(key, sink)
    except PermanentError as error:
        if error.code not in {"chunk-damaged", "chunk-missing"}:
            raise
        return MISSING if error.code == "chunk-missing" else error.message
    return ""
