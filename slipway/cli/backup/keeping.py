"""`slipway backup prune | hold | release-hold | cron`: what is kept, and what goes."""

from __future__ import annotations

import getpass
import time
from typing import Annotated

import typer

from slipway.backup.finding import find
from slipway.cli.backup.common import Place, Which, opened, say, size
from slipway.core.backup.periods import Period
from slipway.core.errors import InputError, PermanentError


def prune(
    *,
    place: Place = None,
    last: Annotated[int, typer.Option(min=0, help="newest verified ones of each model")] = 3,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PERIOD=COUNT",
            help="hourly, daily, weekly, monthly or yearly: the newest of each of so many; "
            "daily=7, weekly=4 and monthly=6 when left out",
            show_default=False,
        ),
    ] = None,
    keep_tag: Annotated[list[str] | None, typer.Option(help="may be given several times")] = None,
    in_use: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL=VERSION", help="version of the registry that is deployed"),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="do it; else nothing is removed")] = False,
) -> None:
    """Remove what the policy lets go; shows the plan first."""
    from slipway.backup.removing import remove
    from slipway.backup.retaining import USD_PER_GB_MONTH, plan_prune
    from slipway.bootstrap.backups import surroundings
    from slipway.core.backup.retention import Policy

    settings, backups = opened(place)
    repository = backups.repository
    policy = Policy(
        last=last,
        periods=_periods(keep),
        tags=frozenset(keep_tag or ()),
    )
    plan = plan_prune(repository, policy, now_ns=time.time_ns(), uses=_uses(in_use or ()))
    for name, why in plan.kept.items():
        say(f"keeps   {name}: {', '.join(why)}")
    for name in plan.going:
        say(f"removes {name}")
    usd = plan.freed_bytes / 1e9 * USD_PER_GB_MONTH
    say(f"{len(plan.going)} backups go, {size(plan.freed_bytes)}, {usd:.2f} USD each month")
    if plan.damaged:
        raise PermanentError(
            f"{len(plan.damaged)} manifests are damaged: nobody knows which chunks they need",
            code="manifest-damaged",
            hint="nothing was removed; bring them back: slipway backup repair --replica PLACE, or "
            "let them go: slipway backup give-up VERSION",
        )
    if not apply:
        say("nothing was removed; with --apply it is")
        return
    around = surroundings(settings)
    done = remove(repository, plan.going, now_ns=around.now_ns, random_bits=around.random_bits)
    say(f"{len(done.manifests)} backups and {done.chunks} chunks removed")
    if done.waits_for:
        waits = ", ".join(f"{run.writer} ({run.kind.value})" for run in done.waits_for)
        say(f"the rest goes when these runs have ended, with the next prune: {waits}")


def _periods(texts: list[str] | None) -> dict[Period, int]:
    if texts is None:
        return {Period.DAILY: 7, Period.WEEKLY: 4, Period.MONTHLY: 6}
    found = {}
    for text in texts:
        name, _, count = text.partition("=")
        if name not in set(Period) or not count.isdecimal():
            raise InputError(
                f"--keep is {text!r}",
                code="arguments-wrong",
                hint=f"write one of {', '.join(Period)}, and how many: daily=7",
            )
        found[Period(name)] = int(count)
    return found


def _uses(texts: list[str] | tuple[str, ...]) -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for text in texts:
        model, sign, version = text.partition("=")
        if not sign:
            raise InputError(
                f"--in-use is {text!r}", code="arguments-wrong", hint="write MODEL=VERSION"
            )
        found[model, version] = ("deployed",)
    return found


def hold(
    version: Which,
    reason: Annotated[str, typer.Option(help="for whoever finds it later")],
    place: Place = None,
) -> None:
    """Forbid to remove a backup, whatever the policy says."""
    from slipway.backup.repository import Hold

    repository = opened(place)[1].repository
    name = find(repository, version)
    repository.hold(name, Hold(reason=reason, by=getpass.getuser(), at_ns=time.time_ns()))
    say(f"{name} is held: {reason}")


def release_hold(version: Which, place: Place = None) -> None:
    """Allow again to remove a backup."""
    repository = opened(place)[1].repository
    name = find(repository, version)
    repository.release_hold(name)
    say(f"{name} is held no more")


def cron(
    *,
    name: Annotated[str, typer.Option(help="of the CronJob and its account")] = "slipway-backup",
    namespace: Annotated[str, typer.Option(help="of the claim")],
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim with the models")],
    model: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL=FOLDER", help="folder on the claim; may be given several times"
        ),
    ],
    secret: Annotated[
        str, typer.Option(help="its keys become variables: SLIPWAY_BACKUP_REPOSITORY, AWS_…")
    ],
    image: Annotated[str, typer.Option(help="with Slipway, its entrypoint slipway")],
    in_use: Annotated[
        list[str] | None, typer.Option(metavar="MODEL=VERSION", help="never removed")
    ] = None,
    schedule: Annotated[
        str, typer.Option("--at", metavar="SCHEDULE", help="as cron writes it")
    ] = "17 2 * * *",
    zone: Annotated[str, typer.Option(help="time zone of the schedule")] = "Etc/UTC",
) -> None:
    """Print a CronJob that backs up a claim every night, for clusters without Prefect."""
    import yaml

    from slipway.manifests.backups import Nightly, nightly_objects

    _uses(in_use or ())  # refuses now what would fail every night
    nightly = Nightly(
        name=name,
        namespace=namespace,
        claim=claim,
        folders=_folders(model),
        in_use=in_use or (),
        image=image,
        secret=secret,
        schedule=schedule,
        time_zone=zone,
    )
    typer.echo(yaml.safe_dump_all(nightly_objects(nightly), sort_keys=False), nl=False)


def _folders(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        model, sign, folder = text.partition("=")
        parts = folder.split("/")
        if not sign or not model or ".." in parts or folder.startswith("/"):
            raise InputError(
                f"--model is {text!r}",
                code="arguments-wrong",
                hint="write MODEL=FOLDER, the folder on the claim: chat=team/chat",
            )
        found[model] = folder
    return found


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    app.command()(prune)
    app.command()(hold)
    app.command("release-hold")(release_hold)
    app.command()(cron)
