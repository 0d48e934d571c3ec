"""Bring back a backup whose manifest is damaged, from a replica, or give it up.

A manifest never changes: who has read one may rely on it. So what comes back has a name of its own,
and is committed like any backup; only then the damaged one goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from slipway.backup.codec import Codec
from slipway.backup.copying import Copier, require_fit
from slipway.backup.replicating import copies_in
from slipway.backup.repository import Repository
from slipway.backup.taking import Surroundings
from slipway.backup.verifying import read_library
from slipway.core.backup.names import SUM, ManifestName
from slipway.core.backup.ulid import time_of, ulid
from slipway.core.errors import InputError, PermanentError

Replica = Callable[[], Repository]
"""Opens a repository when it is needed: one that is away keeps nobody from healing without it."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What a recovery did.

    Args:
        back: damaged backup → the name that it has now.
        damaged: backups that no replica has, with what is wrong with them.
    """

    back: Mapping[ManifestName, ManifestName]
    damaged: Mapping[ManifestName, str]


def recover(
    repository: Repository, replicas: Sequence[Replica], codec: Codec, around: Surroundings
) -> Recovered:
    """Bring back every backup whose manifest is damaged and of which a replica has a copy.

    May be repeated; killed anywhere, the next one goes on.

    Raises:
        InputError: `replica-unfit`.
        SlipwayError: of a store.
    """
    library = read_library(repository)
    back: dict[ManifestName, ManifestName] = {}
    lost = dict(library.damaged)
    # What a recovery that was killed has brought, and not put in its place any more.
    brought = {manifest.copy_of: name for name, manifest in library.manifests.items()}
    for opened in replicas if lost else ():
        replica = opened()
        require_fit(repository, replica)
        copies = copies_in(replica, of=lost)
        copier = Copier(source=replica, target=repository, codec=codec, around=around)
        for name in [name for name in lost if name.key in copies]:
            copy, manifest = copies[name.key]
            own = brought.get(copy.key)
            if own is None:
                # As old as it was: names tell the order, and how old the youngest is.
                own = replace(name, writer=ulid(time_of(name.writer), around.random_bits()))
                try:
                    copier.commit(own, copy, manifest)
                except PermanentError as error:
                    if error.code not in {"chunk-damaged", "chunk-missing"}:
                        raise
                    lost[name] = f"{lost[name]}; in {replica.place}: {error.message}"
                    continue
            _succeed(repository, name, own)
            back[name] = own
            del lost[name]
    return Recovered(back=back, damaged=lost)


def give_up(repository: Repository, name: ManifestName) -> None:
    """Let go a backup whose manifest is damaged; the next removal takes what only it needed.

    Raises:
        InputError: `not-damaged`, it can be read; `backup-held`.
    """
    if name in repository.holds():
        raise InputError(
            f"{name} is held",
            code="backup-held",
            hint=f"allow it first: slipway backup release-hold {name}",
        )
    if name not in read_library(repository, [name]).damaged:
        raise InputError(
            f"the manifest of {name} is right",
            code="not-damaged",
            hint="keep it, or let the policy remove it: slipway backup prune",
        )
    _let_go(repository, name)


def _succeed(repository: Repository, name: ManifestName, own: ManifestName) -> None:
    """Put what came back in the place of what is damaged, also where somebody holds it."""
    hold = repository.holds().get(name)
    if hold is not None:
        repository.hold(own, hold)
        repository.release_hold(name)
    _let_go(repository, name)


def _let_go(repository: Repository, name: ManifestName) -> None:
    """Remove a damaged manifest; the sum goes first, so that one killed in between is found."""
    repository.store.delete([name.key + SUM])
    repository.store.delete([name.key])
