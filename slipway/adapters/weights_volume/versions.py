"""Versions of a service's weights on a volume: names, locks, what is wrong with one, removal.

Layout below the service's folder: `DIGEST/manifest.json` and `DIGEST/files/…` is a whole version,
`.part-DIGEST` one that is being fetched, `.gone-DIGEST` one that is being removed, `.locks` a file
with one lock a version. A version becomes whole by a rename; so nothing here is ever half there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from slipway.adapters.model_manifest import FILE_NAME, ModelManifest, from_text, sha256_of
from slipway.core.errors import PermanentError, SlipwayError
from slipway.core.weights import digest_of_files
from slipway.files import sync_folder
from slipway.ports.models import ModelFile

FILES = "files"
MANIFEST = FILE_NAME
WORKERS = 4
"""Files that are read or fetched at once: hashing one at a time leaves a fast volume idle."""

_LOCKS = ".locks"
_LOCK_DIGITS = 15  # of the digest, as an offset below 2^60: each version has its own byte to lock
_PART = ".part-"
_GONE = ".gone-"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TAKEN = frozenset({errno.EACCES, errno.EAGAIN})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def part_of(folder: Path, digest: str) -> Path:
    """Return the folder of a version while it is being fetched."""
    return folder / f"{_PART}{digest}"


@contextmanager
def locked(folder: Path, digest: str, *, wait: Callable[[], None] | None) -> Iterator[bool]:
    """Hold the lock of one version against every pod on every node; the kernel frees it at death.

    Args:
        folder: of the service, on the volume.
        digest: of the version.
        wait: called before waiting for another holder; None does not wait.

    Yields:
        whether it is held.

    Raises:
        PermanentError: the volume's file system has no locks.
    """
    offset = int(digest[:_LOCK_DIGITS], 16)
    with (folder / _LOCKS).open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise PermanentError(
                    f"the file system of {folder} has no locks: {error.strerror}",
                    code="volume-without-locks",
                    hint="use a volume with POSIX locks, for example NFS 4, EFS or CephFS",
                ) from error
            if wait is None:
                yield False
                return
            wait()
            fcntl.lockf(file, fcntl.LOCK_EX, 1, offset)
        yield True


def manifest_in(folder: Path, digest: str) -> ModelManifest | None:
    """Return the manifest in a version's folder; None when there is none that gives `digest`."""
    path = folder / MANIFEST
    try:
        return checked_manifest(path.read_text(), digest, owner=str(path))
    except (OSError, ValueError, PermanentError):
        return None


def checked_manifest(text: str, digest: str, *, owner: str) -> ModelManifest:
    """Return the manifest that `text` states.

    Raises:
        PermanentError: it cannot be read, or its files are not those of `digest`.
    """
    manifest = from_text(text, owner=owner)
    got = digest_of_files((file.path, file.sha256) for file in manifest.files)
    if got != digest:
        raise PermanentError(
            f"{owner} lists the files of weights {got}, the release is of {digest}",
            code="checksum-mismatch",
            hint="the files changed after the release tested them: restore them, or register the "
            "model again",
        )
    return manifest


def faults(files: Path, manifest: ModelManifest) -> dict[str, str]:
    """Return what is wrong below `files`, by path; empty when all is right.

    Every byte is read. A link counts as wrong: what it leads to may change. So does a file that is
    not of the version: servers load what they find.
    """
    if files.is_symlink():
        return {FILES: "is a link"}
    with ThreadPoolExecutor(WORKERS) as pool:
        found = dict(
            zip(
                (file.path for file in manifest.files),
                pool.map(lambda file: fault_of(files / file.path, file), manifest.files),
                strict=True,
            )
        )
    wrong = {path: fault for path, fault in found.items() if fault}
    return {**wrong, **dict.fromkeys(strangers(files, manifest), "is not of this version")}


def fault_of(path: Path, file: ModelFile) -> str:
    """Return what is wrong with one file; empty when nothing is."""
    try:
        if path.is_symlink() or not path.is_file():
            return "is missing"
        size_bytes = path.stat().st_size
        if size_bytes != file.size_bytes:
            return f"has {size_bytes} bytes, not {file.size_bytes}"
        got = sha256_of(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if got == file.sha256 else f"has sha256 {got}, not {file.sha256}"


def strangers(files: Path, manifest: ModelManifest) -> list[str]:
    """Return what lies below `files` and is neither a file of the version nor a folder of one."""
    wanted = {file.path for file in manifest.files}
    folders = {str(parent) for path in wanted for parent in Path(path).parents}
    found = []
    for place, below, names in os.walk(files):
        inside = Path(place).relative_to(files)
        for name in (*below, *names):
            path = inside / name
            kept = folders if (files / path).is_dir() else wanted
            if (files / path).is_symlink() or str(path) not in kept:
                found.append(str(path))
        below[:] = [name for name in below if str(inside / name) in folders]
    return sorted(found)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; a missing one is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path, keep: frozenset[str]) -> tuple[str, ...]:
    """Remove every version but those of `keep`, whole ones and parts; returns the whole ones.

    A version that a pod is fetching just now stays. Killed anywhere, the next sweep goes on.

    Raises:
        PermanentError: the volume refuses.
    """
    removed = []
    with writing(folder):
        for name in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ():
            digest = name.removeprefix(_PART).removeprefix(_GONE)
            if _DIGEST.fullmatch(digest) is None or (digest in keep and _needed(folder, name)):
                continue
            with locked(folder, digest, wait=None) as held:
                if held:
                    _remove_version(folder, name, digest)
                    removed += [name] if name == digest else []
    return tuple(removed)


def _needed(folder: Path, name: str) -> bool:
    """Whether what bears a version's name is of use: a part beside the whole version is not."""
    whole = folder / name.removeprefix(_PART)
    return not name.startswith(_GONE) and not (name.startswith(_PART) and whole.exists())


def _remove_version(folder: Path, name: str, digest: str) -> None:
    gone = folder / f"{_GONE}{digest}"
    if name == digest:
        remove(gone)
        # First out of sight: a version under its own name is always whole.
        (folder / name).rename(gone)
        sync_folder(folder)
        remove(gone)
    else:
        remove(folder / name)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the volume's file system refuses into errors that say what to do.

    Raises:
        PermanentError: `volume-full` or `volume-not-writable`.
    """
    try:
        yield
    except SlipwayError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise volume_full(folder, str(error.strerror)) from error
        raise PermanentError(
            f"cannot write to {error.filename or folder}: {error.strerror}",
            code="volume-not-writable",
            hint="the folder on the claim must belong to the user that the pod runs as",
        ) from error


def volume_full(folder: Path, why: str) -> PermanentError:
    """Return the error of a volume that has no room."""
    return PermanentError(
        f"the volume of {folder} is full: {why}",
        code="volume-full",
        hint="make the claim larger, or remove what nothing needs; three versions must fit",
    )
