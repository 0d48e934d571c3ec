"""Order statistics: nothing between two observations, nothing beyond the largest."""

from __future__ import annotations

import math

import pytest

from slipway.core.statistics import (
    binomial_tail,
    mean,
    percent,
    quantile,
    resolving_count,
)


@pytest.mark.parametrize(
    ("count", "q", "rank"),
    [
        (1, 0.95, 1),
        (2, 0.5, 1),
        (12, 0.95, 12),
        (19, 0.95, 19),
        (20, 0.95, 19),
        (21, 0.95, 20),
        (60, 0.95, 57),
        (100, 0.99, 99),
        (1000, 0.001, 1),
        (10, 1.0, 10),
        (100, 0.07, 7),  # 0.07 × 100 is 7.000000000000001 in binary
    ],
)
def test_quantile_is_the_observation_of_its_rank(count: int, q: float, rank: int) -> None:
    values = [float(number) for number in range(count, 0, -1)]
    assert quantile(values, q) == rank


def test_quantile_of_ties_is_the_tied_value() -> None:
    assert quantile([3.0, 3.0, 3.0, 9.0], 0.75) == 3.0


def test_quantile_of_nothing_or_of_nan_is_nan() -> None:
    assert math.isnan(quantile([], 0.5))
    assert math.isnan(quantile([1.0, math.nan], 0.5))


def test_quantile_of_an_infinite_tail_stays_infinite() -> None:
    assert quantile([1.0, math.inf], 1.0) == math.inf


@pytest.mark.parametrize("q", [0.0, -0.5, 1.01, math.nan])
def test_quantile_with_a_share_that_is_none_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="share"):
        quantile([1.0], q)


def test_mean_is_exact_and_of_nothing_nan() -> None:
    assert mean([0.1] * 10) == 0.1
    assert math.isnan(mean([]))


def test_percent_of_a_part_and_of_nothing() -> None:
    assert percent(1, 8) == 12.5
    assert percent(0, 3) == 0.0
    assert math.isnan(percent(0, 0))


@pytest.mark.parametrize(("part", "whole"), [(-1, 2), (3, 2)])
def test_percent_of_what_is_no_part_is_refused(part: int, whole: int) -> None:
    with pytest.raises(ValueError, match="no part"):
        percent(part, whole)


@pytest.mark.parametrize(("q", "count"), [(0.5, 2), (0.95, 20), (0.99, 100)])
def test_resolving_count_is_where_a_quantile_stops_being_the_largest(q: float, count: int) -> None:
    assert resolving_count(q) == count
    assert quantile([float(number) for number in range(count)], q) < count - 1
    assert quantile([float(number) for number in range(count - 1)], q) == count - 2


@pytest.mark.parametrize("q", [0.0, 1.0, math.nan])
def test_resolving_count_of_an_impossible_share_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="share"):
        resolving_count(q)


@pytest.mark.parametrize(
    ("successes", "trials", "share", "expected"),
    [
        (0, 0, 0.5, 1.0),
        (0, 7, 0.0, 1.0),
        (1, 7, 0.0, 0.0),
        (3, 3, 0.5, 0.125),
        (1, 10, 0.01, 1 - 0.99**10),
        (2, 2, 1.0, 1.0),
    ],
)
def test_binomial_tail_is_the_chance_of_so_many_or_more(
    successes: int, trials: int, share: float, expected: float
) -> None:
    assert binomial_tail(successes, trials, share) == pytest.approx(expected)


@pytest.mark.parametrize(("successes", "share"), [(4, 0.5), (-1, 0.5), (1, 1.1), (1, -0.1)])
def test_binomial_tail_of_nonsense_is_refused(successes: int, share: float) -> None:
    with pytest.raises(ValueError, match="no binomial tail"):
        binomial_tail(successes, 3, share)
