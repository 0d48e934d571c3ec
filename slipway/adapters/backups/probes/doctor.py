"""Probe a store of backups, and leave nothing behind."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from slipway.adapters import s3_api
from slipway.adapters.backups.folder import FolderBackupStore
from slipway.adapters.backups.probes.door import Door
from slipway.adapters.backups.probes.integrity import conditions, integrity
from slipway.adapters.backups.probes.keeping import in_own_bucket
from slipway.adapters.backups.probes.serving import access, serving
from slipway.adapters.backups.s3 import S3BackupStore
from slipway.core.backup import facts
from slipway.core.backup.facts import Finding, Kept
from slipway.core.backup.names import DOCTOR
from slipway.core.backup.sums import sha256_sum, sum_of
from slipway.core.backup.ulid import time_of
from slipway.core.errors import PermanentError
from slipway.ports.backups import BackupStore

_STALE_S = 3_600.0
_RACERS = 16
_ROUNDS = 20
_SAMPLE = b"slipway backup doctor"


def examine(
    store: S3BackupStore | FolderBackupStore,
    *,
    name: str,
    with_bucket: bool = False,
    now_s: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Finding]:
    """Return what a store does.

    It writes below `doctor/`, and removes that again, with what killed examinations left.

    Args:
        store: to probe.
        name: ULID, which names what this examination writes.
        with_bucket: probe versions and locks too, in a bucket that is made and removed again.
        now_s: since 1970 UTC.
        sleep: waits until what was locked may be removed.

    Raises:
        SlipwayError: it cannot be reached, has no such bucket, or a right is missing; says which.
    """
    _require_rights(store, f"{DOCTOR}{name}/rights")
    try:
        if isinstance(store, FolderBackupStore):
            return list(_of_folder(store, f"{DOCTOR}{name}/"))
        prefix = f"{store.prefix}/" if store.prefix else ""
        server = store.signed_http()
        door = Door(server=server, bucket=store.bucket, prefix=f"{prefix}{DOCTOR}{name}/")
        with _mapped(store):
            found = [
                *integrity(door),
                *conditions(door),
                *serving(door, now_s=now_s()),
                *access(door),
            ]
            if with_bucket:
                own = f"{store.bucket[:40]}-doctor-{name[-10:].lower()}"
                found += list(in_own_bucket(Door(server=server, bucket=own, prefix=""), sleep))
        return found
    finally:
        _clean(store, name, now_s())


def _require_rights(store: BackupStore, key: str) -> None:
    """Write, read, list and remove as a backup does: its errors say what is not allowed."""
    store.put(key, _SAMPLE, checksum=sha256_sum(_SAMPLE))
    if store.get(key) != _SAMPLE:
        raise PermanentError(
            f"the store gave back other bytes for {key} than it was given",
            code="checksum-mismatch",
            hint="do not trust it",
        )
    list(store.list(key))
    store.delete([key])


@contextmanager
def _mapped(store: S3BackupStore) -> Iterator[None]:
    name = store.url("")
    with s3_api.mapped("probe", name):
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise s3_api.unreachable("probe", name, error) from error


def _clean(store: BackupStore, name: str, now_s: float) -> None:
    keys = []
    for item in store.list(DOCTOR):
        other = item.key.removeprefix(DOCTOR).partition("/")[0]
        if other == name or _age_s(other, now_s) > _STALE_S:
            keys.append(item.key)
    store.delete(keys)


def _age_s(name: str, now_s: float) -> float:
    try:
        return now_s - time_of(name) / 10**9
    except ValueError:  # somebody else's
        return 0.0


def _of_folder(store: FolderBackupStore, prefix: str) -> Iterator[Finding]:
    """A folder is asked what the disk below may not do: link, and link only once."""
    for probe, kind in facts.SUM_PROBES.items():
        refused = False
        try:
            store.put(f"{prefix}changed", b"1", checksum=sum_of(kind, b"2"))
        except PermanentError as error:
            refused = error.code == "checksum-mismatch"
        yield Finding(
            probe=probe,
            promise=facts.PROMISES[probe],
            kept=Kept.YES if refused else Kept.NO,
        )
    once = [_creates(store, f"{prefix}once", number) for number in range(2)]
    yield Finding(
        probe=facts.CREATE_ONCE,
        promise="writes a key only once when asked to",
        kept=Kept.YES if once == [True, False] else Kept.NO,
    )
    winners = set()
    with ThreadPoolExecutor(_RACERS) as pool:
        for race in range(_ROUNDS):
            key = f"{prefix}race-{race}"
            won = pool.map(lambda number, key=key: _creates(store, key, number), range(_RACERS))
            winners.add(sum(won))
    yield Finding(
        probe=facts.ONE_WINNER,
        promise=f"lets one of {_RACERS} writers of a new key win, {_ROUNDS} times",
        kept=Kept.YES if winners == {1} else Kept.NO,
        said=f"winners: {min(winners)} to {max(winners)}",
    )


def _creates(store: BackupStore, key: str, number: int) -> bool:
    body = str(number).encode()
    return store.create(key, body, checksum=sha256_sum(body))
