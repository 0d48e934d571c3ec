"""Figures of samples, without anything the data do not say.

Quantiles are order statistics: never a value between two observations, never one beyond the
largest. A figure that cannot be formed is NaN, which every gate judges ERROR, never 0.
"""

# the design names this module; it is only imported as slipway.core.statistics
from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(values: Sequence[float], q: float) -> float:
    """Return the smallest observation that at least the share `q` of all does not exceed.

    It is the ⌈q·n⌉-th smallest: with fewer than 1/(1 − q) observations, the largest.

    Args:
        values: observations, in any order and unit.
        q: share, 0 < q ≤ 1.

    Returns:
        an element of `values`; NaN when there is none or one of them is NaN.

    Raises:
        ValueError: `q` is no such share.
    """
    if not 0 < q <= 1:
        raise ValueError(f"a quantile's share lies above 0 and up to 1, not {q}")
    if not values or any(math.isnan(value) for value in values):
        return math.nan
    # 0.95 × 20 is 19 but comes out as 19.000000000000004 for some shares: round before the ceiling.
    rank = max(1, math.ceil(round(q * len(values), 9)))
    return sorted(values)[rank - 1]


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; NaN when there is no value."""
    return math.fsum(values) / len(values) if values else math.nan


def percent(part: int, whole: int) -> float:
    """Return `part` of `whole` in percent; NaN of nothing.

    Raises:
        ValueError: `part` is negative or more than `whole`.
    """
    if not 0 <= part <= whole:
        raise ValueError(f"{part} is no part of {whole}")
    return 100.0 * part / whole if whole else math.nan


def resolving_count(q: float) -> int:
    """Return how many observations the quantile `q` needs to be more than the largest of them.

    Raises:
        ValueError: `q` is not a share between 0 and 1.
    """
    if not 0 < q < 1:
        raise ValueError(f"a share between 0 and 1 is needed, not {q}")
    return math.ceil(round(1 / (1 - q), 9))


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """Return the probability of at least `successes` in `trials` that each succeed with `share`.

    Formula: Σ C(n, i) · pⁱ · (1 − p)ⁿ⁻ⁱ over i from `successes` to n, the exact binomial tail.

    Raises:
        ValueError: a share outside 0 to 1, or more successes than trials.
    """
    if not 0 <= share <= 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} with share {share} is no binomial tail")
    if successes == 0 or share == 1:
        return 1.0
    if share == 0:
        return 0.0
    # In logarithms: C(n, i) has more digits than a float holds from n = 1030 on.
    total, likeliest = 0.0, trials * share
    for i in range(successes, trials + 1):
        chosen = math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1)
        term = math.exp(chosen + i * math.log(share) + (trials - i) * math.log1p(-share))
        total += term
        if i > likeliest and term < total * 1e-17:
            break  # what follows is smaller still
    return min(1.0, total)
