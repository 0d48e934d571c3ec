"""The page of docs/design that lists what the simulation does not see."""

from __future__ import annotations

import textwrap
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

PAGE = Path("docs/design/0006-mutants.md")

_REASONS = Path(__file__).with_name("survivors.toml")
_WIDTH = 105
_KINDS = {
    "drop": "a call of a port is not made",
    "twice": "a write is made twice",
    "late": "a call is made 20 s late",
    "swap": "a call changes places with the statement after it",
    "stale": "a read gives its first answer for ever",
    "skip": "a check, a wait or an `if … raise` is left out",
}


class Found(Protocol):
    """What the page needs to know of a finding."""

    @property
    def id(self) -> str:
        """Name of the mutant."""

    @property
    def outcome(self) -> str:
        """`caught`, `survived` or `unreached`."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why some mutants may live.

    Args:
        tests: that fail with each of them, when that is the reason; arguments of pytest.
        mutants: their names.
    """

    reason: str
    tests: tuple[str, ...]
    mutants: tuple[str, ...]


@cache
def whys() -> tuple[Why, ...]:
    """Return every reason for which mutants may live."""
    stated = tomllib.loads(_REASONS.read_text())["why"]
    return tuple(
        Why(item["reason"].strip(), tuple(item.get("tests", ())), tuple(item["mutants"]))
        for item in stated
    )


def reasons() -> dict[str, str]:
    """Return why each mutant that lives may live, by its name."""
    return {name: why.reason for why in whys() for name in why.mutants}


def page(findings: Iterable[Found]) -> str:
    """Return the page, in Markdown."""
    found = {item.id: item for item in findings}
    lines = [
        "# 0006: Mutants that the simulation lets live",
        "",
        "Written by `python -m tests.simulation.mutants --page`; the reasons stand in",
        "`tests/simulation/survivors.toml`. What a mutant is: [0006](0006-simulation.md). A test",
        'in brackets is where the rule has its own; "Seen by" says that it was run against each',
        "mutant of the list and failed (`--verify` runs it again).",
        "",
        "| kind | what is done | mutants | caught | survived | unreached |",
        "|---|---|---|---|---|---|",
    ]
    count = Counter((item.id.partition(" ")[0], item.outcome) for item in found.values())
    for kind, what in [*_KINDS.items(), ("", "together")]:
        of = [n for (k, _), n in count.items() if kind in {"", k}]
        each = [
            sum(n for (k, o), n in count.items() if kind in {"", k} and o == outcome)
            for outcome in ("caught", "survived", "unreached")
        ]
        cells = [kind, what, str(sum(of)), *map(str, each)]
        lines.append(f"| {' | '.join(cells)} |")
    for why in whys():
        lived = [name for name in why.mutants if name in found and found[name].outcome != "caught"]
        if lived:
            seen_by = f" Seen by {', '.join(why.tests)}." if why.tests else ""
            said = textwrap.wrap(why.reason + seen_by, _WIDTH)
            lines += ["", *said, "", *_listed(lived, found)]
    return "\n".join(lines) + "\n"


def _listed(names: Iterable[str], found: dict[str, Found]) -> list[str]:
    return [
        f"- `{name}`" + (" (unreached)" if found[name].outcome == "unreached" else "")
        for name in names
    ]
