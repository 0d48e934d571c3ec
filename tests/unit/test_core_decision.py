from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from slipway.core.release.decision import (
    GoOn,
    HoldRelease,
    Promote,
    RampView,
    Reserve,
    SetWeight,
    TakeBack,
    Wait,
    decide_ramp,
    step_to_approve,
)
from slipway.core.release.record import (
    Approval,
    ReleaseRecord,
    hold,
    with_approval,
)
from slipway.core.release.scaling import Scaling, replicas_for
from slipway.core.rollout import PodObservation
from slipway.core.service import RampPolicy, RampStep
from slipway.core.verdicts import Bound, Gate, GateResult, Verdict
from tests.examples import DIGEST, autoscaling, pod, rollout
from tests.examples import ramping as canary

POLICY = RampPolicy(requests_min=20, data_timeout_s=60.0, hold_timeout_s=600.0)
STEPS = (
    RampStep(weight_percent=5, bake_s=10.0),
    RampStep(weight_percent=50, bake_s=10.0),
    RampStep(weight_percent=60, bake_s=10.0, approval=True),
)


def ramping(weight: int = 0, *, steps: tuple[RampStep, ...] = STEPS) -> ReleaseRecord:
    """Return a canary of green over blue whose pods a and b were tested."""
    return canary(weight, steps=steps, tested_pod_uids=("uid-a", "uid-b"))


def known_pod(name: str, *, ready: bool = True) -> PodObservation:
    return replace(pod(name, ready=ready), image_digest=DIGEST)


BOTH_PODS = rollout(known_pod("a"), known_pod("b"))


def results(verdict: Verdict, *, n: int = 20) -> tuple[GateResult, ...]:
    gate = Gate(name="g", evidence="e", bound=Bound.AT_MOST, threshold=1, n_min=20)
    return (GateResult(gate=gate, verdict=verdict, value=0.0, n=n, reason=f"gate {verdict}"),)


def view(weight: int = 0, verdict: Verdict = Verdict.PASS, **changes: Any) -> RampView:
    whole = RampView(
        share_percent=weight,
        candidate=BOTH_PODS,
        results=results(verdict) if weight else (),
        at_weight_s=10.0,
    )
    return replace(whole, **changes)


def decide(release: ReleaseRecord, seen: RampView) -> Any:
    return decide_ramp(release, seen, POLICY, replicas=2)


def test_ramp_begins_with_the_first_step() -> None:
    assert decide(ramping(), view()) == SetWeight(
        weight_percent=5, reason="every gate before users passed"
    )


def test_pass_rises_to_the_next_step() -> None:
    decision = decide(ramping(5), view(5))
    assert decision == SetWeight(weight_percent=50, reason="gate PASS")


def test_step_waits_for_its_bake() -> None:
    decision = decide(ramping(5), view(5, at_weight_s=9.9))
    assert decision == Wait(reason="5 % for 10 s")


def test_doubt_with_enough_requests_rises_below_everybody() -> None:
    decision = decide(ramping(5), view(5, Verdict.INCONCLUSIVE))
    assert isinstance(decision, SetWeight)


def test_doubt_never_promotes() -> None:
    last = ramping(5, steps=STEPS[:1])
    assert isinstance(decide(last, view(5, Verdict.INCONCLUSIVE)), Wait)
    assert decide(last, view(5)) == Promote(reason="gate PASS")


@pytest.mark.parametrize(
    "seen",
    [
        view(5, Verdict.ERROR),
        view(5, Verdict.INCONCLUSIVE, results=results(Verdict.INCONCLUSIVE, n=19)),
        view(5, results=()),
    ],
)
def test_no_data_waits_and_is_then_held(seen: RampView) -> None:
    assert isinstance(decide(ramping(5), seen), Wait)
    decision = decide(ramping(5), replace(seen, at_weight_s=70.1))
    assert isinstance(decision, HoldRelease)
    assert decision.timeout_s == 600.0
    assert decision.reason.startswith("no verdict at 5 %")


def test_fail_takes_back_at_once_whatever_the_bake() -> None:
    decision = decide(ramping(50), view(50, Verdict.FAIL, at_weight_s=0.0))
    assert decision == TakeBack(reason="at 50 %: gate FAIL", code="canary-failed")


@pytest.mark.parametrize(
    ("candidate", "weight", "reason"),
    [
        (None, 5, "no Deployment any more"),
        (rollout(known_pod("a", ready=False)), 5, "0 ready pods of 1 needed"),
        (rollout(known_pod("a")), 60, "1 ready pods of 2 needed"),
        (rollout(known_pod("c")), 5, "replaced since they were tested: c"),
        (rollout(known_pod("c")), 0, "replaced since they were tested: c"),
    ],
)
def test_unfit_candidate_loses_its_users(candidate: Any, weight: int, reason: str) -> None:
    decision = decide(ramping(weight), view(weight, candidate=candidate))
    assert isinstance(decision, TakeBack)
    assert decision.code == "candidate-unhealthy"
    assert reason in decision.reason


def test_users_that_the_record_does_not_know_count_for_fitness() -> None:
    dead = rollout(known_pod("a", ready=False))
    assert isinstance(decide(ramping(0), view(0, share_percent=5, candidate=dead)), TakeBack)


def test_one_pod_of_two_carries_half_and_waits_before_more() -> None:
    approved = with_approval(ramping(50), Approval(weight_percent=60, by="ann", at_ns=1))
    decision = decide(approved, view(50, candidate=rollout(known_pod("a"))))
    assert isinstance(decision, Wait)
    assert "not 60 % yet" in decision.reason


def test_route_that_says_something_else_is_written_again() -> None:
    decision = decide(ramping(50), view(50, share_percent=5))
    assert decision == SetWeight(weight_percent=50, reason="the route says something else")


def test_step_that_needs_a_person_is_held_until_somebody_said_yes() -> None:
    decision = decide(ramping(50), view(50))
    assert decision == HoldRelease(reason="60 % needs a person's approval", timeout_s=600.0)
    approved = with_approval(ramping(50), Approval(weight_percent=60, by="ann", at_ns=1))
    assert decide(approved, view(50)) == SetWeight(weight_percent=60, reason="gate PASS")


def test_step_to_approve_is_the_next_one_while_nobody_said_yes() -> None:
    asked = step_to_approve(ramping(50))
    assert asked is not None
    assert asked.weight_percent == 60
    assert step_to_approve(ramping(5)) is None
    assert step_to_approve(ramping(60)) is None
    yes = Approval(weight_percent=60, by="ann", at_ns=1)
    assert step_to_approve(with_approval(ramping(50), yes)) is None


def held(weight: int = 50) -> ReleaseRecord:
    return hold(ramping(weight), reason="asked", timeout_s=30.0, now_ns=2)


def test_held_release_waits_until_what_it_waits_for_is_there() -> None:
    assert decide(held(), view(50)) == Wait(reason="asked")
    approved = with_approval(held(), Approval(weight_percent=60, by="ann", at_ns=1))
    assert isinstance(decide(approved, view(50)), GoOn)


def test_held_release_is_taken_back_when_nobody_answers() -> None:
    decision = decide(held(), view(50, held_s=30.1))
    assert isinstance(decision, TakeBack)
    assert decision.code == "hold-expired"


def test_held_release_without_its_reason_expires_by_the_policy() -> None:
    damaged = replace(held(), hold=None)
    assert isinstance(decide(damaged, view(50, held_s=599.0)), Wait)
    assert isinstance(decide(damaged, view(50, held_s=601.0)), TakeBack)


def test_failing_candidate_of_a_held_release_is_taken_back() -> None:
    decision = decide(held(), view(50, Verdict.FAIL))
    assert isinstance(decision, TakeBack)
    assert decision.code == "canary-failed"


def test_weight_that_is_no_step_any_more_rises_without_a_bake() -> None:
    assert isinstance(decide(ramping(7), view(7, at_weight_s=0.0)), SetWeight)


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
def test_replicas_for_a_weight_are_the_fewest_that_carry_it(replicas: int) -> None:
    for weight in range(101):
        ready = replicas_for(weight, replicas)
        assert weight <= 100 * ready / replicas
        assert ready == 0 or weight > 100 * (ready - 1) / replicas
        assert ready == math.ceil(weight * replicas / 100)


def scaled(weight: int, *, floor: int, steps: tuple[RampStep, ...] = STEPS[:2]) -> ReleaseRecord:
    """Return a canary of a service whose autoscaler decides; none of its pods was tested."""
    scaling = Scaling(settings=autoscaling(), needed=4, candidate_floor=floor)
    return replace(ramping(weight, steps=steps), scaling=scaling, tested_pod_uids=())


def decide_scaled(release: ReleaseRecord, seen: RampView, *, needed: int = 4) -> Any:
    return decide_ramp(release, seen, POLICY, replicas=needed)


def some_pods(count: int) -> Any:
    return rollout(*(known_pod(f"p{number}") for number in range(count)))


def test_pods_of_the_next_weight_are_reserved_before_it() -> None:
    decision = decide_scaled(scaled(5, floor=1), view(5, candidate=some_pods(1)))
    assert decision == Reserve(floor=2, reason="2 of 4 pods are needed for 50 %")


def test_weight_rises_when_its_pods_are_ready_whoever_they_are() -> None:
    release = scaled(5, floor=2)
    waiting = decide_scaled(release, view(5, candidate=some_pods(1)))
    assert waiting == Wait(
        reason="not 50 % yet: slot green has 1 ready pods of 2 needed", short=True
    )
    assert decide_scaled(release, view(5, candidate=some_pods(2))) == SetWeight(
        weight_percent=50, reason="gate PASS"
    )


def test_everybodys_pods_are_reserved_and_ready_before_the_promotion() -> None:
    at_half = view(50, candidate=some_pods(2))
    assert decide_scaled(scaled(50, floor=2), at_half) == Reserve(
        floor=4, reason="4 of 4 pods are needed for 100 %"
    )
    assert isinstance(decide_scaled(scaled(50, floor=4), at_half), Wait)
    ready = view(50, candidate=some_pods(4))
    assert decide_scaled(scaled(50, floor=4), ready) == Promote(reason="gate PASS")


def test_pods_that_do_not_come_hold_the_release() -> None:
    short = view(5, candidate=some_pods(1), short_s=60.1)
    decision = decide_scaled(scaled(5, floor=2), short)
    assert decision == HoldRelease(
        reason="not 50 % yet: slot green has 1 ready pods of 2 needed", timeout_s=600.0
    )


def test_load_that_grows_takes_no_canary_back() -> None:
    """It asks for more pods; the candidate is judged by what its weight was set for."""
    decision = decide_scaled(scaled(50, floor=2), view(50, candidate=some_pods(2)), needed=8)
    assert decision == Reserve(floor=8, reason="8 of 8 pods are needed for 100 %")


def test_scaled_candidate_that_loses_a_pod_of_its_share_loses_its_users() -> None:
    decision = decide_scaled(scaled(50, floor=2), view(50, candidate=some_pods(1)))
    assert isinstance(decision, TakeBack)
    assert decision.code == "candidate-unhealthy"


def test_pods_are_not_reserved_for_a_step_that_nobody_allowed_yet() -> None:
    asks = (STEPS[0], replace(STEPS[1], approval=True))
    decision = decide_scaled(scaled(5, floor=1, steps=asks), view(5, candidate=some_pods(1)))
    assert isinstance(decision, HoldRelease)
