"""What a store compares bytes with that arrive: so it notices what changed on their way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class SumKind(StrEnum):
    """Sums that S3 knows, by the names of its headers: `x-amz-checksum-…`."""

    SHA256 = "sha256"
    CRC32C = "crc32c"


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of bytes.

    Args:
        kind: how it was made.
        hexdigest: its bytes, hex.
    """

    kind: SumKind
    hexdigest: str

    def fits(self, body: bytes | memoryview) -> bool:
        """Return whether it is the sum of these bytes."""
        return sum_of(self.kind, body) == self


def sum_of(kind: SumKind, body: bytes | memoryview) -> Sum:
    """Return the sum of bytes."""
    match kind:
        case SumKind.SHA256:
            return Sum(kind, hashlib.sha256(body).hexdigest())
        case SumKind.CRC32C:
            found = RunningCrc32c()
            found.update(body)
            return found.sum()
        case _:
            assert_never(kind)


class RunningCrc32c:
    """The CRC-32C of bytes that come in slices."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, body: bytes | memoryview) -> None:
        """Take the next slice."""
        import crc32c

        self._value = crc32c.crc32c(body, self._value)

    def sum(self) -> Sum:
        """Return the sum of all slices."""
        return Sum(SumKind.CRC32C, f"{self._value:08x}")


def sha256_sum(body: bytes | memoryview) -> Sum:
    """Return the sha256 of bytes."""
    return sum_of(SumKind.SHA256, body)
