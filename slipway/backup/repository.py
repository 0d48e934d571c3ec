"""What lies in a repository: its settings, backups, runs that are under way, and removals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from slipway.backup.values import (
    DamagedValueError,
    get_if_there,
    get_until,
    read_value,
    to_stored,
    with_sum,
    without_sum,
)
from slipway.core.backup import manifest as manifests
from slipway.core.backup import names, settings
from slipway.core.backup.collection import Condemned, Run, current_epoch, reusable
from slipway.core.backup.cuts import CutRules
from slipway.core.backup.drills import Drill
from slipway.core.backup.manifest import Manifest
from slipway.core.backup.names import ChunkKey, ManifestName
from slipway.core.backup.settings import Algorithm, RepositorySettings, StoreFacts
from slipway.core.backup.sums import sha256_sum
from slipway.core.backup.ulid import time_of, ulid
from slipway.core.backup.verification import UNREADABLE, Look, Record, ledger_of
from slipway.core.errors import ConflictError, PermanentError
from slipway.ports.backups import BackupStore

_Value = TypeVar("_Value")

_UNSEEN = Look(0)


@dataclass(frozen=True)
class Known:
    """What a run that writes may name, and the epoch of what it stores itself."""

    epoch: int
    chunks: Mapping[str, ChunkKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why a backup must not be removed.

    Args:
        reason: for people.
        by: who says so.
        at_ns: when, since 1970 UTC.
    """

    reason: str
    by: str
    at_ns: int


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
        stored, is_right = get_until(
            lambda: self._manifest(name),
            lambda found: self._if_there(name.key + names.SUM) == manifests.sum_of(found),
        )
        if stored is None or not is_right:
            self._manifest(name)  # removed meanwhile, with its sum?
            raise PermanentError(
                f"manifest {name} has not the sha256 that was stored beside it",
                code="manifest-damaged",
                hint="bring it back from a replica: slipway backup repair --replica PLACE",
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
        self._create(name.key, stored)
        # Read back: the one object that everything hangs on, also on a store that checks nothing.
        found, is_right = get_until(
            lambda: self.store.get(name.key), lambda came: came in {stored, b""}
        )
        if found == stored:
            return
        if not is_right:
            raise PermanentError(
                f"the store gave back another manifest for {name} than it was given",
                code="checksum-mismatch",
                hint="do not trust this store: slipway backup doctor",
            )
        raise ConflictError(
            f"backup {name} took longer than it had said, and a removal has ended it",
            code="run-ended",
            hint="run it again: what was stored since is found and not sent twice",
        )

    def end(self, run: Run) -> bool:
        """Keep a run from committing for ever; return False when it has committed already."""
        return self._create(run.manifest, b"") or not self.store.get(run.manifest)

    def is_ended(self, run: Run) -> bool:
        """Return whether a run was ended that has not committed."""
        return self._if_there(run.manifest) == b""

    def runs(self) -> list[Run]:
        """Return the runs that say that they are under way."""
        return [
            run
            for item in self.store.list(names.WRITERS)
            if (run := self._read_if_there(Run, item.key)) is not None
        ]

    @contextmanager
    def registered(self, run: Run, *, now_ns: int) -> Iterator[None]:
        """Say that a run is under way meanwhile.

        Raises:
            ConflictError: `repository-busy`, another run is under way in a store that honours no
                conditional writes: there only one may be.
        """
        self._create(names.writer_key(run.writer), to_stored(run))
        try:
            if not self.settings.store.conditional_writes:
                self._require_alone(run, now_ns)
            yield
        finally:
            self.forget(run)

    @contextmanager
    def writing(self, run: Run, *, now_ns: int) -> Iterator[Known]:
        """Register a run that writes, and give what it may name; raises what `registered` raises.

        In this order: it says that it is there, looks, and says what it knows. A removal waits for
        it until it has.
        """
        with self.registered(run, now_ns=now_ns):
            known = self.known()
            self.restate(replace(run, epoch=known.epoch))
            yield known

    def _require_alone(self, run: Run, now_ns: int) -> None:
        """Of two that look after they have said so at least one sees the other, and gives way."""
        for other in self.runs():
            if other.is_overdue(time_of(other.writer), now_ns) or not run.is_disturbed_by(other):
                continue
            raise ConflictError(
                f"a run that {other.kind.value}, {other.writer}, is under way in {self.place}, "
                "whose store lets no two work side by side",
                code="repository-busy",
                hint=f"wait for it; when it was killed: slipway backup forget-run {other.writer}",
            )

    def restate(self, run: Run) -> None:
        """Say anew what a registered run says of itself."""
        self._put(names.writer_key(run.writer), to_stored(run))

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
        return self._create(names.condemned_key(removal.epoch), to_stored(removal))

    def close(self, removal: Condemned) -> None:
        """Keep the epoch of a removal that is through, and forget those before it."""
        through = Condemned(epoch=removal.epoch, through=True)
        self._put(names.condemned_key(removal.epoch), to_stored(through))
        earlier = (item for item in self.removals() if item.epoch < removal.epoch and item.through)
        self.store.delete([names.condemned_key(item.epoch) for item in earlier])

    def known(self) -> Known:
        """Return what a run that has registered may name; nothing that was found bad.

        In this order: what is condemned, then chunks.
        """
        removals = self.removals()
        ledger = ledger_of(record for _, record in self.records())
        good = (key for key in self.stored_chunks() if not ledger.get(str(key), _UNSEEN).why)
        return Known(
            epoch=current_epoch(item.epoch for item in removals),
            chunks=reusable(good, removals),
        )

    def stored_chunks(self) -> Iterator[ChunkKey]:
        """Yield the chunks that the store lists."""
        return (key for key, _ in self.stored_sizes())

    def stored_sizes(self) -> Iterator[tuple[ChunkKey, int]]:
        """Yield the chunks that the store lists, with the bytes that are stored for each."""
        for item in self.store.list(names.CHUNKS):
            key = names.read_chunk_key(item.key)
            if key is not None and key.algorithm == self.settings.algorithm:
                yield key, item.size_bytes

    def holds(self) -> Mapping[ManifestName, Hold]:
        """Return why people forbade to remove backups."""
        found = {}
        for item in self.store.list(names.HOLDS):
            name = names.held_manifest(item.key)
            hold = self._read_if_there(Hold, item.key)
            if name is not None and hold is not None:
                found[name] = hold
        return found

    def hold(self, name: ManifestName, hold: Hold) -> None:
        """Forbid to remove a backup; a second reason takes the place of the first.

        Raises:
            PermanentError: `version-unknown`.
        """
        self._manifest(name)
        self._put(names.hold_key(name), to_stored(hold))

    def release_hold(self, name: ManifestName) -> None:
        """Allow again to remove a backup; may be repeated."""
        self.store.delete([names.hold_key(name)])

    def note_drill(self, name: str, drill: Drill) -> None:
        """Write down what a restore drill saw, under a ULID."""
        self._put(names.drill_key(name), to_stored(drill))

    def drills(self) -> list[Drill]:
        """Return what restore drills saw, oldest first."""
        found = (self._read_if_there(Drill, item.key) for item in self.store.list(names.DRILLS))
        return sorted((drill for drill in found if drill is not None), key=lambda one: one.at_ns)

    def record(self, name: str, record: Record) -> None:
        """Write down what a verification saw, under a ULID."""
        self._put(names.record_key(name), to_stored(record))

    def records(self) -> Iterator[tuple[str, Record]]:
        """Yield what verifications saw, by key; `UNREADABLE` for a record that is damaged.

        It is knowledge, and no order: one that is lost must not keep a backup from being taken.
        """
        for item in self.store.list(names.VERIFIED):
            try:
                record = self._read_if_there(Record, item.key)
            except DamagedValueError:
                record = UNREADABLE
            if record is not None:
                yield item.key, record

    def forget_records(self, keys: Sequence[str]) -> None:
        """Remove records that say nothing any more."""
        self.store.delete(keys)

    def with_facts(self, facts: StoreFacts) -> Repository:
        """Write down what the store was found to do; returns the repository that knows it."""
        known = replace(self.settings, store=facts)
        self._put(names.REPOSITORY, with_sum(settings.to_storage(known)))
        return replace(self, settings=known)

    def _read_if_there(self, kind: type[_Value], key: str) -> _Value | None:
        return read_value(self.store, kind, key, self.place)

    def _if_there(self, key: str) -> bytes | None:
        return get_if_there(self.store, key)

    def _put(self, key: str, body: bytes) -> None:
        self.store.put(key, body, checksum=sha256_sum(body))

    def _create(self, key: str, body: bytes) -> bool:
        return self.store.create(key, body, checksum=sha256_sum(body))


def open_repository(store: BackupStore, place: str) -> Repository:
    """Open a repository that is there.

    Raises:
        PermanentError: `repository-missing`, `repository-foreign` or `repository-newer`;
            `repository-damaged`, it has backups, and `repo.json` is not what was written.
    """
    stored, is_right = get_until(
        lambda: get_if_there(store, names.REPOSITORY), lambda came: without_sum(came) is not None
    )
    if stored is None:
        raise PermanentError(
            f"{place} has no repository",
            code="repository-missing",
            hint="make one there: slipway backup init",
        )
    text = without_sum(stored) if is_right else stored
    try:
        return Repository(store, settings.from_storage(text or b"", place), place)
    except PermanentError as error:
        if error.code != "repository-foreign" or not any(True for _ in store.list(names.MANIFESTS)):
            raise
        raise PermanentError(
            f"{names.REPOSITORY} of {place} is not what was written",
            code="repository-damaged",
            hint=f"remove {names.REPOSITORY}, and make it as it was, with the same key or --hash: "
            "slipway backup init; backups stay",
        ) from error


def make_repository(
    store: BackupStore,
    place: str,
    *,
    at_ns: int,
    random_bits: int,
    facts: StoreFacts,
    key_check: str = "",
    algorithm: Algorithm = Algorithm.SHA256,
) -> Repository:
    """Make a repository where nothing is, or open the one that is there.

    Args:
        store: where it will lie.
        place: for people.
        at_ns: now, since 1970 UTC.
        random_bits: 80 of them.
        facts: what the store does.
        key_check: of the key that chunks are encrypted with; "": they are not.
        algorithm: that names chunks which are not encrypted.

    Raises:
        PermanentError: `repository-foreign`, something else lies there.
    """
    made = RepositorySettings(
        id=ulid(at_ns, random_bits),
        cuts=CutRules(),
        algorithm=Algorithm.HMAC_SHA256 if key_check else algorithm,
        key_check=key_check,
        store=facts,
    )
    body = with_sum(settings.to_storage(made))
    first = next(iter(store.list("")), None)
    if first is not None and first.key != names.REPOSITORY and not _is_ours(first.key):
        raise PermanentError(
            f"{place} holds {first.key}, which is nothing of a repository",
            code="repository-foreign",
            hint="name an empty bucket or prefix; nothing was changed there",
        )
    store.create(names.REPOSITORY, body, checksum=sha256_sum(body))
    return open_repository(store, place)


def _is_ours(key: str) -> bool:
    return key.startswith(names.FOLDERS)
