"""A benchmark as Markdown, for a person who decides or looks back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from slipway.bench.summary import FORMULAS
from slipway.bench.values import RequestTable, Status, Target
from slipway.core.service import BenchmarkPolicy
from slipway.core.verdicts import Evidence, GateResult

_SHOWN_ERRORS = 5


def markdown(
    results: Sequence[GateResult],
    evidence: Sequence[Evidence],
    *,
    table: RequestTable,
    target: Target,
    policy: BenchmarkPolicy,
) -> str:
    """Return the report of one benchmark: verdicts, figures with formulas, what failed.

    Args:
        results: what the gates said.
        evidence: what they read.
        table: every recorded request.
        target: who was asked.
        policy: what was asked.
    """
    units = {item.name: item.unit for item in evidence}
    head = (
        f"{len(table.rows)} requests after {policy.warmup_requests} for warm-up, "
        f"{policy.concurrency} streams in flight, up to {policy.max_tokens} tokens each, "
        f"in {table.window_s:.1f} s against `{target.url}`. "
        f"The load generator took {table.client_cpu_percent:.0f} % of one core."
    )
    rows = [
        "| gate | verdict | measured | limit | n |",
        "|---|---|---:|---:|---:|",
        *(_row(result, units.get(result.gate.evidence, "")) for result in results),
    ]
    # Below the table: the run page cuts wide cells.
    formulas = [
        f"- {result.gate.name} = {FORMULAS[result.gate.evidence]}"
        for result in results
        if result.gate.evidence in FORMULAS
    ]
    return "\n".join([head, "", *rows, "", *formulas, *_failures(table), ""])


def _row(result: GateResult, unit: str) -> str:
    gate = result.gate
    sign = "≤" if gate.bound.value == "at_most" else "≥"
    cells = (
        gate.name,
        f"**{result.verdict}**",
        "–" if math.isnan(result.value) else f"{result.value:.4g} {unit}",
        f"{sign} {gate.threshold:.4g} {unit}",
        str(result.n),
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _failures(table: RequestTable) -> list[str]:
    errors = Counter((row.status, row.error) for row in table.rows if row.status is not Status.OK)
    if not errors:
        return []
    lines = [
        f"| {status} | {count} | {_cell(error)} |"
        for (status, error), count in errors.most_common(_SHOWN_ERRORS)
    ]
    left = len(errors) - len(lines)
    tail = ["", f"…and {left} more kinds of failures."] if left > 0 else []
    return ["", "| how it failed | times | what was said |", "|---|---:|---|", *lines, *tail]


def _cell(text: str) -> str:
    # A server's own words may hold what ends a cell or begins markup.
    return " ".join(text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;").split())
