"""`slipway backup verify | repair | give-up`: is it right, and if not, make it so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.backup.finding import find
from slipway.cli.backup.common import Place, Which, opened, say, shown_progress, size
from slipway.core.errors import InputError, PermanentError

if TYPE_CHECKING:
    from slipway.backup.repairing import Repaired

_MONTH_DAYS = 28
"""Everything is read within four weeks when a run reads a part each night."""


def verify(
    versions: Annotated[
        list[str] | None, typer.Argument(metavar="[VERSION]...", help="all when left out")
    ] = None,
    place: Place = None,
    nightly: Annotated[
        bool,
        typer.Option("--nightly", help="what was never read, and a 28th of the rest, oldest first"),
    ] = False,
) -> None:
    """Read stored chunks back and note what is right; fails when something is not."""
    from slipway.backup.verifying import verify as read_back
    from slipway.bootstrap.backups import surroundings

    settings, backups = opened(place)
    repository = backups.repository
    only = [find(repository, text) for text in versions] if versions else None
    stored = sum(count for _, count in repository.stored_sizes())
    budget = stored // _MONTH_DAYS if nightly else None
    # How much of it is due, or belongs to some versions alone, shows while it goes on.
    with shown_progress("read", 0 if nightly or only else stored) as progress:
        around = surroundings(settings, progress)
        done = read_back(repository, backups.codec, around, only=only, budget_bytes=budget)
    say(
        f"{done.chunks} chunks looked at, {size(done.read_bytes)} read; "
        f"{done.verified_share:.1%} of {len(done.standings)} backups is verified"
    )
    for record in done.unreadable:
        say(f"damaged: {record}: what it said was verified was read anew")
    for key, why in done.bad.items():
        say(f"bad: chunk {key.digest}: {why}")
    for name, why in done.damaged.items():
        say(f"damaged: {name}: {why}")
    if done.broken or done.damaged:
        raise PermanentError(
            f"{len(done.broken) + len(done.damaged)} backups cannot be restored as they are",
            code="backup-broken",
            hint="heal them: slipway backup repair --folder MODEL=PATH --replica PLACE",
        )


def repair(
    place: Place = None,
    folder: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=PATH", help="files of the model, to take good bytes from"),
    ] = None,
    replica: Annotated[
        list[str] | None, typer.Option(metavar="PLACE", help="repository that has copies")
    ] = None,
) -> None:
    """Heal what `verify` found bad, from replicas and from files here."""
    from slipway.backup.repairing import Remedies
    from slipway.backup.repairing import repair as heal
    from slipway.bootstrap.backups import replicas_of, surroundings

    settings, backups = opened(place)
    folders: dict[str, list[Path]] = {}
    for item in folder or ():
        model, sign, path = item.partition("=")
        if not sign:
            raise InputError(
                f"--folder is {item!r}", code="arguments-wrong", hint="write MODEL=PATH"
            )
        folders.setdefault(model, []).append(Path(path))
    remedies = Remedies(replicas=replicas_of(settings, replica or ()), folders=folders)
    done = heal(backups.repository, backups.codec, surroundings(settings), remedies)
    _show(done)
    _require_whole(done)


def _show(done: Repaired) -> None:
    for name, own in done.back.items():
        say(f"back: {name}, as {own}")
    for key, where in done.healed.items():
        say(f"healed: chunk {key.digest} from {where}")
    for key in done.was_right:
        say(f"right after all: chunk {key.digest}")
    for key, why in done.lost.items():
        say(f"lost: chunk {key.digest}: {why}")
    for name, why in done.damaged.items():
        say(f"damaged: {name}: {why}")
    if not (done.back or done.healed or done.was_right or done.lost or done.damaged):
        say("nothing is known to be bad")


def _require_whole(done: Repaired) -> None:
    if done.lost:
        raise PermanentError(
            f"{len(done.lost)} chunks cannot be healed; {len(done.broken)} backups need them: "
            f"{', '.join(map(str, done.broken[:3]))}",
            code="backup-broken",
            hint="name more places with --folder and --replica; the next backup sends them anew "
            "if its files still have them",
        )
    if done.damaged:
        raise PermanentError(
            f"the manifests of {len(done.damaged)} backups are damaged, and nothing is pruned",
            code="backup-broken",
            hint="name a replica that has them with --replica, or let them go: "
            "slipway backup give-up VERSION",
        )


def give_up(version: Which, place: Place = None) -> None:
    """Let go a backup whose manifest is damaged and that no replica has."""
    from slipway.backup.recovering import give_up as let_go

    repository = opened(place)[1].repository
    name = find(repository, version)
    let_go(repository, name)
    say(f"given up: {name}; what only it needed goes with the next prune")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    app.command()(verify)
    app.command()(repair)
    app.command("give-up")(give_up)
