"""How a chunk's bytes become its name and what is stored under it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from slipway.core.backup.settings import Algorithm
from slipway.core.backup.sums import RunningCrc32c, Sum, SumKind, sum_of
from slipway.core.errors import PermanentError


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored for a chunk.

    Args:
        body: the bytes; valid as long as those that they were made from.
        checksum: of the body.
    """

    body: bytes | memoryview
    checksum: Sum


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

    def update(self, body: bytes | memoryview, /) -> object:
        """Take the next slice; what is returned means nothing."""

    def hexdigest(self) -> str:
        """Return the name of all slices, hex."""


class Plainly(Protocol):
    """Finds what a chunk is called and what it is compared with, of bytes that come in slices."""

    def update(self, body: memoryview) -> None:
        """Take the next slice."""

    def digest(self) -> str:
        """Return the name of all slices, hex."""

    def checksum(self) -> Sum:
        """Return the sum of all slices."""


class Codec(Protocol):
    """Names, seals and opens chunks; one for a repository."""

    @property
    def algorithm(self) -> str:
        """Return what names are made by."""

    def hasher(self) -> Hasher:
        """Return what finds the name of bytes in slices."""

    def digest(self, body: bytes | memoryview) -> str:
        """Return the name of a chunk, hex."""

    def seal(self, digest: str, body: bytes | memoryview) -> Sealed:
        """Return what is stored for it."""

    def plainly(self) -> Plainly | None:
        """Return what finds name and checksum of bytes that are stored as they are.

        None: they are stored otherwise, and `seal` must have them in memory.
        """

    def stored_bytes(self, size_bytes: int) -> int:
        """Return how many bytes are stored for a chunk of so many."""

    def opening(self, digest: str) -> Opening:
        """Return what brings a chunk back from what was stored, slice by slice."""


@dataclass(frozen=True, slots=True)
class PlainCodec:
    """Chunks as they are, named by a hash of them.

    Args:
        algorithm: `sha256`, which a store compares by itself, or `blake3`, which takes less than
            half the time; then a CRC-32C is what the store compares.
    """

    algorithm: Algorithm = Algorithm.SHA256

    def hasher(self) -> Hasher:
        """See `Codec`."""
        if self.algorithm is Algorithm.BLAKE3:
            import blake3

            return blake3.blake3()
        return hashlib.sha256()

    def digest(self, body: bytes | memoryview) -> str:
        """See `Codec`."""
        found = self.hasher()
        found.update(body)
        return found.hexdigest()

    def seal(self, digest: str, body: bytes | memoryview) -> Sealed:
        """See `Codec`."""
        if self.algorithm is Algorithm.BLAKE3:
            return Sealed(body, sum_of(SumKind.CRC32C, body))
        return Sealed(body, Sum(SumKind.SHA256, digest))

    def plainly(self) -> Plainly:
        """See `Codec`."""
        return _ByBlake3(self.hasher()) if self.algorithm is Algorithm.BLAKE3 else _BySha256()

    def stored_bytes(self, size_bytes: int) -> int:
        """See `Codec`."""
        return size_bytes

    def opening(self, digest: str) -> Opening:
        """See `Codec`."""
        return _PlainOpening(digest, self)


class _BySha256:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, body: memoryview) -> None:
        self._hash.update(body)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def checksum(self) -> Sum:
        return Sum(SumKind.SHA256, self.digest())


class _ByBlake3:
    def __init__(self, hasher: Hasher) -> None:
        self._hash, self._crc32c = hasher, RunningCrc32c()

    def update(self, body: memoryview) -> None:
        self._hash.update(body)
        self._crc32c.update(body)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def checksum(self) -> Sum:
        return self._crc32c.sum()


class _PlainOpening:
    def __init__(self, digest: str, codec: PlainCodec) -> None:
        self._digest = digest
        self._algorithm = codec.algorithm
        self._hash = codec.hasher()

    def update(self, stored: memoryview) -> memoryview:
        self._hash.update(stored)
        return stored

    def finish(self) -> None:
        found = self._hash.hexdigest()
        if found != self._digest:
            raise damaged(self._digest, f"its {self._algorithm} is {found}")


def damaged(digest: str, how: str) -> PermanentError:
    """Return what is said of a chunk whose bytes are not right."""
    return PermanentError(
        f"chunk {digest} is damaged: {how}",
        code="chunk-damaged",
        hint="heal it from the source or a replica: slipway backup repair",
    )
