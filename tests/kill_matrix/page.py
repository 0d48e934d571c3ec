"""The page of docs/design that holds the matrix as a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.kill_matrix.cells import ROUNDS, SIDES, Cell, Results, Round, is_right

PAGE = Path("docs/design/0009-kill-matrix.md")

_HEAD = """\
# 0009: The kill matrix

Written by `python -m tests.kill_matrix`, which goes on where it was; outcomes are kept in
`tests/kill_matrix/results.jsonl`. A process is ended by SIGKILL right before or right after each
write that it makes to the outside (API server, image registry, model registry, evidence), on a
real sandbox, while 50 streaming requests a second go to the service. Then `slipway reconcile`
runs, and the command once more when the killed process had not come so far as to leave a request.

A cell is right when the record ends as the round says (`done`; `rolled_back` when a version is
taken back), the alias names the version that serves, no preview, subset, pod or lock is left
over, and no request of a user failed or was cut short. `=`: that moment is the one after the write
before, which ended less than 0.1 s earlier; such a cell is not run.

"""

_WHY = """\
Right when run again, unless it says otherwise. Exit code 4 is a server that did not answer a
command within 10 s: Prefect's gave 503 at that time, its SQLite locked by the runs that dead runs
had its worker start (that worker is paused since). A held lease was a defect: nobody gave back
the lock of a process that died after the end of its release; reconcile does now.
"""


def page(results: Results) -> str:
    """Return the page."""
    lines = [
        "| round | writes | cells | run | right | requests | failed or cut |",
        "|---|---|---|---|---|---|---|",
    ]
    for round_ in ROUNDS:
        of = _of(results, round_)
        right = sum(is_right(row) for row in of)
        requests, harmed = (sum(row[name] for row in of) for name in ("requests", "harmed"))
        writes, cells = len(results.writes.get(str(round_), ())), len(results.due(round_))
        lines.append(
            f"| {round_} | {writes} | {cells} | {len(of)} | {right} | {requests:,} | {harmed} |"
        )
    text = _HEAD + "\n".join(lines) + "\n" + _times(results.rows)
    return text + "".join(_by_write(results, round_) for round_ in ROUNDS) + _wrong(results)


def _of(results: Results, round_: Round) -> list[dict[str, Any]]:
    return [row for row in results.rows if row["round"] == str(round_)]


def _times(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    commits = Counter(row["commit"] for row in rows)
    told = ", ".join(f"{count} at {commit}" for commit, count in commits.items())
    middle_s = sorted(row["took_s"] for row in rows)[len(rows) // 2]
    return f"\nA cell takes {middle_s:.0f} s (median). Cells by commit:\n{told}.\n"


def _by_write(results: Results, round_: Round) -> str:
    """Return a table of a round: what was written, and how it ended on either side of it."""
    due = {cell.name: cell for cell in results.due(round_)}
    known = {row["cell"]: row for row in _of(results, round_)}
    if not due:
        return ""
    text = f"\n## {round_}\n\n| write | what | " + " | ".join(SIDES) + " |\n"
    text += "|---" * (2 + len(SIDES)) + "|\n"
    for number, write in enumerate(results.writes[str(round_)], start=1):
        names = [Cell(round_, side, number).name for side in SIDES]
        marks = [_mark(known.get(name), name in due) for name in names]
        text += f"| {number} | {write['what']} | {' | '.join(marks)} |\n"
    return text


def _mark(row: dict[str, Any] | None, due: bool) -> str:
    if row is None:
        return "not run" if due else "="
    return str(row["ended"]) if is_right(row) else "WRONG"


def _wrong(results: Results) -> str:
    """Return what went wrong, also where it went right when it was run again."""
    right = {row["cell"] for row in results.rows if is_right(row)}
    told: dict[str, list[str]] = {}
    for row in results.every:
        if not is_right(row):
            since = "" if row["cell"] in right else " (**still so**)"
            problem = f"{row['problem'] or 'users'}, {row['harmed']} requests harmed"
            told.setdefault(problem, []).append(f"- {row['cell']}{since}\n")
    text = "".join(f"\n{problem}:\n\n{''.join(cells)}" for problem, cells in told.items())
    return f"\n## Went wrong at first\n\n{_WHY}{text}" if text else ""
