"""From layer archives to one folder: extraction, whiteouts, merging.

Rules: OCI image-spec, "Image Layer Filesystem Changeset". Whatever an archive says, nothing is
written outside the folder given. Owners, devices and set-id bits are dropped: every process of the
sandbox runs as its user.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from slipway.core.errors import PermanentError

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_CHUNK_BYTES = 1 << 20


def unpack_layer(stream: IO[bytes], target: Path) -> int:
    """Extract one uncompressed layer archive; its whiteout markers stay files of that name.

    Args:
        stream: read once from front to end.
        target: an existing empty folder.

    Returns:
        Bytes of the regular files.

    Raises:
        PermanentError: an entry lies outside the folder, or leads through a link.
        tarfile.TarError: it is not an archive.
    """
    size_bytes = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            parts = _parts(member.name)
            if not parts:
                continue
            path = _place(target, parts)
            if member.isdir():
                _make_folder(path, member.mode)
            elif member.isreg():
                _clear(path)
                source = archive.extractfile(member)
                if source is not None:
                    _write_file(path, source, member)
                    size_bytes += member.size
            elif member.issym():
                _clear(path)
                path.symlink_to(member.linkname)
            elif member.islnk():
                _clear(path)
                _link(target, member, path)
    return size_bytes


def merge_layers(layers: Sequence[Path], target: Path) -> None:
    """Lay unpacked layers on each other, lowest first, in an existing empty folder.

    Files are hard links: a layer shared by ten images is stored once. Nobody may write to them.

    Raises:
        PermanentError: a whiteout names a path outside its folder.
    """
    for layer in layers:
        _merge(layer, target)


def _merge(source: Path, target: Path) -> None:
    with os.scandir(source) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    _white_out([entry.name for entry in entries], target)
    for entry in entries:
        if entry.name.startswith(_WHITEOUT):
            continue
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            _make_folder(place, stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode))
            _merge(Path(entry.path), place)
        else:
            _clear(place)
            os.link(entry.path, place, follow_symlinks=False)


def _white_out(names: Sequence[str], target: Path) -> None:
    """Remove from the lower layers what the markers of one folder hide."""
    if _OPAQUE in names:
        for path in tuple(target.iterdir()):
            _clear(path)
    for name in names:
        if name.startswith(_WHITEOUT) and name != _OPAQUE:
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in {"", ".", ".."}:
                raise _outside(name)
            _clear(target / hidden)


def _parts(name: str) -> tuple[str, ...]:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _outside(name)
    return parts


def _place(target: Path, parts: tuple[str, ...]) -> Path:
    """Return the path of an entry, its parents made; a link among them could lead anywhere."""
    folder = target
    for part in parts[:-1]:
        folder = folder / part
        if folder.is_symlink():
            raise _outside("/".join(parts))
        if not folder.is_dir():
            _make_folder(folder, 0o755)
    return folder / parts[-1]


def _make_folder(path: Path, mode: int) -> None:
    if path.is_symlink() or not path.is_dir():
        _clear(path)
        path.mkdir()
    path.chmod(mode & 0o1777 | 0o700)  # its owner must be able to remove it again


def _write_file(path: Path, source: IO[bytes], member: tarfile.TarInfo) -> None:
    with path.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)
    path.chmod(member.mode & 0o777 | 0o400)
    os.utime(path, (member.mtime, member.mtime))


def _link(target: Path, member: tarfile.TarInfo, path: Path) -> None:
    source = _place(target, _parts(member.linkname) or ("",))
    if not os.path.lexists(source) or (source.is_dir() and not source.is_symlink()):
        raise PermanentError(
            f"the layer links {member.name} to {member.linkname}, which it does not hold",
            code="layer-broken",
            hint="build the image again",
        )
    os.link(source, path, follow_symlinks=False)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _outside(name: str) -> PermanentError:
    return PermanentError(
        f"the layer holds {name!r}, which leads out of the image",
        code="layer-escapes",
        hint="do not use this image: it tries to write to the host",
    )
