from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.release.scaling import (
    Scaling,
    at_rest,
    replicas_for,
    replicas_needed,
    with_candidate_floor,
    with_growth,
    with_stable_held,
    within,
)
from tests.examples import autoscaler_seen, autoscaling

SETTINGS = autoscaling(min_replicas=2, max_replicas=8)
SCALING = Scaling(settings=SETTINGS, needed=4, candidate_floor=1)


@pytest.mark.parametrize(("asked", "given"), [(0, 2), (2, 2), (5, 5), (8, 8), (9, 8)])
def test_number_of_pods_stays_within_the_range_of_the_file(asked: int, given: int) -> None:
    assert within(SETTINGS, asked) == given


@pytest.mark.parametrize(("stable", "needed"), [(1, 2), (4, 4), (20, 8)])
def test_users_need_what_the_stable_slot_runs_with(stable: int, needed: int) -> None:
    assert replicas_needed(SCALING, stable=stable) == needed


def test_candidate_at_its_floor_says_nothing_of_the_load() -> None:
    for weight in (0, 1, 50, 100):
        assert with_growth(SCALING, stable=4, candidate=1, weight_percent=weight) == SCALING


def test_candidate_without_users_says_nothing_of_the_load() -> None:
    assert with_growth(SCALING, stable=4, candidate=3, weight_percent=0) == SCALING


def test_candidate_that_needs_more_for_half_shows_the_need_of_all() -> None:
    held = replace(SCALING, candidate_floor=2)
    grown = with_growth(held, stable=4, candidate=4, weight_percent=50)
    assert grown.grown == 7  # three pods were too few for half, so six are for all
    assert replicas_needed(grown, stable=4) == 7


def test_jump_of_the_metric_at_one_percent_counts_no_more_than_both_slots() -> None:
    held = replace(SCALING, settings=replace(SETTINGS, max_replicas=100))
    grown = with_growth(held, stable=10, candidate=2, weight_percent=1)
    assert replicas_needed(grown, stable=10) == 12


def test_growth_is_remembered_when_the_floor_hides_it() -> None:
    grown = replace(SCALING, grown=7, candidate_floor=7)
    again = with_growth(grown, stable=4, candidate=7, weight_percent=50)
    assert replicas_needed(again, stable=4) == 7


def test_smaller_growth_does_not_replace_a_greater_one() -> None:
    grown = replace(SCALING, grown=8)
    assert with_growth(grown, stable=4, candidate=2, weight_percent=50).grown == 8


def test_floor_of_the_candidate_rises_within_the_range_and_never_falls() -> None:
    assert with_candidate_floor(SCALING, 3).candidate_floor == 3
    assert with_candidate_floor(SCALING, 30).candidate_floor == 8
    high = replace(SCALING, candidate_floor=5)
    assert with_candidate_floor(high, 3) == high


def test_stable_slot_keeps_the_number_it_has_when_users_begin_to_move() -> None:
    found = autoscaler_seen(min_replicas=2, max_replicas=6)
    held = with_stable_held(SCALING, desired=5, found=found)
    assert (held.stable_floor, held.stable_min) == (5, 2)
    beyond = with_stable_held(SCALING, desired=9, found=found)
    assert beyond.stable_floor == 6
    below = with_stable_held(SCALING, desired=0, found=found)
    assert below.stable_floor == 2


def test_process_that_goes_on_does_not_take_the_floor_for_the_number_before() -> None:
    held = replace(SCALING, stable_floor=5, stable_min=2)
    found = autoscaler_seen(min_replicas=5)
    assert with_stable_held(held, desired=5, found=found) == held


@pytest.mark.parametrize(("desired", "floor"), [(3, 5), (7, 7), (9, 8)])
def test_stable_slot_that_grew_while_users_moved_keeps_that(desired: int, floor: int) -> None:
    held = replace(SCALING, stable_floor=5, stable_min=2)
    found = autoscaler_seen(min_replicas=5, max_replicas=8)
    again = with_stable_held(held, desired=desired, found=found)
    assert (again.stable_floor, again.stable_min) == (floor, 2)


@pytest.mark.parametrize(("desired", "floor"), [(0, 1), (3, 3)])
def test_stable_slot_that_nothing_scales_is_noted_too(desired: int, floor: int) -> None:
    held = with_stable_held(SCALING, desired=desired, found=None)
    assert (held.stable_floor, held.stable_min) == (floor, 0)
    assert with_stable_held(held, desired=desired + 4, found=None) == held


def test_after_the_release_the_services_own_number_is_kept() -> None:
    assert at_rest(replace(SCALING, candidate_floor=7)).candidate_floor == 2


@pytest.mark.parametrize("weight", [1, 5, 25, 50, 99])
def test_steady_load_asks_for_no_more_than_before_the_ramp(weight: int) -> None:
    """A candidate at the share of four pods never makes them five."""
    share = replicas_for(weight, 4)
    held = replace(SCALING, candidate_floor=share)
    seen = with_growth(held, stable=4, candidate=share, weight_percent=weight)
    assert replicas_needed(seen, stable=4) == 4
