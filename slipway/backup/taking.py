"""Take a backup: list, send what is not there, list again, and last of all say that it exists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from slipway.backup.codec import Codec
from slipway.backup.repository import Known, Repository
from slipway.backup.sending import Pace, Sender
from slipway.backup.source import ChangedError, Layout, SourceFile, layout_of, scan
from slipway.core.backup.collection import Run, RunKind
from slipway.core.backup.manifest import Chunk, FileEntry, Manifest, Origin
from slipway.core.backup.names import TAKEN, ManifestName
from slipway.core.backup.ulid import ulid
from slipway.core.errors import InputError, PermanentError, TransientError

DAY_S = 86_400
_PASSES = 2
"""How often a file that changes meanwhile is read before the run gives up."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be backed up.

    Args:
        model: of the registry.
        folder: with the files of one version.
        origin: what the manifest says of where they came from.
        checksums: sha256 by path, where the registry states them.
        reads_all: also files whose size and times are those of the backup before.
        lifetime_s: the run ends before so many seconds have passed.
    """

    model: str
    folder: Path
    origin: Origin
    checksums: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    reads_all: bool = False
    lifetime_s: int = DAY_S


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a run did.

    Args:
        read_bytes: of files that were read; those that looked unchanged were not.
        sent_bytes: of chunks that were not there.
    """

    name: ManifestName
    manifest: Manifest
    read_bytes: int
    sent_bytes: int
    sent_chunks: int


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a run gets from outside.

    Args:
        now_ns: since 1970 UTC.
        random_bits: returns 80 of them as an integer.
        pace: how fast it may go.
    """

    now_ns: Callable[[], int]
    random_bits: Callable[[], int]
    pace: Pace = field(default_factory=Pace)


def take(repository: Repository, codec: Codec, order: Order, around: Surroundings) -> Taken:
    """Back up a folder; when it returns, the backup is there.

    Killed at any point nothing of it exists but chunks, which the next run finds.

    Raises:
        InputError: what `scan` raises; `source-unstable`, files change while they are read.
        ConflictError: `run-ended`, a removal has ended this run.
        TransientError: `chunks-vanished`, somebody removes chunks; run it again.
        SlipwayError: of the store.
    """
    begun_ns = around.now_ns()
    name = ManifestName(order.model, _taken(begun_ns), ulid(begun_ns, around.random_bits()))
    run = Run(
        writer=name.writer,
        kind=RunKind.WRITES,
        manifest=name.key,
        lifetime_s=order.lifetime_s,
    )
    with repository.writing(run, now_ns=begun_ns) as known:
        sender = Sender(
            store=repository.store,
            codec=codec,
            known=known,
            chunk_bytes=repository.settings.cuts.chunk_bytes,
            pace=around.pace,
            reads_back=not repository.settings.checks_chunks,
        )
        before = {} if order.reads_all else _unchanged(repository, order.model, known)
        entries = _read_until_stable(repository, order, sender, before)
        manifest = _manifest(repository, order, begun_ns, entries)
        _require_all(repository, manifest, known)
        repository.commit(name, manifest)
    return Taken(
        name=name,
        manifest=manifest,
        read_bytes=sender.read_bytes,
        sent_bytes=sender.sent_bytes,
        sent_chunks=sender.sent_chunks,
    )


@dataclass(frozen=True)
class _Entry:
    """A file with the chunks that it had when it was listed."""

    file: SourceFile
    layout: Layout
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class _Former:
    """A file of the backup before, with its chunks as they may be named now."""

    entry: FileEntry
    chunks: tuple[Chunk, ...]

    def looks_like(self, file: SourceFile) -> bool:
        """Return whether a file has its size and times: then it is taken to be the same."""
        now = (file.size_bytes, file.mtime_ns, file.ctime_ns)
        return now == (self.entry.size_bytes, self.entry.mtime_ns, self.entry.ctime_ns)


def _unchanged(repository: Repository, model: str, known: Known) -> Mapping[str, _Former]:
    """Return the files of the backup before by path, those whose chunks are all there."""
    manifest = _backup_before(repository, model)
    if manifest is None:
        return {}
    found = {}
    for entry in manifest.files:
        chunks = [manifest.chunks[index] for index in entry.chunks]
        if all(chunk.digest in known.chunks for chunk in chunks):
            now = (replace(item, epoch=known.chunks[item.digest].epoch) for item in chunks)
            found[entry.path] = _Former(entry, tuple(now))
    return found


def _backup_before(repository: Repository, model: str) -> Manifest | None:
    """Return the newest backup that can be read; it only saves reading files that look the same.

    One that is damaged, or removed at this moment, must not keep the next one from being taken: it
    is looked at by those who verify.
    """
    for name in reversed(repository.manifests(model)):
        try:
            return repository.load(name)
        except PermanentError as error:
            if error.code not in {"manifest-damaged", "version-unknown"}:
                raise
    return None


def _read_until_stable(
    repository: Repository, order: Order, sender: Sender, before: Mapping[str, _Former]
) -> list[_Entry]:
    read: dict[str, _Entry] = {}
    listed = scan(order.folder)
    for _ in range(_PASSES):
        due = [file for file in listed if file.path not in read or read[file.path].file != file]
        for entry in _entries(repository, due, sender, before):
            read[entry.file.path] = entry
        listed = scan(order.folder)
        if all(file.path in read and read[file.path].file == file for file in listed):
            return [read[file.path] for file in listed]
    changed = [
        file.path for file in listed if file.path not in read or read[file.path].file != file
    ]
    raise InputError(
        f"{order.folder} changes while it is read: {', '.join(changed[:3])}"
        f"{', …' if len(changed) > 3 else ''}",
        code="source-unstable",
        hint="back up a snapshot of the volume, or when nothing writes to it; nothing was kept",
    )


def _entries(
    repository: Repository,
    files: Iterable[SourceFile],
    sender: Sender,
    before: Mapping[str, _Former],
) -> Iterator[_Entry]:
    """Yield what was read; a file that has changed since it was listed is left out."""
    layouts: dict[str, tuple[SourceFile, Layout]] = {}
    for file in files:
        former = before.get(file.path)
        if former is not None and former.looks_like(file):
            yield _Entry(file, Layout((), former.entry.holes), former.chunks)
            continue
        try:
            layouts[file.path] = (file, layout_of(file, repository.settings.cuts))
        except ChangedError:
            continue
    due = [(file, piece) for file, layout in layouts.values() for piece in layout.pieces]
    chunks = sender.chunks_of(due)
    for file, layout in layouts.values():
        of_file = [chunks[file.path, piece.offset_bytes] for piece in layout.pieces]
        whole = tuple(chunk for chunk in of_file if chunk is not None)
        if len(whole) == len(of_file):
            yield _Entry(file, layout, whole)


def _manifest(
    repository: Repository, order: Order, begun_ns: int, entries: Iterable[_Entry]
) -> Manifest:
    places: dict[Chunk, int] = {}
    files = []
    for entry in entries:
        indexes = tuple(places.setdefault(chunk, len(places)) for chunk in entry.chunks)
        files.append(
            FileEntry(
                path=entry.file.path,
                size_bytes=entry.file.size_bytes,
                mode=entry.file.mode,
                mtime_ns=entry.file.mtime_ns,
                ctime_ns=entry.file.ctime_ns,
                chunks=indexes,
                holes=entry.layout.holes,
                sha256=order.checksums.get(entry.file.path, ""),
            )
        )
    return Manifest(
        repository=repository.settings.id,
        model=order.model,
        taken_at_ns=begun_ns,
        algorithm=repository.settings.algorithm,
        origin=order.origin,
        files=tuple(files),
        chunks=tuple(places),
        tags=order.tags,
    )


def _require_all(repository: Repository, manifest: Manifest, known: Known) -> None:
    """Look again for what was named without being sent: others may have removed it by hand."""
    reused = {key for key in manifest.chunk_keys() if known.chunks.get(key.digest) == key}
    gone = reused - set(repository.stored_chunks()) if reused else set()
    if gone:
        raise TransientError(
            f"{len(gone)} chunks were removed from {repository.place} while they were relied on",
            code="chunks-vanished",
            hint="run it again: they are sent then; find out what removes objects there",
        )


def _taken(at_ns: int) -> str:
    return time.strftime(TAKEN, time.gmtime(at_ns // 10**9))
