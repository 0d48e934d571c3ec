"""How a chunk's bytes become its name and what is stored under it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from slipway.core.errors import PermanentError


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored for a chunk.

    Args:
        body: the bytes; valid as long as those that they were made from.
        sha256: of the body, hex.
    """

    body: bytes | memoryview
    sha256: str


class Opening(Protocol):
    """A stored chunk on its way back to its bytes."""

    def update(self, stored: memoryview) -> memoryview:
        """Return the bytes of a slice, or those of slices before; valid until the next call.

        Nobody may rely on them before `finish`.
        """

    def finish(self) -> None:
        """Say that all slices were the right ones.

        Raises:
            PermanentError: `chunk-damaged`, they are not what the name states.
        """


class Hasher(Protocol):
    """Finds the name of bytes that come in slices."""

    def update(self, body: bytes | memoryview, /) -> None:
        """Take the next slice."""

    def hexdigest(self) -> str:
        """Return the name of all slices, hex."""


class Codec(Protocol):
    """Names, seals and opens chunks; one for a repository."""

    algorithm: str

    def hasher(self) -> Hasher:
        """Return what finds the name of bytes in slices."""

    def digest(self, body: bytes | memoryview) -> str:
        """Return the name of a chunk, hex."""

    def seal(self, digest: str, body: bytes | memoryview) -> Sealed:
        """Return what is stored for it."""

    def stored_bytes(self, size_bytes: int) -> int:
        """Return how many bytes are stored for a chunk of so many."""

    def opening(self, digest: str) -> Opening:
        """Return what brings a chunk back from what was stored, slice by slice."""


class PlainCodec:
    """Chunks as they are, named by their sha256."""

    algorithm = "sha256"

    def hasher(self) -> Hasher:
        """See `Codec`."""
        return hashlib.sha256()

    def digest(self, body: bytes | memoryview) -> str:
        """See `Codec`."""
        return hashlib.sha256(body).hexdigest()

    def seal(self, digest: str, body: bytes | memoryview) -> Sealed:
        """See `Codec`."""
        return Sealed(body, digest)

    def stored_bytes(self, size_bytes: int) -> int:
        """See `Codec`."""
        return size_bytes

    def opening(self, digest: str) -> Opening:
        """See `Codec`."""
        return _PlainOpening(digest)


class _PlainOpening:
    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._hash = hashlib.sha256()

    def update(self, stored: memoryview) -> memoryview:
        self._hash.update(stored)
        return stored

    def finish(self) -> None:
        found = self._hash.hexdigest()
        if found != self._digest:
            raise damaged(self._digest, f"its sha256 is {found}")


def damaged(digest: str, how: str) -> PermanentError:
    """Return what is said of a chunk whose bytes are not right."""
    return PermanentError(
        f"chunk {digest} is damaged: {how}",
        code="chunk-damaged",
        hint="heal it from the source or a replica: slipway backup repair",
    )
