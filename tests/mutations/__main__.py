"""Run mutations: `python -m tests.mutations [--contract | --end-to-end] [RULE …]`.

Each rule's tests run on a copy of the project in which the rule's mutation breaks it, and must
fail. Exits with 1 when a mutation survived, or when its tests could not even begin.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.mutations.model import Rule
from tests.mutations.rules import RULES
from tests.mutations.runner import Finding, run_rule
from tests.mutations.sandbox import run_on_sandbox

_SHOWN_LINES = 40


def findings(rules: list[Rule], jobs: int) -> Iterator[Finding]:
    """Yield what became of each mutation: those without a sandbox side by side."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(run_rule, [rule for rule in rules if not rule.end_to_end])
    end_to_end = [rule for rule in rules if rule.end_to_end]
    if end_to_end:
        yield from run_on_sandbox(end_to_end)


def main(arguments: list[str]) -> int:
    """Run the chosen rules, all by default, and print a line for each."""
    parser = argparse.ArgumentParser(prog="tests.mutations", description=__doc__)
    parser.add_argument("rules", nargs="*", metavar="RULE", help="ids; all by default")
    parser.add_argument("--contract", action="store_true", help="only those without a sandbox")
    parser.add_argument("--end-to-end", action="store_true", help="only those on a sandbox")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.rules) - {rule.id for rule in RULES}
    if unknown:
        parser.error(f"no such rule: {', '.join(sorted(unknown))}")
    rules = [
        rule
        for rule in RULES
        if (not chosen.rules or rule.id in chosen.rules)
        and not (chosen.contract and rule.end_to_end)
        and not (chosen.end_to_end and not rule.end_to_end)
    ]
    missed = 0
    for found in findings(rules, chosen.jobs):
        sys.stdout.write(f"{found.rule.id:28} {found.outcome:9} {found.took_s:5.1f} s\n")
        if found.outcome != "caught":
            missed += 1
            tail = found.output.splitlines()[-_SHOWN_LINES:]
            sys.stdout.write("".join(f"    {line}\n" for line in tail))
        sys.stdout.flush()
    sys.stdout.write(f"{len(rules)} mutations, {len(rules) - missed} caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
