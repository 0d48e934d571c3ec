"""`slipway release SERVICE VERSION --dry-run`: the steps of a plan, and the reason of each."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from slipway.core.release.plan import ReleasePlan


def print_plan(plan: ReleasePlan) -> None:
    """Print what a release would do."""
    console = Console()
    console.print(f"[bold]{plan.release_id}[/]: {plan.begins}", highlight=False)
    if plan.steps:
        table = Table("stage", "what it does", "why")
        for step in plan.steps:
            style = "dim" if step.skipped else ""
            table.add_row(step.stage, step.does, step.why, style=style)
        console.print(table)
        console.print(f"if a step fails: {plan.on_failure}", highlight=False)
        console.print(
            f"from the first user on the candidate to the end: {plan.users_moved_s:g} s and longer",
            highlight=False,
        )
    console.print("nothing was written", highlight=False)
