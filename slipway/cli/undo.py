"""`slipway abort | rollback | approve`: stop a release, undo it, or let it rise."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from slipway.cli.release import Service, quiet_orchestrator, require_orchestrator, settings


def abort(
    service: Service,
    reason: Annotated[str, typer.Option(help="stands in the record and in the event")] = "",
) -> None:
    """Stop the release that is under way and wait until it has been taken back."""
    _begin()
    from flows.abort import abort as flow

    _print_abort(flow(service, reason), service)


def rollback(service: Service) -> None:
    """Take an unfinished release back, else bring the users to the version before."""
    _begin()
    from flows.rollback import rollback as flow

    outcome = flow(service)
    if "aborted" in outcome:
        _print_abort(outcome, service)
        return
    typer.echo(f"{outcome['release']}: {outcome['outcome']} ({outcome['reason']})")
    typer.echo(f"evidence: {outcome['evidence']}")


def approve(
    service: Service,
    percent: Annotated[int, typer.Argument(help="the weight that the step goes to")],
) -> None:
    """Allow a step of a canary that waits for a person."""
    settings()
    from tasks.approve import approve_step

    typer.echo(approve_step(service, percent))


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(abort)
    app.command()(rollback)
    app.command()(approve)


def _begin() -> None:
    settings()
    quiet_orchestrator()
    require_orchestrator()


def _print_abort(outcome: dict[str, Any], service: str) -> None:
    release, phase, reason = (outcome[key] for key in ("release", "phase", "reason"))
    if outcome["aborted"]:
        typer.echo(f"{release}: {phase} ({reason})")
    elif phase == "done":
        typer.echo(f"{release} has ended well: to go back, slipway rollback {service}")
    else:
        typer.echo(f"nothing to abort: {release or service} {phase} ({reason})")
