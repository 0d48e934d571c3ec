"""What a manifest states: the files of one version, and the chunks that they are made of.

It is written last: what no manifest names does not exist. Its text is canonical, so that equal
manifests are equal bytes; what cannot be read is refused, never guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from slipway.core.backup.names import ChunkKey
from slipway.core.errors import PermanentError
from slipway.core.strict_json import NewerFormatError, UnfitJsonError, read_stored

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A chunk that files are made of.

    Args:
        digest: of its bytes, hex, by the algorithm of the repository.
        size_bytes: of its bytes, before any encryption.
        epoch: see `ChunkKey`.
    """

    digest: str
    size_bytes: int
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """A run of bytes that were never written: zeros that take no room."""

    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file: its chunks one behind the other, with holes between them.

    Args:
        path: from the folder of the version, `/` between names; bytes that are no UTF-8 as
            surrogates (Python's `surrogateescape`).
        mode: permission bits.
        ctime_ns: when the file was changed last by the kernel's account; tells a file that was
            written over with its old time.
        chunks: places in the manifest's list of chunks.
        sha256: of the whole file, when the registry states it; "" otherwise.
    """

    path: str
    size_bytes: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    chunks: tuple[int, ...]
    holes: tuple[Hole, ...] = ()
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the files came from.

    Args:
        place: folder, claim or address that was read.
        registry_version: of the model; "" when it has none.
        snapshot_uid: of the volume snapshot that was read; "" when the files themselves were.
        imported: taken over from a copy that another tool made.
        tool: what wrote the manifest, with its version.
    """

    place: str
    tool: str
    registry_version: str = ""
    snapshot_uid: str = ""
    imported: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of one model.

    Args:
        repository: id of the repository that its chunks are in.
        taken_at_ns: when reading began, since 1970 UTC.
        algorithm: of the digests.
        files: in the order of their paths.
        tags: given by people when it was taken.
        copy_of: key of the backup in the other repository that it is a copy of; "": of none.
    """

    repository: str
    model: str
    taken_at_ns: int
    algorithm: str
    origin: Origin
    files: tuple[FileEntry, ...]
    chunks: tuple[Chunk, ...]
    tags: tuple[str, ...] = ()
    copy_of: str = ""
    format: int = FORMAT

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(item.size_bytes for item in self.files)

    def key_of(self, chunk: Chunk) -> ChunkKey:
        """Return where a chunk lies."""
        return ChunkKey(chunk.digest, chunk.epoch, self.algorithm)

    def chunk_keys(self) -> frozenset[ChunkKey]:
        """Return where the chunks lie."""
        return frozenset(self.key_of(item) for item in self.chunks)


@dataclass(frozen=True, slots=True)
class Extent:
    """A chunk's place in a file."""

    offset_bytes: int
    chunk: Chunk

    @property
    def end_bytes(self) -> int:
        """Offset of the first byte behind it."""
        return self.offset_bytes + self.chunk.size_bytes


def extents(manifest: Manifest, entry: FileEntry) -> Iterator[Extent]:
    """Yield the chunks of a file with their places, holes left out."""
    holes = {item.offset_bytes: item.size_bytes for item in entry.holes}
    at = 0
    for index in entry.chunks:
        at += holes.get(at, 0)
        chunk = manifest.chunks[index]
        yield Extent(at, chunk)
        at += chunk.size_bytes


def to_storage(manifest: Manifest) -> bytes:
    """Return the manifest as canonical JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(
        asdict(manifest), sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def sum_of(stored: bytes) -> bytes:
    """Return what is stored beside a manifest: its sha256, hex."""
    return hashlib.sha256(stored).hexdigest().encode()


def from_storage(stored: bytes, name: str) -> Manifest:
    """Return the manifest that bytes state.

    Args:
        stored: as `to_storage` returns them.
        name: of the manifest, for errors.

    Raises:
        PermanentError: `manifest-newer`, by a later Slipway; `manifest-damaged`, anything else.
    """
    try:
        manifest: Manifest = read_stored(Manifest, stored, "manifest", known_format=FORMAT)
        _require_whole(manifest)
    except NewerFormatError as error:
        raise PermanentError(
            f"manifest {name} has format {error.found}, this Slipway reads up to {FORMAT}",
            code="manifest-newer",
            hint="use the Slipway that wrote it, or a later one; nothing was changed",
        ) from error
    except UnfitJsonError as error:
        raise PermanentError(
            f"manifest {name} is damaged: {error}",
            code="manifest-damaged",
            hint="take it from a replica: slipway backup repair",
        ) from error
    return manifest


def _require_whole(manifest: Manifest) -> None:
    paths = [entry.path for entry in manifest.files]
    if len(set(paths)) != len(paths):
        raise UnfitJsonError("a path stands in it twice")
    for entry in manifest.files:
        if any(word in {"", ".", ".."} for word in entry.path.split("/")):
            raise UnfitJsonError(f"{entry.path!r} is no path below the folder of a version")
        if any(not 0 <= index < len(manifest.chunks) for index in entry.chunks):
            raise UnfitJsonError(f"{entry.path} names a chunk that is not in the list")
        sizes = sum(manifest.chunks[index].size_bytes for index in entry.chunks)
        if sizes + sum(hole.size_bytes for hole in entry.holes) != entry.size_bytes:
            raise UnfitJsonError(f"the chunks of {entry.path} are not as long as the file")
