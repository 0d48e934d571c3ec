"""Which writes of a sweep are run: a release is killed after each of them in the long form."""

from __future__ import annotations

import os
import random

SOAK = bool(os.environ.get("SLIPWAY_SOAK"))
SEED = int(os.environ.get("SLIPWAY_SWEEP_SEED", "1"))
_SHARE = 8


def swept(writes: range) -> list[int]:
    """Return the numbers to run: all of them in the long form, else an eighth by seed.

    The first and the last are always among them: what is not begun, and what has just ended.
    """
    every = list(writes)
    if SOAK or len(every) <= _SHARE:
        return every
    drawn = random.Random(f"{SEED} {writes}").sample(every[1:-1], len(every) // _SHARE)
    return sorted({every[0], every[-1], *drawn})
