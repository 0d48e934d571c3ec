"""From rows to figures, gates and the report; and the table's ways through bytes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from slipway.bench.report import markdown
from slipway.bench.summary import FORMULAS, comparison, comparison_gates, evidence, gates
from slipway.bench.table import (
    from_json,
    from_parquet,
    order_from_json,
    order_to_json,
    to_json,
    to_parquet,
)
from slipway.bench.values import BenchmarkPlan, RequestRow, RequestTable, Status, Target
from slipway.core.service import BenchmarkPolicy, Slo
from slipway.core.verdicts import GateResult, Verdict, judge, overall

SLO = Slo(ttft_p95_ms=100, error_rate_percent=1, output_tokens_per_s=20)
TARGET = Target(url="http://127.0.0.1:80", model="m", headers=(("host", "x"),))


def row(number: int, **changes: object) -> RequestRow:
    made = RequestRow(
        request_id=f"r-{number}",
        scenario="benchmark",
        start_ns=number,
        ttft_ms=50.0 + number,
        latency_ms=450.0 + number,
        itl_ms=40.0,
        input_tokens=None,
        output_tokens=11,
        status=Status.OK,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # a test names fields that exist


def failed(number: int, status: Status = Status.ERROR, error: str = "HTTP 500: x") -> RequestRow:
    nothing = {"ttft_ms": None, "latency_ms": None, "itl_ms": None, "output_tokens": 0}
    return row(number, status=status, error=error, **nothing)


COMPARISONS = {"ttft_times_stable", "itl_times_stable"}


def table(*rows: RequestRow) -> RequestTable:
    return RequestTable(
        rows=rows, started_ns=0, window_s=2.5, ended_at_ns=77, client_cpu_percent=3.25
    )


def policy(requests: int) -> BenchmarkPolicy:
    return BenchmarkPolicy(requests=requests, concurrency=2)


def verdict_of(rows: tuple[RequestRow, ...], slo: Slo = SLO) -> Verdict:
    found = evidence(table(*rows))
    return overall(tuple(judge(gate, found) for gate in gates(slo, policy(len(rows)))))


def test_figures_are_formed_as_their_formulas_say() -> None:
    rows = [row(number) for number in range(20)]
    figures = {item.name: item for item in evidence(table(*rows), digest="d")}
    assert set(figures) == set(FORMULAS) - COMPARISONS
    assert figures["ttft_p95_ms"].value == 68.0  # the 19th of 20
    assert figures["error_rate_percent"].value == 0.0
    assert figures["output_tokens_per_s"].value == 25.0
    assert {item.n for item in figures.values()} == {20}
    assert {(item.digest, item.window_s, item.taken_at_ns) for item in figures.values()} == {
        ("d", 2.5, 77)
    }


def test_a_good_benchmark_passes() -> None:
    assert verdict_of(tuple(row(number) for number in range(20))) is Verdict.PASS


def test_slow_tokens_or_a_late_first_one_fail() -> None:
    rows = tuple(row(number) for number in range(20))
    slow = tuple(row(number, itl_ms=80.0) for number in range(20))
    late = (*rows[:18], row(18, ttft_ms=101.0), row(19, ttft_ms=102.0))
    assert verdict_of(slow) is Verdict.FAIL
    assert verdict_of(late) is Verdict.FAIL
    assert verdict_of((*rows[:19], row(19, ttft_ms=5000.0))) is Verdict.PASS  # one of 20


def test_one_failure_too_many_fails_and_a_truncated_stream_counts() -> None:
    rows = tuple(row(number) for number in range(20))
    for status in (Status.ERROR, Status.TRUNCATED):
        assert verdict_of((*rows[:19], failed(19, status))) is Verdict.FAIL


def test_failures_the_slo_allows_do_not_leave_too_little_data() -> None:
    rows = (*(row(number) for number in range(19)), failed(19))
    lenient = replace(SLO, error_rate_percent=5)
    assert verdict_of(rows, lenient) is Verdict.PASS


def test_only_failures_never_pass_and_have_no_latency() -> None:
    rows = tuple(failed(number) for number in range(20))
    figures = {item.name: item for item in evidence(table(*rows))}
    assert math.isnan(figures["ttft_p95_ms"].value)
    assert math.isnan(figures["output_tokens_per_s"].value)
    assert figures["error_rate_percent"].value == 100.0
    assert verdict_of(rows, replace(SLO, error_rate_percent=100)) is Verdict.ERROR


def test_an_empty_table_is_an_error_and_fewer_requests_are_too_little() -> None:
    assert overall(tuple(judge(gate, evidence(table())) for gate in gates(SLO, policy(4)))) is (
        Verdict.ERROR
    )
    few = evidence(table(row(0), row(1)))
    results = [judge(gate, few).verdict for gate in gates(SLO, policy(4))]
    assert results == [Verdict.INCONCLUSIVE] * 3


def test_tokens_that_all_came_at_once_give_no_speed() -> None:
    figures = {item.name: item for item in evidence(table(row(0, itl_ms=0.0)))}
    assert math.isnan(figures["output_tokens_per_s"].value)


@pytest.mark.parametrize("through", ["json", "parquet"])
def test_a_table_comes_back_equal(through: str) -> None:
    whole = table(row(0), row(1, input_tokens=7), failed(2, Status.TRUNCATED, "ünï | x"))
    back = from_json(to_json(whole)) if through == "json" else from_parquet(to_parquet(whole))
    assert back == whole


def compared(
    stable: list[tuple[float, float]], candidate: list[tuple[float, float]]
) -> tuple[GateResult, ...]:
    """Judge a comparison of requests with these (TTFT, ITL) in ms."""
    arms = [("stable", item) for item in stable] + [("candidate", item) for item in candidate]
    rows = [
        row(number, scenario=arm, ttft_ms=ttft_ms, itl_ms=itl_ms)
        for number, (arm, (ttft_ms, itl_ms)) in enumerate(arms)
    ]
    found = comparison(table(*rows, failed(99)), digest="d")
    assert {(item.digest, item.unit) for item in found} == {("d", "×")}
    return tuple(judge(gate, found) for gate in comparison_gates(policy(20)))


def test_a_candidate_five_times_slower_fails_in_both_figures() -> None:
    results = compared([(40, 5)] * 10, [(200, 25)] * 10)
    assert [(item.verdict, item.value, item.n) for item in results] == [(Verdict.FAIL, 5, 10)] * 2
    assert results[0].reason == (
        "time to first token against the stable slot 5 ×, at most 2 asked (n = 10)"
    )


@pytest.mark.parametrize(
    ("stable", "candidate"),
    [
        ((40, 5), (40, 5)),
        ((40, 5), (79, 9)),
        ((40, 5), (4, 1)),
        ((1, 0.1), (9, 1.9)),  # nobody feels it
        ((0, 0), (0, 0)),
    ],
)
def test_a_candidate_less_than_twice_as_slow_passes(
    stable: tuple[float, float], candidate: tuple[float, float]
) -> None:
    assert overall(compared([stable] * 10, [candidate] * 10)) is Verdict.PASS


def test_a_few_slow_requests_do_not_make_a_slow_candidate() -> None:
    slow = [(2000.0, 300.0)] * 4
    assert overall(compared([(40, 5)] * 10, [(40, 5)] * 6 + slow)) is Verdict.PASS
    assert overall(compared([(40, 5)] * 6 + slow, [(200, 25)] * 10)) is Verdict.FAIL


@pytest.mark.parametrize("missing", ["stable", "candidate"])
def test_a_comparison_with_too_few_answers_never_passes(missing: str) -> None:
    arms = {"stable": [(40.0, 5.0)] * 10, "candidate": [(40.0, 5.0)] * 10}
    assert overall(compared(**{**arms, missing: [(40.0, 5.0)] * 4})) is Verdict.INCONCLUSIVE
    assert overall(compared(**{**arms, missing: []})) is Verdict.ERROR


def test_an_order_comes_back_equal() -> None:
    plan = BenchmarkPlan(requests=3, concurrency=2, prompts=("a", "b"))
    assert order_from_json(order_to_json(TARGET, plan, "run")) == (TARGET, plan, "run", None)
    other = replace(TARGET, headers=())
    assert order_from_json(order_to_json(TARGET, plan, "run", other))[3] == other


def test_the_report_shows_verdicts_formulas_and_what_failed() -> None:
    rows = (*(row(number) for number in range(18)), failed(18, error="a|b <i>"), failed(19))
    found = evidence(table(*rows))
    results = [judge(gate, found) for gate in gates(SLO, policy(20))]
    text = markdown(results, found, table=table(*rows), target=TARGET, policy=policy(20))
    assert "| error rate | **FAIL** | 10 % | ≤ 1 % | 20 |" in text
    assert all(
        formula.replace("|", "\\|") in text
        for name, formula in FORMULAS.items()
        if name not in COMPARISONS
    )
    assert "a\\|b &lt;i>" in text
    assert "HTTP 500: x" in text
    assert text.count("\n|") == 5 + 4


def test_a_report_without_data_shows_a_dash() -> None:
    found = evidence(table())
    results = [judge(gate, found) for gate in gates(SLO, policy(4))]
    text = markdown(results, found, table=table(), target=TARGET, policy=policy(4))
    assert text.count("| **ERROR** | – |") == 3
    assert "how it failed" not in text


def test_many_kinds_of_failures_are_cut_short() -> None:
    rows = tuple(failed(number, error=f"kind {number}") for number in range(9))
    found = evidence(table(*rows))
    text = markdown([], found, table=table(*rows), target=TARGET, policy=policy(9))
    assert "…and 4 more kinds of failures." in text
