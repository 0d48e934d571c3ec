"""The folder that is backed up: which files there are, where they have holes, what they hold."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slipway.backup.formats import parts_of
from slipway.core.backup.cuts import CutRules, Piece, pieces
from slipway.core.backup.manifest import Hole
from slipway.core.backup.sums import Sum
from slipway.core.errors import InputError, PermanentError
from slipway.core.weights import digest_of_files

_BLOCK_BYTES = 512
"""Unit of `st_blocks`, whatever the file system's own blocks are (stat(2))."""


class ChangedError(PermanentError):
    """A file is not as it was when it was listed: other bytes, shorter, or gone.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} changes while it is read",
            code="source-unstable",
            hint="back up a snapshot of the volume, or when nothing writes to it",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file as it was listed; a file that has been written to since differs.

    Args:
        path: from the folder, `/` between names; odd bytes as surrogates.
        place: what is opened; behind a symbolic link.
        sparse: it has holes.
    """

    path: str
    place: Path
    size_bytes: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    sparse: bool = False


def scan(root: Path) -> tuple[SourceFile, ...]:
    """Return the files of a folder, by path; symbolic links are followed.

    Raises:
        InputError: `source-missing`; `source-empty`; `source-loop`, a link leads back to a folder
            above it; `source-dangling`, a link leads nowhere; `source-special`, a device, socket
            or pipe.
        PermanentError: `source-unreadable`.
    """
    try:
        top = root.stat()
    except OSError as error:
        raise _missing(root, error) from error
    if not stat.S_ISDIR(top.st_mode):
        raise _missing(root, NotADirectoryError(errno.ENOTDIR, "it is no folder"))
    found = tuple(sorted(_below(root, "", {_identity(top)}), key=lambda item: item.path))
    if not found:
        raise InputError(
            f"{root} holds no files",
            code="source-empty",
            hint="name the folder with the files of one version; an empty backup proves nothing",
        )
    return found


def _below(folder: Path, prefix: str, above: set[tuple[int, int]]) -> Iterator[SourceFile]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    for entry in entries:
        path = f"{prefix}{entry.name}"
        place = Path(entry.path)
        facts = _facts(entry, place)
        if facts is None:
            continue
        if stat.S_ISDIR(facts.st_mode):
            if _identity(facts) in above:
                raise InputError(
                    f"{place} leads back to a folder above it",
                    code="source-loop",
                    hint="remove the link, or name the folder of the version itself",
                )
            yield from _below(place, f"{path}/", above | {_identity(facts)})
        elif stat.S_ISREG(facts.st_mode):
            yield SourceFile(
                path=path,
                place=place,
                size_bytes=facts.st_size,
                mode=stat.S_IMODE(facts.st_mode),
                mtime_ns=facts.st_mtime_ns,
                ctime_ns=facts.st_ctime_ns,
                sparse=facts.st_blocks * _BLOCK_BYTES < facts.st_size,
            )
        else:
            raise InputError(
                f"{place} is a device, a socket or a pipe",
                code="source-special",
                hint="only files can be backed up: remove it, or name another folder",
            )


def _facts(entry: os.DirEntry[str], place: Path) -> os.stat_result | None:
    """Return what an entry leads to; None when it has gone since it was listed."""
    try:
        return entry.stat()
    except FileNotFoundError as error:
        if not entry.is_symlink():
            return None
        raise InputError(
            f"{place} is a link that leads nowhere",
            code="source-dangling",
            hint="remove the link, or bring back what it leads to",
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(
                f"{place} is a link that leads to itself",
                code="source-loop",
                hint="remove the link",
            ) from error
        raise _unreadable(place, error) from error


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is cut: pieces that hold data, and the holes between them."""

    pieces: tuple[Piece, ...]
    holes: tuple[Hole, ...]


def layout_of(file: SourceFile, rules: CutRules) -> Layout:
    """Return how a file is cut.

    Raises:
        ChangedError: it has changed since it was listed.
        PermanentError: `source-unreadable`.
    """
    try:
        with file.place.open("rb") as opened:
            if os.fstat(opened.fileno()).st_size != file.size_bytes:
                raise ChangedError(file.path)
            cut = pieces(parts_of(opened, file.size_bytes), file.size_bytes, rules)
            if not file.sparse:
                return Layout(cut, ())
            return _without_holes(cut, list(_data_ranges(opened.fileno(), file.size_bytes)))
    except FileNotFoundError as error:
        raise ChangedError(file.path) from error
    except OSError as error:
        raise _unreadable(file.place, error) from error


def _data_ranges(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole follows
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _without_holes(cut: Sequence[Piece], data: Sequence[tuple[int, int]]) -> Layout:
    """Leave out the pieces without a byte of data; neighbours become one hole."""
    kept: list[Piece] = []
    holes: list[Hole] = []
    place = 0
    for piece in cut:
        end = piece.offset_bytes + piece.size_bytes
        while place < len(data) and data[place][1] <= piece.offset_bytes:
            place += 1
        if place < len(data) and data[place][0] < end:
            kept.append(piece)
        elif holes and holes[-1].offset_bytes + holes[-1].size_bytes == piece.offset_bytes:
            last = holes.pop()
            joined = last.size_bytes + piece.size_bytes
            holes.append(Hole(offset_bytes=last.offset_bytes, size_bytes=joined))
        else:
            holes.append(Hole(offset_bytes=piece.offset_bytes, size_bytes=piece.size_bytes))
    return Layout(tuple(kept), tuple(holes))


@dataclass(frozen=True, slots=True)
class OpenPiece:
    """`slipway.ports.backups.FileBody`: a piece of a file that is open."""

    source: SourceFile
    piece: Piece
    file: BinaryIO

    @property
    def offset_bytes(self) -> int:
        """See `FileBody`."""
        return self.piece.offset_bytes

    def __len__(self) -> int:
        """See `FileBody`."""
        return self.piece.size_bytes

    def read(self) -> bytearray:
        """See `FileBody`."""
        found = bytearray(len(self))
        self.read_into(memoryview(found))
        return found

    def checked(self, checksum: Sum) -> memoryview:
        """See `FileBody`."""
        found = memoryview(self.read())
        if not checksum.fits(found):
            raise ChangedError(self.source.path)
        return found

    def read_into(self, buffer: memoryview) -> memoryview:
        """Return the bytes, in a buffer that is large enough; raises what `read` raises."""
        wanted, done = buffer[: len(self)], 0
        while done < len(wanted):
            done += self._read(wanted[done:], done)
        return wanted

    def slices(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the bytes by what a buffer holds, each slice valid until the next is asked for.

        Raises what `read` raises.
        """
        done = 0
        while done < len(self):
            count = self._read(buffer[: len(self) - done], done)
            yield buffer[:count]
            done += count

    def _read(self, buffer: memoryview, at: int) -> int:
        try:
            count = os.preadv(self.file.fileno(), [buffer], self.offset_bytes + at)
        except OSError as error:
            raise _unreadable(self.source.place, error) from error
        if count == 0:
            raise ChangedError(self.source.path)
        return count


@contextmanager
def open_piece(file: SourceFile, piece: Piece) -> Iterator[OpenPiece]:
    """Give a piece of a file, to be read within the block.

    Raises:
        ChangedError: the file is gone.
        PermanentError: `source-unreadable`.
    """
    try:
        opened = file.place.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise ChangedError(file.path) from error
    except OSError as error:
        raise _unreadable(file.place, error) from error
    with opened:
        yield OpenPiece(file, piece, opened)


def checked_sums(root: Path, expected: str) -> dict[str, str]:
    """Return the sha256 of every file of a folder by path, if they are the ones expected.

    Args:
        root: folder with the files of one version.
        expected: `slipway.core.weights.digest_of_files` of them, hex.

    Raises:
        PermanentError: `source-differs`, they are not; `source-unreadable`.
    """
    found = {}
    for file in sorted(scan(root), key=lambda item: item.path):
        try:
            with file.place.open("rb") as opened:
                found[file.path] = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(file.place, error) from error
    seen = digest_of_files(found.items())
    if seen != expected:
        raise PermanentError(
            f"the files in {root} have the sum {seen}, not {expected}",
            code="source-differs",
            hint="they are not those that were released: place the version anew, and look who "
            "writes to the volume",
        )
    return found


def _missing(root: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot back up {root}: {error.strerror}",
        code="source-missing",
        hint="name the folder with the files of one version",
    )


def _unreadable(place: Path, error: OSError) -> PermanentError:
    return PermanentError(
        f"cannot read {place}: {error.strerror}",
        code="source-unreadable",
        hint="give this process the right to read it, or look at the disk's health",
    )
