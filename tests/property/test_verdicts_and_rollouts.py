from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slipway.core.rollout import (
    RolloutObservation,
    RolloutPatience,
    RolloutState,
    judge_rollout,
)
from slipway.core.verdicts import Bound, Evidence, Gate, Verdict, judge, overall
from tests.property.strategies import evidence, gates, rollouts

patience = st.builds(
    RolloutPatience,
    replica_failure_s=st.floats(0, 60),
    unschedulable_s=st.floats(0, 60),
    restarts=st.integers(1, 4),
)


@given(gates, st.lists(evidence, max_size=4).map(tuple))
def test_pass_needs_one_finite_figure_with_enough_observations(
    gate: Gate, found: tuple[Evidence, ...]
) -> None:
    result = judge(gate, found)

    if result.verdict is Verdict.PASS:
        (item,) = (item for item in found if item.name == gate.evidence)
        assert math.isfinite(item.value)
        assert item.n >= gate.n_min
        good = item.value <= gate.threshold
        assert good if gate.bound is Bound.AT_MOST else item.value >= gate.threshold


@given(gates, evidence)
def test_figure_that_is_not_a_number_never_passes(gate: Gate, item: Evidence) -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert judge(gate, (replace(item, value=value),)).verdict is not Verdict.PASS
    assert judge(gate, ()).verdict is Verdict.ERROR


@given(gates, evidence)
def test_verdict_does_not_depend_on_foreign_evidence(gate: Gate, item: Evidence) -> None:
    own = replace(item, name=gate.evidence)
    foreign = replace(item, name="foreign")

    assert judge(gate, (own, foreign)).verdict is judge(gate, (own,)).verdict


@given(st.lists(gates, max_size=4), st.lists(evidence, max_size=4).map(tuple))
def test_several_gates_pass_only_when_every_one_does(
    asked: list[Gate], found: tuple[Evidence, ...]
) -> None:
    results = tuple(judge(gate, found) for gate in asked)

    every = bool(results) and all(item.verdict is Verdict.PASS for item in results)
    assert (overall(results) is Verdict.PASS) == every


@given(rollouts(), st.integers(1, 6), patience)
def test_rollout_is_ready_only_with_every_wanted_pod_ready(
    observed: RolloutObservation, generation: int, tolerated: RolloutPatience
) -> None:
    verdict = judge_rollout(observed, generation=generation, patience=tolerated)

    if verdict.state is RolloutState.READY:
        assert observed.observed_generation >= generation
        assert len(observed.ready_pods) >= observed.desired
        assert all(pod.ready for pod in observed.pods if not pod.terminating)


@given(rollouts(), st.integers(1, 6), patience)
def test_failed_rollout_always_has_a_code_and_a_reason(
    observed: RolloutObservation, generation: int, tolerated: RolloutPatience
) -> None:
    verdict = judge_rollout(observed, generation=generation, patience=tolerated)

    assert verdict.reason
    assert bool(verdict.code) == (verdict.state is RolloutState.FAILED)
