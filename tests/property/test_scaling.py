"""Whatever the load, an autoscaled canary gets users only with pods for them, and no more pods."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slipway.core.release.decision import (
    Promote,
    RampView,
    Reserve,
    SetWeight,
    TakeBack,
    decide_ramp,
)
from slipway.core.release.ramp import judge_ramp
from slipway.core.release.record import ReleaseRecord
from slipway.core.release.scaling import (
    Scaling,
    replicas_for,
    replicas_needed,
    with_candidate_floor,
    with_growth,
    with_stable_held,
)
from slipway.core.service import RampPolicy, RampStep, Slo
from slipway.core.verdicts import Verdict
from tests.examples import DIGEST, autoscaler_seen, autoscaling, pod, ramping, rollout

POLICY = RampPolicy(requests_min=20, data_timeout_s=60.0, hold_timeout_s=600.0)
SLO = Slo(ttft_p95_ms=500, error_rate_percent=1, output_tokens_per_s=5)
LEAST, MOST = 2, 40
SETTINGS = autoscaling(min_replicas=LEAST, max_replicas=MOST)
PASSED = tuple(replace(item, verdict=Verdict.PASS, n=20) for item in judge_ramp((), POLICY, SLO))
pods = st.integers(0, MOST)
weights = st.sampled_from([0, 1, 10, 50])


@st.composite
def scalings(draw: st.DrawFn) -> Scaling:
    return Scaling(
        settings=SETTINGS,
        needed=draw(st.integers(LEAST, MOST)),
        candidate_floor=draw(st.integers(1, MOST)),
        grown=draw(st.sampled_from([0, 5, MOST])),
    )


@st.composite
def releases(draw: st.DrawFn) -> ReleaseRecord:
    steps = tuple(RampStep(weight_percent=weight, bake_s=0.0) for weight in (1, 10, 50))
    return ramping(draw(weights), steps=steps, scaling=draw(scalings()))


@given(releases(), pods, st.integers(LEAST, MOST))
def test_users_come_only_where_pods_are_ready_for_them(
    release: ReleaseRecord, ready: int, needed: int
) -> None:
    scaling = release.scaling
    assert scaling is not None
    running = [replace(pod(f"p{number}"), image_digest=DIGEST) for number in range(ready)]
    view = RampView(
        share_percent=release.weight_percent,
        candidate=rollout(*running) if ready else rollout(pod("p", ready=False)),
        results=PASSED if release.weight_percent else (),
    )
    decision = decide_ramp(release, view, POLICY, replicas=needed)
    if isinstance(decision, SetWeight):
        assert decision.weight_percent <= 100 * ready / needed
        assert scaling.candidate_floor >= replicas_for(decision.weight_percent, needed)
    if isinstance(decision, Promote):
        assert min(ready, scaling.candidate_floor) >= needed
    if isinstance(decision, Reserve):
        assert scaling.candidate_floor < decision.floor <= needed
    # Load that grows is no reason: only pods that the weight was set for count.
    short = ready < replicas_for(release.weight_percent, scaling.needed)
    assert isinstance(decision, TakeBack) == short


@given(scalings(), pods, pods, weights)
def test_need_lies_in_the_range_and_never_above_what_both_slots_have(
    scaling: Scaling, stable: int, candidate: int, weight: int
) -> None:
    before = replicas_needed(scaling, stable=stable)
    seen = with_growth(scaling, stable=stable, candidate=candidate, weight_percent=weight)
    needed = replicas_needed(seen, stable=stable)
    assert LEAST <= needed <= MOST
    assert before <= needed <= max(before, stable + candidate, LEAST)


@given(st.integers(LEAST, MOST), st.integers(1, 99))
def test_steady_load_needs_the_same_all_the_way(users_need: int, weight: int) -> None:
    """The candidate's own autoscaler never asks for more than its share, nor do we."""
    share = replicas_for(weight, users_need)
    held = with_candidate_floor(
        Scaling(settings=SETTINGS, needed=users_need, candidate_floor=1), share
    )
    seen = with_growth(held, stable=users_need, candidate=share, weight_percent=weight)
    assert replicas_needed(seen, stable=users_need) == users_need


@given(st.integers(LEAST, 20), st.integers(LEAST, MOST), st.integers(10, 90))
def test_grown_load_is_known_but_for_one_pod_of_the_candidates(
    before: int, users_need: int, weight: int
) -> None:
    floor = replicas_for(weight, before)
    candidate = max(floor, replicas_for(weight, users_need))
    stable = max(before, replicas_for(100 - weight, users_need))
    held = Scaling(settings=SETTINGS, needed=before, candidate_floor=floor)
    seen = with_growth(held, stable=stable, candidate=candidate, weight_percent=weight)
    if candidate > floor:
        assert replicas_needed(seen, stable=stable) >= users_need - math.ceil(100 / weight)


@given(scalings(), pods, st.none() | st.integers(1, MOST))
def test_stable_slot_is_held_once_and_never_below_its_own_least(
    scaling: Scaling, desired: int, least: int | None
) -> None:
    found = None if least is None else autoscaler_seen(min_replicas=least, max_replicas=MOST)
    held = with_stable_held(scaling, desired=desired, found=found)
    assert held.stable_floor >= max(least or 1, min(desired, MOST))
    later = autoscaler_seen(min_replicas=held.stable_floor, max_replicas=MOST)
    assert with_stable_held(held, desired=held.stable_floor, found=later).stable_min == (
        held.stable_min or later.min_replicas
    )
    assert with_stable_held(held, desired=MOST, found=later).stable_floor == MOST
