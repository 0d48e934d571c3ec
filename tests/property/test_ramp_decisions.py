"""Whatever is seen, a canary's users are moved only as R2 and R3 allow."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slipway.core.release.decision import (
    GoOn,
    Promote,
    RampView,
    SetWeight,
    TakeBack,
    Wait,
    decide_ramp,
)
from slipway.core.release.ramp import RampWatch, Tally, judge_ramp, ramp_evidence
from slipway.core.release.record import Phase, ReleaseRecord, hold
from slipway.core.service import RampPolicy, RampStep, Slo
from slipway.core.traffic import LogPosition
from slipway.core.verdicts import GateResult, Verdict
from tests.examples import DIGEST, pod, ramping, rollout

POLICY = RampPolicy(requests_min=20, data_timeout_s=60.0, hold_timeout_s=600.0)
SLO = Slo(ttft_p95_ms=500, error_rate_percent=1, output_tokens_per_s=5)
REPLICAS = 4
durations = st.sampled_from([0.0, 5.0, 59.0, 80.0, 700.0])


@st.composite
def tallies(draw: st.DrawFn) -> Tally:
    users = draw(st.integers(0, 60))
    failed = draw(st.integers(0, users))
    times = draw(st.lists(st.sampled_from([20.0, 60.0, 500.0]), max_size=users - failed))
    return Tally(users=users, failed=failed, first_tokens_ms=tuple(times))


def judged(stable: Tally, candidate: Tally) -> tuple[GateResult, ...]:
    watch = RampWatch(
        weight_percent=5,
        revision="r",
        began_s=0.0,
        position=LogPosition(log="log", offset_bytes=0),
        stable=stable,
        candidate=candidate,
    )
    return judge_ramp(ramp_evidence(watch, POLICY, window_s=1.0, now_ns=1), POLICY, SLO)


results = st.just(()) | st.builds(judged, tallies(), tallies())


@st.composite
def releases(draw: st.DrawFn) -> ReleaseRecord:
    weights = sorted(draw(st.sets(st.integers(1, 99), min_size=1, max_size=4)))
    steps = tuple(
        RampStep(weight_percent=weight, bake_s=5.0, approval=draw(st.booleans()))
        for weight in weights
    )
    tested = tuple(f"uid-{name}" for name in "abcd")
    weight = draw(st.sampled_from([0, *weights]))
    canary = ramping(weight, steps=steps, tested_pod_uids=tested)
    if draw(st.booleans()):
        return hold(canary, reason="waits", timeout_s=600.0, now_ns=1)
    return canary


@st.composite
def views(draw: st.DrawFn) -> RampView:
    names = draw(st.lists(st.sampled_from("abcdx"), unique=True, max_size=5))
    pods = [replace(pod(name), ready=draw(st.booleans()), image_digest=DIGEST) for name in names]
    unseen = rollout(replace(pod("a"), ready=False))
    return RampView(
        share_percent=draw(st.integers(0, 100)),
        candidate=draw(st.just(None) | st.just(rollout(*pods) if pods else unseen)),
        results=draw(results),
        at_weight_s=draw(durations),
        held_s=draw(durations),
    )


def is_fit(view: RampView, weight: int) -> bool:
    ready = () if view.candidate is None else view.candidate.ready_pods
    tested = all(item.name in "abcd" for item in ready)
    return tested and weight <= 100 * len(ready) / REPLICAS


@given(releases(), views())
def test_users_move_only_on_what_r2_and_r3_ask_for(release: ReleaseRecord, view: RampView) -> None:
    decision = decide_ramp(release, view, POLICY, replicas=REPLICAS)
    verdicts = {item.verdict for item in view.results}

    if isinstance(decision, Promote):
        assert verdicts == {Verdict.PASS}
        assert release.weight_percent == release.steps[-1].weight_percent
        assert is_fit(view, release.weight_percent)
    if isinstance(decision, SetWeight):
        assert is_fit(view, decision.weight_percent)
        assert not verdicts & {Verdict.FAIL}
        rises = decision.weight_percent > release.weight_percent
        if rises and release.weight_percent:
            assert verdicts
            assert Verdict.ERROR not in verdicts
            assert all(item.n >= POLICY.requests_min for item in view.results)
            assert view.at_weight_s >= 5.0
        if rises:
            (step,) = (s for s in release.steps if s.weight_percent == decision.weight_percent)
            assert release.is_approved(step)
            between = range(release.weight_percent + 1, decision.weight_percent)
            assert not any(s.weight_percent in between for s in release.steps)


@given(releases(), views())
def test_users_of_an_unfit_or_failing_candidate_go_back(
    release: ReleaseRecord, view: RampView
) -> None:
    carried = max(release.weight_percent, view.share_percent)
    failing = any(item.verdict is Verdict.FAIL for item in view.results)
    if not is_fit(view, carried) or failing:
        decision = decide_ramp(release, view, POLICY, replicas=REPLICAS)
        assert isinstance(decision, TakeBack)


@given(releases(), views())
def test_held_release_only_waits_goes_on_or_is_taken_back(
    release: ReleaseRecord, view: RampView
) -> None:
    decision = decide_ramp(release, view, POLICY, replicas=REPLICAS)
    if release.phase is Phase.HELD:
        assert isinstance(decision, Wait | GoOn | TakeBack)
        assert view.held_s <= 600.0 or not isinstance(decision, Wait)
    else:
        assert not isinstance(decision, GoOn)
