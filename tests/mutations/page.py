"""The reference page of the rules: `python -m tests.mutations.page` writes it."""

from __future__ import annotations

import sys
import textwrap

from tests.mutations.model import PROJECT, SOURCES, Rule
from tests.mutations.rules import RULES, SECTIONS

PAGE = PROJECT / "docs/reference/sandbox-contracts.md"
_WIDTH = 108

_HEAD = """\
# Contracts of the sandbox

What is ours in the sandbox, the container runtime and the network, keeps the rules below. Each has
a source, tests that hold it, and a mutation: a small fault in the code that these tests must catch.
`python -m tests.mutations` plants them one by one in a copy of the project and runs the tests; it
is part of `make soak`, and a mutation that survives or no longer fits the code fails it.

This page is written by `python -m tests.mutations.page` from the rules in `tests/mutations/`.
"""


def render() -> str:
    """Return the whole page."""
    count = f"{len(RULES)} rules, {sum(one.end_to_end for one in RULES)} of them on a sandbox."
    lines = [_HEAD, count]
    for title, rules in SECTIONS.items():
        lines += ["", f"## {title}"]
        for one in rules:
            lines += ["", *_entry(one)]
    sources = (f"[{name}]: {url}" for name, url in SOURCES.items())
    return "\n".join([*lines, "", *(line for line in sources if len(line) <= _WIDTH + 2), ""])


def _entry(rule: Rule) -> list[str]:
    """Return the lines of one rule."""
    name, _, place = rule.source.partition(", ")
    said = f"**{rule.id}** {rule.says} *Source:* [{name}]{f', {place}' if place else ''}."
    return [
        *textwrap.wrap(
            said,
            _WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        ),
        f"  - tests in `{rule.suite}`:",
        *(f"    `{test}`" for test in rule.tests),
        f"  - mutation of `{rule.mutation.file}`",
    ]


def main() -> None:
    """Write the page."""
    PAGE.write_text(render())
    sys.stdout.write(f"{PAGE.relative_to(PROJECT)}: {len(RULES)} rules\n")


if __name__ == "__main__":
    main()
