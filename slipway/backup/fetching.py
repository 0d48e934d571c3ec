"""Get chunks that are what their names say: again from the store, or else from a replica."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from slipway.backup.codec import Codec, damaged
from slipway.core.backup.names import ChunkKey
from slipway.core.errors import PermanentError, SlipwayError, TransientError
from slipway.ports.backups import BackupStore

_TRIES = 3


@dataclass
class Fetcher:
    """Gets chunks from the first store that has them right.

    Args:
        stores: the repository's own, then its replicas.
        codec: of the repository.
        found_bad: chunks that a store had wrong or not at all, with what was wrong.
    """

    stores: Sequence[BackupStore]
    codec: Codec
    found_bad: dict[ChunkKey, str] = field(default_factory=dict)
    got_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: ChunkKey) -> bytes | memoryview:
        """Return the bytes of a chunk.

        Raises:
            PermanentError: `chunk-damaged` or `chunk-missing`, in every store.
            TransientError: a store did not answer, and no other has it.
        """
        failed: SlipwayError = damaged(key.digest, "there is no store to get it from")
        for store in self.stores:
            for _ in range(_TRIES):
                try:
                    return self._from(store, key)
                except (PermanentError, TransientError) as error:
                    failed = error
                    if not _may_differ_next_time(error):
                        break
        if failed.code != "object-missing":
            raise failed
        raise PermanentError(
            f"chunk {key.digest} is missing",
            code="chunk-missing",
            hint="heal it from the source or a replica: slipway backup repair",
        ) from failed

    def _from(self, store: BackupStore, key: ChunkKey) -> bytes | memoryview:
        try:
            stored = store.get(str(key))
            with self._lock:
                self.got_bytes += len(stored)
            return self.codec.open(key.digest, stored)
        except PermanentError as error:
            self.found_bad[key] = error.message
            raise


def _may_differ_next_time(error: SlipwayError) -> bool:
    """A bit may have flipped on the way; what is not there is not there."""
    return isinstance(error, TransientError) or error.code == "chunk-damaged"
