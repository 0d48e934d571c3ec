"""What changed between two backups of a model: files, and the tensors in them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from slipway.backup.fetching import Fetcher
from slipway.backup.formats import parts_of
from slipway.backup.stored_file import StoredFile
from slipway.core.backup.cuts import Part
from slipway.core.backup.manifest import Extent, FileEntry, Manifest, extents

_SLICE_BYTES = 1 << 20


class Change(StrEnum):
    """What happened to a file or a tensor."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What happened to one file, or to one tensor in it.

    Args:
        path: of the file.
        tensor: name of it; "" for the file as a whole.
        size_bytes: in the later backup, or in the earlier one when it was removed.
    """

    path: str
    tensor: str
    change: Change
    size_bytes: int


def compare(
    before: Manifest, after: Manifest, fetcher: Fetcher
) -> tuple[tuple[Difference, ...], int]:
    """Return what happened to every file and tensor, and how many bytes of chunks are new.

    A tensor is looked for by its name in all files of a format that names tensors, so that one
    that moved to another shard has not changed. Only headers are fetched, and chunks that several
    small tensors share.

    Args:
        before: the earlier backup.
        after: the later one, of the same repository.
        fetcher: gets chunks of it.

    Raises:
        PermanentError: `chunk-damaged` or `chunk-missing`.
        TransientError: of the store.
    """
    had = {chunk.digest for chunk in before.chunks}
    new_bytes = sum(item.size_bytes for item in after.chunks if item.digest not in had)
    files = tuple(_files(before, after))
    tensors = tuple(_tensors(_Named(before, fetcher), _Named(after, fetcher)))
    return (*files, *tensors), new_bytes


def _files(before: Manifest, after: Manifest) -> Iterator[Difference]:
    old = {entry.path: entry for entry in before.files}
    new = {entry.path: entry for entry in after.files}
    for path in sorted(old | new):
        if path not in new:
            change, size_bytes = Change.REMOVED, old[path].size_bytes
        elif path not in old:
            change, size_bytes = Change.ADDED, new[path].size_bytes
        else:
            same = _content(before, old[path]) == _content(after, new[path])
            change, size_bytes = Change.SAME if same else Change.CHANGED, new[path].size_bytes
        yield Difference(path=path, tensor="", change=change, size_bytes=size_bytes)


def _content(manifest: Manifest, entry: FileEntry) -> object:
    return entry.holes, [manifest.chunks[index].digest for index in entry.chunks]


@dataclass(frozen=True)
class _Tensor:
    entry: FileEntry
    part: Part


class _Named:
    """The tensors of a backup by name."""

    def __init__(self, manifest: Manifest, fetcher: Fetcher) -> None:
        self.manifest = manifest
        self._fetcher = fetcher
        self.tensors = {
            part.name: _Tensor(entry, part)
            for entry in manifest.files
            for part in parts_of(io.BufferedReader(self._open(entry)), entry.size_bytes)
            if part.name
        }

    def digests(self, tensor: _Tensor) -> list[str] | None:
        """Return the digests of a tensor's chunks; None when it shares one with its neighbours."""
        part, found = tensor.part, []
        for extent in extents(self.manifest, tensor.entry):
            if extent.end_bytes <= part.offset_bytes or extent.offset_bytes >= part.end_bytes:
                continue
            if not _is_within(extent, part):
                return None
            found.append(extent.chunk.digest)
        return found

    def sha256(self, tensor: _Tensor) -> str:
        """Return the hash of a tensor's bytes, which are fetched for it."""
        found = hashlib.sha256()
        file = self._open(tensor.entry)
        file.seek(tensor.part.offset_bytes)
        left = tensor.part.size_bytes
        while left > 0:
            piece = file.read(min(left, _SLICE_BYTES)) or b""
            if not piece:
                break
            found.update(piece)
            left -= len(piece)
        return found.hexdigest()

    def _open(self, entry: FileEntry) -> StoredFile:
        return StoredFile(self.manifest, entry, self._fetcher)


def _is_within(extent: Extent, part: Part) -> bool:
    return extent.offset_bytes >= part.offset_bytes and extent.end_bytes <= part.end_bytes


def _tensors(before: _Named, after: _Named) -> Iterator[Difference]:
    for name in sorted(before.tensors | after.tensors):
        old, new = before.tensors.get(name), after.tensors.get(name)
        if new is not None:
            change, shown = Change.ADDED, new
            if old is not None:
                change = Change.SAME if _is_same(before, old, after, new) else Change.CHANGED
        elif old is not None:
            change, shown = Change.REMOVED, old
        yield Difference(
            path=shown.entry.path, tensor=name, change=change, size_bytes=shown.part.size_bytes
        )


def _is_same(before: _Named, old: _Tensor, after: _Named, new: _Tensor) -> bool:
    if old.part.size_bytes != new.part.size_bytes:
        return False
    mine, other = before.digests(old), after.digests(new)
    if mine is not None and other is not None:
        return mine == other
    return before.sha256(old) == after.sha256(new)
