from __future__ import annotations

import math

import pytest

from slipway.core.verdicts import Bound, Evidence, Gate, GateResult, Verdict, judge, overall

TTFT = Gate(name="ttft", evidence="ttft_p95_ms", bound=Bound.AT_MOST, threshold=500.0, n_min=20)
ACCURACY = Gate(name="accuracy", evidence="accuracy", bound=Bound.AT_LEAST, threshold=0.85)


def evidence(value: float, *, name: str = "ttft_p95_ms", n: int = 20) -> Evidence:
    return Evidence(
        name=name, value=value, unit="ms", n=n, window_s=5.0, source="benchmark", taken_at_ns=1
    )


@pytest.mark.parametrize(("value", "verdict"), [(500.0, Verdict.PASS), (500.1, Verdict.FAIL)])
def test_at_most_gate_passes_up_to_its_threshold(value: float, verdict: Verdict) -> None:
    result = judge(TTFT, (evidence(value),))

    assert (result.verdict, result.value, result.n) == (verdict, value, 20)


@pytest.mark.parametrize(("value", "verdict"), [(0.85, Verdict.PASS), (0.84, Verdict.FAIL)])
def test_at_least_gate_passes_from_its_threshold(value: float, verdict: Verdict) -> None:
    assert judge(ACCURACY, (evidence(value, name="accuracy"),)).verdict is verdict


def test_reason_states_value_unit_threshold_and_count() -> None:
    assert judge(TTFT, (evidence(412.0),)).reason == "ttft 412 ms, at most 500 asked (n = 20)"
    low = judge(ACCURACY, (evidence(0.5, name="accuracy", n=4),))
    assert low.reason == "accuracy 0.5 ms, at least 0.85 asked (n = 4)"


def test_missing_evidence_is_an_error_never_zero() -> None:
    result = judge(TTFT, (evidence(1.0, name="something_else"),))

    assert result.verdict is Verdict.ERROR
    assert math.isnan(result.value)
    assert result.reason == "ttft: no evidence of ttft_p95_ms"


def test_two_figures_where_one_is_expected_are_an_error() -> None:
    result = judge(TTFT, (evidence(1.0), evidence(900.0)))

    assert result.verdict is Verdict.ERROR
    assert "2 figures" in result.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_an_error(value: float) -> None:
    assert judge(TTFT, (evidence(value),)).verdict is Verdict.ERROR
    assert judge(ACCURACY, (evidence(value, name="accuracy"),)).verdict is Verdict.ERROR


def test_too_few_observations_are_inconclusive_even_when_the_value_is_bad() -> None:
    result = judge(TTFT, (evidence(9000.0, n=19),))

    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == "ttft: 19 observations, 20 are needed"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((), Verdict.ERROR),
        ((Verdict.PASS,), Verdict.PASS),
        ((Verdict.PASS, Verdict.INCONCLUSIVE), Verdict.INCONCLUSIVE),
        ((Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.ERROR), Verdict.ERROR),
        ((Verdict.ERROR, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS), Verdict.FAIL),
    ],
)
def test_overall_verdict_is_the_worst_one(verdicts: tuple[Verdict, ...], expected: Verdict) -> None:
    results = tuple(
        GateResult(gate=TTFT, verdict=verdict, value=1.0, n=1, reason="") for verdict in verdicts
    )

    assert overall(results) is expected
