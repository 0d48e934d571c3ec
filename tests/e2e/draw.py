"""Which of the tests marked `drawn` are run: a third of them by seed, all in the long form.

`make test` must stay within minutes whatever is added. So scenarios that have many siblings are
drawn from pools of their kind: each commit draws anew, over some commits all of them are run.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

SEED = "SLIPWAY_DRAW"
"""Variable with the seed, set by `lanes`; without it every test that is named is run."""

_SHARE = 3
_DIGITS = 12


def drawn(names: Sequence[str], seed: str) -> frozenset[str]:
    """Return a third of the tests of a pool, at least one."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    return frozenset(ranked[: math.ceil(len(ranked) / _SHARE)])


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
