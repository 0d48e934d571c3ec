"""`slipway backup nightly | drill`: the runbooks, run from here."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.cli.backup.common import say, size
from slipway.cli.release import quiet_orchestrator, require_orchestrator, settings


def nightly(
    model: Annotated[str, typer.Argument(help="only of this one; all in use when left out")] = "",
    everything: Annotated[bool, typer.Option("--everything", help="read back every chunk")] = False,
) -> None:
    """Back up the versions that are in use, read back, heal, copy to replicas, let go."""
    _begin()
    from flows.backup import backup

    done = backup(model, everything=everything)
    for row in done["backups"]:
        say(f"{row['backup']}: {row['MB']} MB, {row['reused']} of it was there; {row['in use']}")
    say(f"{size(done['read back bytes'])} read back, {done['verified share']:.1%} is verified")
    for digest, where in done["healed"].items():
        say(f"healed: chunk {digest} from {where}")
    say(f"replicas: {done['replicas']}")
    say(f"removed: {done['removed']}")


def drill(
    service: Annotated[str, typer.Argument(help="all with a live version when left out")] = "",
) -> None:
    """Restore what a service runs, start its model server on it, ask the golden prompts."""
    _begin()
    from flows.restore_drill import restore_drill

    for name, seen in restore_drill(service).items():
        say(f"{name}: restored in {seen['restored_s']} s, answered in {seen['recovery_s']} s")
        say(f"  {seen['said']}")
        if seen["answers_as_tested"]:
            say(f"  {seen['answers_as_tested']} answers as in the release's own test")


def _begin() -> None:
    settings()
    quiet_orchestrator()
    require_orchestrator()


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    app.command()(nightly)
    app.command()(drill)
