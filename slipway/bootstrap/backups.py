"""Where the repositories of backups are, and with which keys they are opened."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.adapters.backups.folder import FolderBackupStore
from slipway.adapters.backups.s3 import S3BackupStore
from slipway.backup.codec import Codec, PlainCodec
from slipway.backup.pacing import limited
from slipway.backup.repository import Repository, make_repository, open_repository
from slipway.backup.sending import Pace, Progress
from slipway.backup.taking import Surroundings
from slipway.core.backup.facts import Finding, facts_of
from slipway.core.backup.names import TAKEN
from slipway.core.backup.settings import Algorithm, RepositorySettings
from slipway.core.backup.ulid import ulid
from slipway.core.errors import InputError, PermanentError
from slipway.settings import BackupSettings

if TYPE_CHECKING:
    from slipway.backup.recovering import Replica
    from slipway.backup.sealing import Keys

_S3 = "s3://"

Store = S3BackupStore | FolderBackupStore


@dataclass(frozen=True)
class Opened:
    """A repository with what its chunks are named and opened by."""

    repository: Repository
    codec: Codec


def store_of(place: str, settings: BackupSettings) -> Store:
    """Return the store of a place.

    Args:
        place: `s3://BUCKET`, `s3://BUCKET/PREFIX`, or a folder.
        settings: how S3 is reached.

    Raises:
        InputError: `place-invalid`.
    """
    if not place.startswith(_S3):
        if "://" in place or not place:
            raise InputError(
                f"{place!r} is no place for backups",
                code="place-invalid",
                hint="write s3://BUCKET/PREFIX, or the path of a folder",
            )
        return FolderBackupStore(Path(place))
    bucket, _, prefix = place.removeprefix(_S3).partition("/")
    if not bucket:
        raise InputError(
            f"{place!r} names no bucket",
            code="place-invalid",
            hint="write s3://BUCKET/PREFIX",
        )
    return S3BackupStore(
        bucket=bucket,
        prefix=prefix.strip("/"),
        endpoint=settings.s3_endpoint,
        plain_boto=settings.plain_boto,
    )


def open_backups(settings: BackupSettings, place: str | None = None) -> Opened:
    """Open a repository that is there.

    Args:
        settings: of this process.
        place: another one than the settings name, for example a replica.

    Raises:
        SlipwayError: see `open_repository` and `codec_of`.
    """
    where = place or settings.repository
    repository = open_repository(store_of(where, settings), where)
    return Opened(repository, _codec(repository.settings, settings))


def replicas_of(settings: BackupSettings, places: Iterable[str]) -> list[Replica]:
    """Return what opens each replica once, when it is needed; raises as `open_backups` does."""
    return [cache(lambda place=place: open_backups(settings, place).repository) for place in places]


def make_backups(
    settings: BackupSettings, place: str | None = None, algorithm: Algorithm | None = None
) -> Opened:
    """Make a repository where nothing is, after looking what its store does; or open it.

    Args:
        settings: of this process.
        place: another one than the settings name.
        algorithm: that names chunks; None: any in a repository that is there, else sha256.

    Raises:
        InputError: `hash-unfit`, chunks are named in another way there, or are encrypted.
        SlipwayError: see `examine` and `make_repository`.
    """
    where = place or settings.repository
    try:
        opened = open_backups(settings, where)
        _require_algorithm(algorithm, opened.codec.algorithm)
        return opened
    except PermanentError as error:
        if error.code != "repository-missing":
            raise
    store, keys = store_of(where, settings), _keys(settings)
    if keys is not None:
        _require_algorithm(algorithm, Algorithm.HMAC_SHA256)
    findings = examine_place(store)
    repository = make_repository(
        store,
        where,
        at_ns=time.time_ns(),
        random_bits=secrets.randbits(80),
        facts=facts_of(findings, probed=time.strftime(TAKEN, time.gmtime())),
        key_check=keys.check if keys else "",
        algorithm=algorithm or Algorithm.SHA256,
    )
    return Opened(repository, _codec(repository.settings, settings))


def _require_algorithm(asked: Algorithm | None, used: str) -> None:
    if asked is not None and asked != used:
        raise InputError(
            f"chunks are to be named by {asked}, and are named by {used} there",
            code="hash-unfit",
            hint="leave --hash out, or make a new repository; keyed names come with the key",
        )


def examine_place(store: Store, *, with_bucket: bool = False) -> list[Finding]:
    """Return what a store does (`examine`)."""
    from slipway.adapters.backups.probes.doctor import examine

    name = ulid(time.time_ns(), secrets.randbits(80))
    return examine(store, name=name, with_bucket=with_bucket)


def surroundings(settings: BackupSettings, progress: Progress | None = None) -> Surroundings:
    """Return clock, chance, and how fast a run may go."""
    pace = Pace(threads=settings.threads)
    if settings.bytes_per_s is not None:
        pace = replace(pace, limit=limited(settings.bytes_per_s))
    if progress is not None:
        pace = replace(pace, progress=progress)
    return Surroundings(now_ns=time.time_ns, random_bits=lambda: secrets.randbits(80), pace=pace)


def _keys(settings: BackupSettings) -> Keys | None:
    if settings.key_file is None:
        return None
    from slipway.backup.sealing import read_keys

    return read_keys(settings.key_file)


def _codec(repository: RepositorySettings, settings: BackupSettings) -> Codec:
    if repository.algorithm is not Algorithm.HMAC_SHA256 and settings.key_file is None:
        return PlainCodec(repository.algorithm)  # without loading what encrypts
    from slipway.backup.sealing import codec_of

    return codec_of(repository, _keys(settings))
