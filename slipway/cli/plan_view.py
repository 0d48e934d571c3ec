"""`slipway release SERVICE VERSION --dry-run`: the steps of a plan, and the reason of each."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from slipway.core.feasibility.decide import ways_text
from slipway.core.feasibility.price import price_text
from slipway.core.feasibility.values import Feasibility, Way
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
    if plan.feasibility is not None:
        _print_feasibility(console, plan.feasibility, unfinished=plan.unfinished)
    console.print("nothing was written", highlight=False)


def _print_feasibility(console: Console, found: Feasibility, *, unfinished: bool) -> None:
    said = {
        Way.BLUE_GREEN: "can be carried out now, beside the stable slot (blue_green)",
        Way.QUEUE: "waits for room first (queue)",
        None: "cannot be carried out now",
    }
    if unfinished and found.way is None:
        said[None] = "may not come to its end as it is now; it goes on all the same"
    lines = [
        said[found.way],
        *(f"  {item}" for item in found.shortfalls),
        *(f"  {text}" for text in ways_text(found)),
        f"overlap: {price_text(found.overlap)}",
        *(f"note: {note}" for note in found.notes),
        *(f"not seen: {item.what} ({item.why})" for item in found.unseen),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
