"""One layer of an image, made of local files: the same files give the same bytes, everywhere.

A plain tar archive (image-spec 1.1, "Image Layer Filesystem Changeset") with sorted names and fixed
owners, modes and times, made while it is read: a model of many gigabytes is never held in memory.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from slipway.core.errors import InputError

TAR_TYPE = "application/vnd.oci.image.layer.v1.tar"
CHUNK_BYTES = 1024 * 1024

_TAR_BLOCK_BYTES = 512
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob's identity; `digest` is `sha256:…`."""

    media_type: str
    digest: str
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return the descriptor, as manifests hold it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


class Layer:
    """One reproducible layer, made from files as it is read; reading it twice gives the same bytes.

    Args:
        files: path in the image → local file.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = {inner_path(path): local for path, local in files.items()}
        for local in self._files.values():
            if not local.is_file():
                raise InputError(
                    f"cannot put {local} into an image: it is not a file",
                    code="layer-file-missing",
                    hint="fetch the model version's files again",
                )

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the tar archive, at most 1 MiB at a time."""
        parents = {str(parent) for path in self._files for parent in PurePosixPath(path).parents}
        for path in sorted({*self._files, *parents} - {"."}):
            entry = tarfile.TarInfo(path)
            if path not in self._files:
                entry.type, entry.mode = tarfile.DIRTYPE, _FOLDER_MODE
                yield entry.tobuf(tarfile.PAX_FORMAT)
                continue
            entry.mode, entry.size = _FILE_MODE, self._files[path].stat().st_size
            yield entry.tobuf(tarfile.PAX_FORMAT)
            with self._files[path].open("rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    yield chunk
            yield bytes(-entry.size % _TAR_BLOCK_BYTES)
        yield bytes(2 * _TAR_BLOCK_BYTES)

    def blob(self) -> Blob:
        """Return the layer's digest and size; reads every file."""
        digest, size_bytes = digest_of(self.chunks())
        return Blob(TAR_TYPE, digest, size_bytes)


def inner_path(path: str) -> str:
    """Return a path inside an image as archives name it: relative, without empty parts.

    Raises:
        InputError: it leads nowhere or out of the image.
    """
    parts = PurePosixPath(path.lstrip("/")).parts
    if not parts or ".." in parts:
        raise InputError(
            f"{path!r} is no path inside an image",
            code="layer-path-invalid",
            hint="use an absolute path without `..`",
        )
    return "/".join(parts)


def digest_of(chunks: Iterator[bytes]) -> tuple[str, int]:
    """Return the digest (`sha256:…`) and the size in bytes of what `chunks` yields."""
    state, size_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        state.update(chunk)
        size_bytes += len(chunk)
    return f"sha256:{state.hexdigest()}", size_bytes
