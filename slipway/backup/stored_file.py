"""A file of a backup that can be read without restoring it."""

from __future__ import annotations

import bisect
import io
from collections import OrderedDict

from slipway.backup.fetching import Fetcher
from slipway.core.backup.manifest import Extent, FileEntry, Manifest, extents

_KEPT_CHUNKS = 4


class StoredFile(io.RawIOBase):
    """Reads a file's bytes from its chunks; those between chunks are holes, and zero.

    Args:
        manifest: of the backup.
        entry: of the file.
        fetcher: gets the chunks.
    """

    def __init__(self, manifest: Manifest, entry: FileEntry, fetcher: Fetcher) -> None:
        super().__init__()
        self._manifest = manifest
        self._extents = [item for item in extents(manifest, entry) if item.chunk.size_bytes]
        self._starts = [item.offset_bytes for item in self._extents]
        self._size_bytes = entry.size_bytes
        self._fetcher = fetcher
        self._at = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the offset that is read next."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset; see `io.IOBase.seek`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # of buffers, these two
        """Read up to the end of a chunk or a hole; see `io.RawIOBase.readinto`."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size_bytes - self._at)
        if wanted <= 0:
            return 0
        place = bisect.bisect_right(self._starts, self._at) - 1
        extent = self._extents[place] if place >= 0 else None
        if extent is not None and self._at < extent.end_bytes:
            start = self._at - extent.offset_bytes
            piece = self._bytes_of(extent)[start : start + wanted]
        else:
            end = self._starts[place + 1] if place + 1 < len(self._starts) else self._size_bytes
            piece = bytes(min(wanted, end - self._at))
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _bytes_of(self, extent: Extent) -> bytes:
        digest = extent.chunk.digest
        if digest in self._kept:
            self._kept.move_to_end(digest)
        else:
            self._kept[digest] = self._fetcher.get(self._manifest.key_of(extent.chunk))
            if len(self._kept) > _KEPT_CHUNKS:
                self._kept.popitem(last=False)
        return self._kept[digest]
