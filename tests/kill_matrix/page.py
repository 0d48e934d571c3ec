"""The page of docs/design that holds the matrix as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.kill_matrix.cells import ROUNDS, SIDES

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
over, and no request of a user failed or was cut short.

"""


def page(rows: Iterable[dict[str, Any]]) -> str:
    """Return the page."""
    found = list(rows)
    lines = [
        "| round | writes | cells run | right | requests | failed or cut |",
        "|---|---|---|---|---|---|",
    ]
    for round_ in ROUNDS:
        of = [row for row in found if row["round"] == str(round_)]
        writes = len({_write(row) for row in of})
        right = sum(not row["problem"] and not row["harmed"] for row in of)
        requests, harmed = (sum(row[name] for row in of) for name in ("requests", "harmed"))
        lines.append(f"| {round_} | {writes} | {len(of)} | {right} | {requests:,} | {harmed} |")
    commits = Counter(row["commit"] for row in found)
    took_s = [row["took_s"] for row in found]
    text = _HEAD + "\n".join(lines) + "\n"
    if found:
        told = ", ".join(f"{count} at {commit}" for commit, count in commits.items())
        middle = sorted(took_s)[len(took_s) // 2]
        text += f"\nCells by commit: {told}. A cell takes {middle:.0f} s (median).\n"
    return text + _by_write(found) + _wrong(found)


def _write(row: dict[str, Any]) -> int:
    return int(row["cell"].rpartition(" ")[2])


def _by_write(rows: list[dict[str, Any]]) -> str:
    """Return a table a round: what was written, and how it ended on either side of it."""
    text = ""
    for round_ in ROUNDS:
        of = [row for row in rows if row["round"] == str(round_)]
        if not of:
            continue
        text += f"\n## {round_}\n\n| write | what | " + " | ".join(SIDES) + " |\n"
        text += "|---" * (2 + len(SIDES)) + "|\n"
        for write in sorted({_write(row) for row in of}):
            here = {
                row["cell"].split(", ")[-1].split(" ")[0]: row for row in of if _write(row) == write
            }
            what = next(iter(here.values()))["what"]
            marks = " | ".join(_mark(here.get(side)) for side in SIDES)
            text += f"| {write} | {_short(what)} | {marks} |\n"
    return text


def _short(what: str) -> str:
    """Return a write in few words: verb, and the last parts of its path."""
    verb, _, rest = what.partition(" ")
    if rest.startswith("/"):
        return f"{verb} {'/'.join(rest.split('?')[0].split('/')[-2:])}"
    return verb


def _mark(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run"
    return str(row["ended"]) if not row["problem"] and not row["harmed"] else "WRONG"


def _wrong(rows: list[dict[str, Any]]) -> str:
    wrong = [row for row in rows if row["problem"] or row["harmed"]]
    if not wrong:
        return ""
    told = "".join(
        f"- {row['cell']}: {row['problem'] or 'users'}; {row['harmed']} requests harmed\n"
        for row in wrong
    )
    return f"\n## Wrong\n\n{told}"
