"""`slipway adopt`: a service that is live without Slipway is taken over, or given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from slipway.cli.release import Service, quiet_orchestrator, settings
from slipway.core.errors import InputError

if TYPE_CHECKING:
    from tasks.adoption import AdoptionPlan


def adopt(
    service: Service,
    version: Annotated[
        str, typer.Argument(help="of the model that is live, as the registry names it")
    ] = "",
    apply: Annotated[bool, typer.Option("--apply", help="do it; else nothing is written")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="give it back as it was")] = False,
    managed_elsewhere: Annotated[
        bool,
        typer.Option(
            "--managed-elsewhere", help="no other program undoes the changes: that is seen to"
        ),
    ] = False,
) -> None:
    """Take over a service that is live, as its stable slot; twice equals once (administrator)."""
    if bool(version) == undo or (apply and undo):
        raise InputError(
            "say either which version is live, or --undo",
            code="arguments-wrong",
            hint=f"slipway adopt {service} VERSION [--apply], or slipway adopt {service} --undo",
        )
    settings()
    quiet_orchestrator()
    from tasks.adopting import opened

    work = opened(service)
    if undo:
        from tasks.giving_back import give_back

        typer.echo(give_back(work))
        return
    from tasks.adoption import adopt as take_over
    from tasks.adoption import planned_adoption, refused

    if apply:
        typer.echo(take_over(work, version, managed_elsewhere=managed_elsewhere))
        return
    plan = planned_adoption(work, version, managed_elsewhere=managed_elsewhere)
    _print_plan(plan)
    if plan.obstacles:
        raise refused(plan)


def _print_plan(plan: AdoptionPlan) -> None:
    lines = [
        *(["an adoption has begun and goes on:"] if plan.unfinished else []),
        *(f"{number}. {step}" for number, step in enumerate(plan.steps, 1)),
        *(f"note: {note}" for note in plan.notes),
        "nothing was written",
    ]
    console = Console()
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command()(adopt)
