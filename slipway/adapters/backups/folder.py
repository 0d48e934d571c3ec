"""A folder as a store of backups: on a volume, a mounted share, a disk that is carried away.

A file appears whole or not at all: it is written beside, synced, and then linked or renamed to its
name. A link to a name that is taken fails, so that one of several writers wins.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from slipway.core.backup.sums import Sum
from slipway.core.errors import PermanentError, SlipwayError, TransientError
from slipway.files import sync_folder
from slipway.ports.backups import Body, Stored

_SLICE_BYTES = 256 << 10
_BESIDE = ".part-"
"""Begins the name of a file that is being written; left by a killed process, and ignored."""

_LEFT_S = 86_400.0
"""A file is written within seconds; one that is a day old has no writer any more."""


@dataclass(frozen=True)
class FolderBackupStore:
    """`slipway.ports.BackupStore` in a folder, which is made when it is missing."""

    root: Path

    def put(self, key: str, body: Body, *, checksum: Sum) -> None:
        """See `slipway.ports.BackupStore`."""
        if not isinstance(body, bytes | memoryview):
            body = body.checked(checksum)
        with self._mapped("write", key), self._written(key, body, checksum) as beside:
            beside.replace(self._path(key))
            sync_folder(self._path(key).parent)

    def create(self, key: str, body: bytes | memoryview, *, checksum: Sum) -> bool:
        """See `slipway.ports.BackupStore`."""
        path = self._path(key)
        with self._mapped("write", key):
            if path.exists():
                return False
            with self._written(key, body, checksum) as beside:
                try:
                    path.hardlink_to(beside)
                except FileExistsError:
                    return False
                finally:
                    beside.unlink()
                sync_folder(path.parent)
        return True

    def get(self, key: str) -> bytes:
        """See `slipway.ports.BackupStore`."""
        with self._mapped("read", key):
            return self._path(key).read_bytes()

    def read(self, key: str) -> Iterator[memoryview]:
        """See `slipway.ports.BackupStore`."""
        buffer = bytearray(_SLICE_BYTES)
        view = memoryview(buffer)
        with self._mapped("read", key), self._path(key).open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield view[:count]

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `slipway.ports.BackupStore`."""
        with self._mapped("list", prefix):
            found = sorted(self._below(prefix))
        yield from (Stored(key, size) for key, size in found)

    def delete(self, keys: Sequence[str]) -> None:
        """See `slipway.ports.BackupStore`."""
        for key in keys:
            with self._mapped("remove", key):
                self._path(key).unlink(missing_ok=True)

    def tidy(self) -> None:
        """See `slipway.ports.BackupStore`."""
        with self._mapped("tidy", ""):
            for path in self.root.rglob(f"{_BESIDE}*"):
                with suppress(FileNotFoundError):  # whose writer lives, and has just ended
                    if time.time() - path.stat().st_mtime > _LEFT_S:
                        path.unlink()

    def _below(self, prefix: str) -> Iterator[tuple[str, int]]:
        top = self.root / prefix.rpartition("/")[0]
        for folder, _, names in os.walk(top, onerror=_unless_missing):
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self.root).as_posix()
                if not key.startswith(prefix) or name.startswith(_BESIDE):
                    continue
                with suppress(FileNotFoundError):  # removed since the folder was read
                    yield key, path.stat().st_size

    @contextmanager
    def _written(self, key: str, body: bytes | memoryview, checksum: Sum) -> Iterator[Path]:
        if not checksum.fits(body):
            raise PermanentError(
                f"what should be stored as {key} has not the {checksum.kind} {checksum.hexdigest}",
                code="checksum-mismatch",
                hint="the memory of this machine changes bytes, or the program is wrong",
            )
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{_BESIDE}{uuid.uuid4().hex}")
        try:
            with beside.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            yield beside
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        words = key.split("/")
        if any(word in {"", ".", ".."} or word.startswith(_BESIDE) for word in words):
            raise PermanentError(
                f"{key!r} is no key of a store in a folder",
                code="object-store-refused",
                hint="this is a defect of Slipway, or of the manifest that names it",
            )
        return self.root.joinpath(*words)

    @contextmanager
    def _mapped(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._said(verb, key, error) from error

    def _said(self, verb: str, key: str, error: OSError) -> SlipwayError:
        name = self.root / key
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return PermanentError(
                f"there is no {name}", code="object-missing", hint="list its prefix"
            )
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return PermanentError(
                f"cannot {verb} {name}: {error.strerror}",
                code="object-store-full",
                hint="make room on the volume, or let `slipway backup prune` do it",
            )
        if error.errno in {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}:
            return TransientError(
                f"cannot {verb} {name} just now: {error.strerror}",
                code="object-store-busy",
                hint="look at the volume when it lasts",
            )
        return PermanentError(
            f"may not {verb} {name}: {error.strerror}",
            code="object-store-refused",
            hint="check the folder and its rights",
        )


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
