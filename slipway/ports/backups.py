"""The store of backups: what S3 and a folder can both do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeAlias

from slipway.core.backup.sums import Sum


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the store lists it."""

    key: str
    size_bytes: int


class FileBody(Protocol):
    """Bytes that lie in an open file: the kernel can send them from there."""

    @property
    def file(self) -> BinaryIO:
        """Return the file, open for reading."""

    @property
    def offset_bytes(self) -> int:
        """Return where in the file they begin."""

    def __len__(self) -> int:
        """Return how many they are."""

    def read(self) -> bytearray:
        """Return the bytes as they are now.

        Raises:
            PermanentError: `source-unstable`, the file ends before them; `source-unreadable`.
        """

    def checked(self, checksum: Sum) -> memoryview:
        """Return the bytes if they are still those of the sum; raises what `read` raises."""


Body: TypeAlias = bytes | memoryview | FileBody


class BackupStore(Protocol):
    """Objects under keys; whoever reads after a write sees it, in lists too."""

    def put(self, key: str, body: Body, *, checksum: Sum) -> None:
        """Store `body` under `key`, in place of what is there; may be repeated.

        Args:
            key: of the object.
            body: not copied.
            checksum: of the body; the store compares it where it can.

        Raises:
            PermanentError: refused (`object-store-refused`), no room (`object-store-full`), or
                other bytes arrived (`checksum-mismatch`), for they have changed in their file
                (`source-unstable`).
            TransientError: the store did not answer.
        """

    def create(self, key: str, body: bytes | memoryview, *, checksum: Sum) -> bool:
        """Store `body` unless something is under `key`; return whether it was stored.

        Who gets True is the only one, where the store honours conditional writes
        (`slipway backup doctor`). An answer that was lost on its way is asked for again, and then
        one's own body counts as stored.
        """

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`.

        Raises:
            PermanentError: there is no such key (`object-missing`).
        """

    def read(self, key: str) -> Iterator[memoryview]:
        """Yield the bytes of `key` in slices; each is valid until the next is asked for."""

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield what lies under a prefix, in any order: not every server has S3's."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are gone already are none's business."""

    def tidy(self) -> None:
        """Remove what writers left beside objects that were killed more than a day ago."""
