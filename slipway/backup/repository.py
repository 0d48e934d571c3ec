"""What lies in a repository: its settings, backups, runs that are under way, and removals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from slipway.backup.ulid import ulid
from slipway.core.backup import manifest as manifests
from slipway.core.backup import names, settings
from slipway.core.backup.collection import Condemned, Run, current_epoch, reusable
from slipway.core.backup.cuts import CutRules
from slipway.core.backup.manifest import Manifest
from slipway.core.backup.names import ChunkKey, ManifestName
from slipway.core.backup.settings import RepositorySettings, StoreFacts
from slipway.core.errors import ConflictError, PermanentError
from slipway.core.strict_json import UnfitJsonError, read_stored, to_json
from slipway.ports.backups import BackupStore

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Known:
    """What a run that writes may name, and the epoch of what it stores itself."""

    epoch: int
    chunks: Mapping[str, ChunkKey]


@dataclass(frozen=True)
class Repository:
    """An open repository.

    Args:
        store: where it lies.
        settings: as `repo.json` states them.
        place: for people.
    """

    store: BackupStore
    settings: RepositorySettings
    place: str

    def manifests(self, model: str | None = None) -> list[ManifestName]:
        """Return the backups that are there, oldest first; all, or those of a model.

        A run that was ended before it could commit left an empty object: it is none.
        """
        prefix = names.MANIFESTS if model is None else names.folder_of_model(model)
        found = (
            names.read_manifest_key(item.key)
            for item in self.store.list(prefix)
            if item.size_bytes > 0
        )
        return sorted(
            (name for name in found if name is not None),
            key=lambda name: (name.taken, name.writer, name.model),
        )

    def load(self, name: ManifestName) -> Manifest:
        """Return a backup's manifest.

        Raises:
            PermanentError: `version-unknown`, `manifest-damaged` or `manifest-newer`.
        """
        stored = self._manifest(name)
        if self._if_there(name.key + names.SUM) != manifests.sum_of(stored):
            self._manifest(name)  # removed meanwhile, with its sum?
            raise PermanentError(
                f"manifest {name} has not the sha256 that was stored beside it",
                code="manifest-damaged",
                hint="take it from a replica: slipway backup repair",
            )
        return manifests.from_storage(stored, str(name))

    def _manifest(self, name: ManifestName) -> bytes:
        stored = self._if_there(name.key)
        if stored is None or not stored:
            raise PermanentError(
                f"there is no backup {name} in {self.place}",
                code="version-unknown",
                hint="list those there are: slipway backup list",
            )
        return stored

    def commit(self, name: ManifestName, manifest: Manifest) -> None:
        """Make a backup exist; may be repeated with the same manifest.

        Raises:
            ConflictError: `run-ended`, a removal has ended this run meanwhile.
        """
        stored = manifests.to_storage(manifest)
        self._put(name.key + names.SUM, manifests.sum_of(stored))
        if self._create(name.key, stored) or self.store.get(name.key) == stored:
            return
        raise ConflictError(
            f"backup {name} took longer than it had said, and a removal has ended it",
            code="run-ended",
            hint="run it again: what was stored since is found and not sent twice",
        )

    def end(self, run: Run) -> bool:
        """Keep a run from committing for ever; return False when it has committed already."""
        return self._create(run.manifest, b"") or not self.store.get(run.manifest)

    def runs(self) -> list[Run]:
        """Return the runs that say that they are under way."""
        return [
            run
            for item in self.store.list(names.WRITERS)
            if (run := self._read_if_there(Run, item.key)) is not None
        ]

    @contextmanager
    def registered(self, run: Run) -> Iterator[None]:
        """Say that a run is under way meanwhile."""
        self._create(names.writer_key(run.writer), to_json(run).encode())
        try:
            yield
        finally:
            self.forget(run)

    def restate(self, run: Run) -> None:
        """Say anew what a registered run says of itself."""
        self._put(names.writer_key(run.writer), to_json(run).encode())

    def forget(self, run: Run) -> None:
        """Take back what a run said of itself; may be repeated."""
        self.store.delete([names.writer_key(run.writer)])

    def removals(self) -> list[Condemned]:
        """Return what removals have published, by epoch."""
        return [
            removal
            for item in self.store.list(names.CONDEMNED)
            if (removal := self._read_if_there(Condemned, item.key)) is not None
        ]

    def publish(self, removal: Condemned) -> bool:
        """Publish a removal; False when another one has taken its epoch."""
        return self._create(names.condemned_key(removal.epoch), to_json(removal).encode())

    def close(self, removal: Condemned) -> None:
        """Keep the epoch of a removal that is through, and forget those before it."""
        through = Condemned(epoch=removal.epoch, through=True)
        self._put(names.condemned_key(removal.epoch), to_json(through).encode())
        earlier = (item for item in self.removals() if item.epoch < removal.epoch and item.through)
        self.store.delete([names.condemned_key(item.epoch) for item in earlier])

    def known(self) -> Known:
        """Return what a run that has registered may name. In this order: lists, then chunks."""
        removals = self.removals()
        return Known(
            epoch=current_epoch(item.epoch for item in removals),
            chunks=reusable(self.stored_chunks(), removals),
        )

    def stored_chunks(self) -> Iterator[ChunkKey]:
        """Yield the chunks that the store lists."""
        for item in self.store.list(names.CHUNKS):
            key = names.read_chunk_key(item.key)
            if key is not None and key.algorithm == self.settings.algorithm:
                yield key

    def _read_if_there(self, kind: type[_Value], key: str) -> _Value | None:
        stored = self._if_there(key)
        return None if stored is None else _read(kind, stored, key, self.place)

    def _if_there(self, key: str) -> bytes | None:
        try:
            return self.store.get(key)
        except PermanentError as error:
            if error.code != "object-missing":
                raise
            return None

    def _put(self, key: str, body: bytes) -> None:
        self.store.put(key, body, sha256=hashlib.sha256(body).hexdigest())

    def _create(self, key: str, body: bytes) -> bool:
        return self.store.create(key, body, sha256=hashlib.sha256(body).hexdigest())


def open_repository(store: BackupStore, place: str) -> Repository:
    """Open a repository that is there.

    Raises:
        PermanentError: `repository-missing`, `repository-foreign` or `repository-newer`.
    """
    try:
        stored = store.get(names.REPOSITORY)
    except PermanentError as error:
        if error.code != "object-missing":
            raise
        raise PermanentError(
            f"{place} has no repository",
            code="repository-missing",
            hint="make one there: slipway backup init",
        ) from error
    return Repository(store, settings.from_storage(stored, place), place)


def make_repository(
    store: BackupStore, place: str, *, at_ns: int, random_bits: int, facts: StoreFacts
) -> Repository:
    """Make a repository where nothing is, or open the one that is there.

    Raises:
        PermanentError: `repository-foreign`, something else lies there.
    """
    made = RepositorySettings(id=ulid(at_ns, random_bits), cuts=CutRules(), store=facts)
    body = settings.to_storage(made)
    first = next(iter(store.list("")), None)
    if first is not None and first.key != names.REPOSITORY and not _is_ours(first.key):
        raise PermanentError(
            f"{place} holds {first.key}, which is nothing of a repository",
            code="repository-foreign",
            hint="name an empty bucket or prefix; nothing was changed there",
        )
    store.create(names.REPOSITORY, body, sha256=hashlib.sha256(body).hexdigest())
    return open_repository(store, place)


def _is_ours(key: str) -> bool:
    ours = (names.CHUNKS, names.CONDEMNED, names.DRILLS, names.HOLDS, names.MANIFESTS)
    return key.startswith((*ours, names.VERIFIED, names.WRITERS))


def _read(kind: type[_Value], stored: bytes, key: str, place: str) -> _Value:
    try:
        value: _Value = read_stored(kind, stored, key)
    except UnfitJsonError as error:
        raise PermanentError(
            f"{key} of {place} is damaged: {error}",
            code="repository-damaged",
            hint="look at the object; when nothing runs in the repository it may be removed",
        ) from error
    return value
