"""Copy backups to a second repository: another bucket, another region, a disk that is carried away.

A replica is a repository of its own, with its own removals; what it says of a backup is its own
manifest, which names the one that it is a copy of.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from slipway.backup.codec import Codec
from slipway.backup.copying import Copier, require_fit
from slipway.backup.repository import Repository
from slipway.backup.taking import Surroundings
from slipway.backup.verifying import read_library
from slipway.core.backup.manifest import Manifest
from slipway.core.backup.names import TAKEN, ManifestName
from slipway.core.backup.ulid import ulid
from slipway.core.errors import PermanentError

_UNREADABLE = {"version-unknown", "manifest-damaged", "chunk-damaged", "chunk-missing"}


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """What a replication did.

    Args:
        copied: backups that are in the replica now and were not before.
        skipped: backups that cannot be read or have a bad chunk, with why.
        sent_bytes: to the replica.
        lag_s: how much older the replica's newest backup is than the repository's; by model.
    """

    copied: tuple[ManifestName, ...]
    skipped: Mapping[ManifestName, str]
    sent_bytes: int
    lag_s: Mapping[str, float | None]


def replicate(
    source: Repository, replica: Repository, codec: Codec, around: Surroundings
) -> Replicated:
    """Copy what the replica does not have, the newest backup first.

    Killed anywhere, the next one goes on. Nothing is ever removed from the replica: that is what
    its own `prune` is for, so that who can empty the one cannot empty the other.

    Raises:
        InputError: `replica-unfit`, the two name chunks in different ways, or are the same.
        SlipwayError: of a store.
    """
    require_fit(source, replica)
    there = copies_in(replica, of=source.manifests())
    in_replica = {name.key for name in replica.manifests()}
    copier = Copier(source=source, target=replica, codec=codec, around=around)
    copied, skipped, sent_bytes = [], {}, 0
    for name in reversed(source.manifests()):
        if name.key in there:
            continue
        try:
            manifest = source.load(name)
            if manifest.copy_of in in_replica:  # it came back from there (`recovering`)
                continue
            own = replace(name, writer=ulid(around.now_ns(), around.random_bits()))
            sent_bytes += copier.commit(own, name, manifest)
            copied.append(name)
        except PermanentError as error:
            if error.code not in _UNREADABLE:
                raise
            # One that was removed since it was listed is nothing that anybody has to mend.
            if name in source.manifests(name.model):
                skipped[name] = error.message
    return Replicated(
        copied=tuple(copied),
        skipped=skipped,
        sent_bytes=sent_bytes,
        lag_s=lag_s(source, replica),
    )


def lag_s(source: Repository, replica: Repository) -> Mapping[str, float | None]:
    """Return by model how much older the replica's newest backup is, in seconds; None: it has none.

    Raises:
        SlipwayError: of a store.
    """
    here, there = _newest_s(source), _newest_s(replica)
    return {
        model: max(0.0, taken_s - there[model]) if model in there else None
        for model, taken_s in here.items()
    }


def _newest_s(repository: Repository) -> dict[str, float]:
    # The oldest come first, the newest of a model stays.
    return {
        name.model: float(calendar.timegm(time.strptime(name.taken, TAKEN)))
        for name in repository.manifests()
    }


def copies_in(
    replica: Repository, *, of: Iterable[ManifestName]
) -> dict[str, tuple[ManifestName, Manifest]]:
    """Return the copies that a replica has of some backups, by the key of the original.

    Of other seconds than these nothing is read.
    """
    taken = {(name.model, name.taken) for name in of}
    library = read_library(replica, where=lambda name: (name.model, name.taken) in taken)
    return {manifest.copy_of: (name, manifest) for name, manifest in library.manifests.items()}
