"""`slipway backup init | doctor | forget-run`: the repository itself."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli.backup.common import Place, opened, say
from slipway.core.errors import InputError, PermanentError
from slipway.settings import backup_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway.core.backup.facts import Finding
    from slipway.core.backup.settings import StoreFacts


class Hash(StrEnum):
    """What may name chunks that are not encrypted."""

    SHA256 = "sha256"
    BLAKE3 = "blake3"


def init(
    place: Place = None,
    hash_: Annotated[
        Hash | None,
        typer.Option("--hash", help="names chunks: sha256, or blake3 in half the processor time"),
    ] = None,
) -> None:
    """Make a repository where nothing is, after probing its store; twice equals once."""
    from slipway.bootstrap.backups import make_backups
    from slipway.core.backup.settings import Algorithm

    algorithm = None if hash_ is None else Algorithm(hash_.value)
    repository = make_backups(backup_settings(place), algorithm=algorithm).repository
    settings = repository.settings
    sealed = "encrypted" if settings.key_check else f"not encrypted, named by {settings.algorithm}"
    say(f"repository {settings.id} in {repository.place}, chunks are {sealed}")
    _say_facts(settings.store, settings.checks_chunks)


def doctor(
    place: Place = None,
    with_bucket: Annotated[
        bool,
        typer.Option("--with-bucket", help="probe versions and locks in a bucket made for it"),
    ] = False,
) -> None:
    """Look what the store really keeps of its promises; a repository there remembers it."""
    import time

    from slipway.bootstrap.backups import examine_place, open_backups, store_of
    from slipway.core.backup.facts import facts_of
    from slipway.core.backup.names import TAKEN

    settings = backup_settings(place)
    findings = examine_place(store_of(settings.repository, settings), with_bucket=with_bucket)
    _print(findings)
    facts = facts_of(findings, probed=time.strftime(TAKEN, time.gmtime()))
    try:
        known = open_backups(settings).repository.with_facts(facts).settings
        _say_facts(facts, known.checks_chunks)
    except PermanentError as error:
        if error.code != "repository-missing":
            raise
        _say_facts(facts, facts.checks_sha256)
        say("there is no repository yet: slipway backup init")


def forget_run(
    run: Annotated[str, typer.Argument(help="as the refusal named it")], place: Place = None
) -> None:
    """Let a run that was killed stand in nobody's way; only if it really runs no more."""
    repository = opened(place)[1].repository
    found = [item for item in repository.runs() if item.writer == run]
    if not found:
        raise InputError(
            f"no run {run} is under way in {repository.place}",
            code="run-unknown",
            hint="it has ended by itself; go on",
        )
    repository.forget(found[0])
    say(f"run {run} is forgotten")


def _print(findings: Iterable[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("a good store", "this one", "what it answered", box=None)
    for item in findings:
        colour = {"yes": "green", "no": "red"}.get(item.kept.value, "yellow")
        table.add_row(item.promise, f"[{colour}]{item.kept.value}[/]", item.said)
    Console().print(table)


def _say_facts(facts: StoreFacts, checks_chunks: bool) -> None:
    say(
        "it refuses bytes that changed on their way"
        if checks_chunks
        else "it takes bytes that changed on their way: each chunk is read back after it was sent"
    )
    say(
        "it writes a key only once when asked to: runs may work side by side"
        if facts.conditional_writes
        else "it honours no conditional writes: only one run may work at a time"
    )


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    app.command()(init)
    app.command()(doctor)
    app.command("forget-run")(forget_run)
