"""Which end-to-end tests `make test` runs: a seeded draw, all of them in the long form.

`make test` must stay within minutes whatever is added. So a test is drawn, one of five of its
file, unless a marker says more: `drawn(pool)` puts it in a pool of scenarios of its kind,
`drawn_file(pool)` has whole files drawn (their fixtures cost more than their tests), `always` keeps
it in every run. Each commit draws anew; over some commits all of them are run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = "SLIPWAY_DRAW"
"""Variable with the seed, set by `lanes`; without it every test that is named is run."""

_SHARE = 5
_DIGITS = 12


@dataclass(frozen=True)
class Scenario:
    """A test as the draw sees it.

    Args:
        test: its node id, `tests/e2e/test_x.py::test_y[z]`.
        always: True when it is in every run.
        pool: of scenarios; None for that of its file.
        file_pool: pool that its whole file is in; None when its tests are drawn singly.
    """

    test: str
    always: bool = False
    pool: str | None = None
    file_pool: str | None = None

    @property
    def file(self) -> str:
        return self.test.partition("::")[0]


def left_out(scenarios: Sequence[Scenario], seed: str) -> frozenset[str]:
    """Return the node ids of the tests that the seed does not draw."""
    pools: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for each in scenarios:
        if each.always:
            continue
        if each.file_pool is not None:
            pools["files", each.file_pool][each.file].append(each.test)
        else:
            pools["tests", each.pool or each.file][each.test].append(each.test)
    return frozenset().union(*(_not_drawn(pool, seed) for pool in pools.values()))


def _not_drawn(pool: Mapping[str, Sequence[str]], seed: str) -> frozenset[str]:
    chosen = drawn(tuple(pool), seed)
    return frozenset(
        test for member, tests in pool.items() if member not in chosen for test in tests
    )


def drawn(names: Sequence[str], seed: str) -> frozenset[str]:
    """Return one of five members of a pool, at least one."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return frozenset(ranked[: max(1, len(ranked) // _SHARE)])


def seed_of_commit(project: Path) -> str:
    """Return the seed that belongs to the commit, `1` where there is none."""
    command = ("git", "-C", str(project), "rev-parse", "HEAD")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return "1"
    return done.stdout[:_DIGITS] if done.returncode == 0 else "1"


def seed_in_force() -> str | None:
    """Return the seed by which tests are drawn now; None when all are run."""
    return None if os.environ.get("SLIPWAY_SOAK") else os.environ.get(SEED)
