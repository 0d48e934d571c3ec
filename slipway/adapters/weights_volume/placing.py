"""Makes one version be on the volume, whole and right: checked, fetched, mended.

A version that is there is read in full at every start of a pod, and nothing is fetched when it is
right. Killed anywhere, the next run goes on with the bytes that are there and checks them again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from slipway.adapters.model_manifest import ModelManifest, to_text
from slipway.adapters.weights_volume.versions import (
    FILES,
    MANIFEST,
    WORKERS,
    checked_manifest,
    fault_of,
    faults,
    locked,
    manifest_in,
    part_of,
    remove,
    strangers,
    volume_full,
    writing,
)
from slipway.core.errors import PermanentError, TransientError
from slipway.files import sync_folder
from slipway.ports.models import ModelFile

_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
_BLOCK_BYTES = 1 << 20
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST})

Result = TypeVar("Result")
Say = Callable[[str], None]


class Source(Protocol):
    """Where a version's files come from; `slipway.adapters.s3.S3ObjectStore` is one."""

    def get(self, key: str) -> bytes:
        """Return the whole of a small file."""
        ...

    def chunks(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Yield a file from `offset` on."""
        ...


@dataclass(frozen=True, slots=True)
class _Placing:
    folder: Path
    digest: str
    source: Source
    say: Say
    sleep: Callable[[float], None]

    @property
    def target(self) -> Path:
        return self.folder / self.digest

    @property
    def part(self) -> Path:
        return part_of(self.folder, self.digest)


def place(
    folder: Path,
    digest: str,
    source: Source,
    *,
    say: Say,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make `folder/digest/files` hold exactly the version's files; running twice equals once.

    Args:
        folder: of the service, on the volume; made when it is missing.
        digest: of the weights, as the release's record has it.
        source: asked only for what is missing or wrong.
        say: gets one line for everything that people may want to know.
        sleep: pauses between attempts, in seconds.

    Raises:
        PermanentError: the source has other bytes (`checksum-mismatch`) or refuses; the volume is
            full (`volume-full`), not writable (`volume-not-writable`) or has no locks.
        TransientError: the source does not answer.
    """
    work = _Placing(folder, digest, source, say, sleep)
    with writing(folder):
        if not work.part.exists() and _is_right(work, aloud=False):
            say(f"weights {digest} are there, every byte checked")
            return
        folder.mkdir(parents=True, exist_ok=True)
        waits = partial(say, f"another pod places {digest}: waiting for it")
        with locked(folder, digest, wait=waits):
            # Looked at again: whoever held the lock before may have made it right.
            try:
                if not _is_right(work, aloud=True):
                    _make_right(work)
            except OSError:
                # Half a version on a full volume helps nobody.
                shutil.rmtree(work.part, ignore_errors=True)
                raise
            remove(work.part)


def _is_right(work: _Placing, *, aloud: bool) -> bool:
    if work.target.is_symlink() or not work.target.is_dir():
        return False
    manifest = manifest_in(work.target, work.digest)
    damaged = {MANIFEST: "is damaged"}
    wrong = damaged if manifest is None else faults(work.target / FILES, manifest)
    if aloud:
        for path, fault in wrong.items():
            work.say(f"on the volume {path} {fault}: mending it")
    return not wrong


def _make_right(work: _Placing) -> None:
    manifest = _manifest(work)
    started = time.monotonic()
    if work.target.is_symlink() or work.target.is_file():
        remove(work.target)
    if work.target.is_dir():
        _mend(work, manifest)
    else:
        _fetch(work, manifest, manifest.files)
        _appear(work, manifest)
    size_bytes = sum(file.size_bytes for file in manifest.files)
    seconds = time.monotonic() - started
    work.say(f"weights {work.digest} placed: {size_bytes / 1e6:.1f} MB in {seconds:.1f} s")


def _manifest(work: _Placing) -> ModelManifest:
    for place_ in (work.target, work.part):
        known = manifest_in(place_, work.digest)
        if known is not None:
            return known
    body = _patiently(work, lambda: work.source.get(MANIFEST))
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise PermanentError(
            f"{MANIFEST} of the version is no text",
            code="checksum-mismatch",
            hint="restore it in the object store, or register the model again",
        ) from error
    manifest = checked_manifest(text, work.digest, owner=f"{MANIFEST} in the object store")
    (work.part / FILES).mkdir(parents=True, exist_ok=True)
    _write_manifest(work.part, manifest)
    return manifest


def _mend(work: _Placing, manifest: ModelManifest) -> None:
    """Bring the faulty files of a version that pods may be reading; each changes at once."""
    files = work.target / FILES
    if files.is_symlink():
        remove(files)
    files.mkdir(exist_ok=True)
    # First: a link to a folder makes what lies below it look right.
    _remove_strangers(files, manifest)
    wrong = faults(files, manifest)
    torn = [file for file in manifest.files if file.path in wrong]
    _fetch(work, manifest, torn)
    for file in torn:
        goal = files / file.path
        goal.parent.mkdir(parents=True, exist_ok=True)
        (work.part / FILES / file.path).replace(goal)
        sync_folder(goal.parent)
    _write_manifest(work.target, manifest)


def _fetch(work: _Placing, manifest: ModelManifest, wanted: Sequence[ModelFile]) -> None:
    """Bring `wanted` into the part, whole and right."""
    files = work.part / FILES
    files.mkdir(parents=True, exist_ok=True)
    if manifest_in(work.part, work.digest) is None:
        _write_manifest(work.part, manifest)
    missing = [file for file in wanted if fault_of(files / file.path, file)]
    _require_room(work, missing)
    with ThreadPoolExecutor(WORKERS) as pool:
        # list() lets the first error out.
        list(pool.map(lambda file: _fetch_file(work, files / file.path, file), missing))


def _require_room(work: _Placing, missing: Sequence[ModelFile]) -> None:
    there = (work.part / FILES / file.path for file in missing)
    needed = sum(file.size_bytes for file in missing)
    needed -= sum(path.stat().st_size for path in there if path.is_file())
    found = os.statvfs(work.folder)
    free = found.f_bavail * found.f_frsize
    if needed > free:
        remove(work.part)
        raise volume_full(
            work.folder, f"{needed / 1e6:.1f} MB more are needed, {free / 1e6:.1f} MB are free"
        )


def _fetch_file(work: _Placing, path: Path, file: ModelFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        remove(path)
    resumed = path.is_file()
    got = _patiently(work, lambda: _download(work, path, file))
    if got != file.sha256 and resumed:
        # What an earlier run left may be what is wrong.
        path.unlink()
        got = _patiently(work, lambda: _download(work, path, file))
    if got != file.sha256:
        path.unlink()
        raise PermanentError(
            f"the file {file.path} in the object store has sha256 {got}, {file.sha256} was "
            "registered",
            code="checksum-mismatch",
            hint="its bytes changed after it was registered: restore it, or register it again",
        )
    work.say(f"{file.path}: {file.size_bytes / 1e6:.1f} MB fetched")


def _download(work: _Placing, path: Path, file: ModelFile) -> str:
    """Append what is missing of a file and return the sha256 of the whole, hex."""
    state = hashlib.sha256()
    with path.open("a+b") as output:
        output.seek(0)
        while block := output.read(_BLOCK_BYTES):
            state.update(block)
        size_bytes = output.tell()
        if size_bytes > file.size_bytes:
            output.truncate(0)
            state, size_bytes = hashlib.sha256(), 0
        if size_bytes < file.size_bytes:
            for chunk in work.source.chunks(file.path, offset=size_bytes):
                output.write(chunk)
                state.update(chunk)
                size_bytes += len(chunk)
                if size_bytes > file.size_bytes:  # another file: no need for all of it
                    break
        output.flush()
        os.fsync(output.fileno())
    return state.hexdigest()


def _appear(work: _Placing, manifest: ModelManifest) -> None:
    files = work.part / FILES
    _remove_strangers(files, manifest)
    for place_, _, _ in os.walk(work.part):
        sync_folder(Path(place_))
    try:
        work.part.rename(work.target)
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise
        # Another node was faster, and this one had not heard of it (NFS keeps names for seconds).
        if not _is_right(work, aloud=True):
            _mend(work, manifest)
    sync_folder(work.folder)


def _remove_strangers(files: Path, manifest: ModelManifest) -> None:
    for path in reversed(strangers(files, manifest)):  # what lies in a folder before the folder
        remove(files / path)


def _write_manifest(folder: Path, manifest: ModelManifest) -> None:
    draft = folder / f".{MANIFEST}"
    with draft.open("w") as file:
        file.write(to_text(manifest))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / MANIFEST)
    sync_folder(folder)


def _patiently(work: _Placing, attempt: Callable[[], Result]) -> Result:
    for pause_s in _PAUSES_S:
        try:
            return attempt()
        except TransientError as error:
            work.say(f"{error.message}: again in {pause_s:.0f} s")
            work.sleep(pause_s)
    return attempt()
