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


class Codec(Protocol):
    """Names, seals and opens chunks; one for a repository."""

    algorithm: str

    def digest(self, body: bytes | memoryview) -> str:
        """Return the name of a chunk, hex."""

    def seal(self, digest: str, body: bytes | memoryview) -> Sealed:
        """Return what is stored for it."""

    def open(self, digest: str, stored: bytes | memoryview) -> bytes | memoryview:
        """Return a chunk's bytes from what was stored.

        Raises:
            PermanentError: `chunk-damaged`, they are not what the name states.
        """


class PlainCodec:
    """Chunks as they are, named by their sha256."""

    algorithm = "sha256"

    def digest(self, body: bytes | memoryview) -> str:
        """See `Codec`."""
        return hashlib.sha256(body).hexdigest()

    def seal(self, digest: str, body: bytes | memoryview) -> Sealed:
        """See `Codec`."""
        return Sealed(body, digest)

    def open(self, digest: str, stored: bytes | memoryview) -> bytes | memoryview:
        """See `Codec`."""
        found = self.digest(stored)
        if found != digest:
            raise damaged(digest, f"its sha256 is {found}")
        return stored


def damaged(digest: str, how: str) -> PermanentError:
    """Return what is said of a chunk whose bytes are not right."""
    return PermanentError(
        f"chunk {digest} is damaged: {how}",
        code="chunk-damaged",
        hint="heal it from the source or a replica: slipway backup repair",
    )
