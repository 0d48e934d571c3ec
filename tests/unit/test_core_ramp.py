from __future__ import annotations

import math
from dataclasses import replace

import pytest

from slipway.core.release.ramp import (
    RampWatch,
    Tally,
    enough,
    judge_ramp,
    ramp_evidence,
    unreadable,
)
from slipway.core.release.record import ReleaseRecord
from slipway.core.routing import PREVIEW_RULE, Slot
from slipway.core.service import RampPolicy, Slo
from slipway.core.traffic import AccessRow, AccessTail, LogPosition
from slipway.core.verdicts import Evidence, GateResult, Verdict
from tests.examples import record

POLICY = RampPolicy(requests_min=20, error_ratio_max=2.0, ttft_ratio_max=1.5)
SLO = Slo(ttft_p95_ms=1000, error_rate_percent=1, output_tokens_per_s=5)
END = LogPosition(log="log", offset_bytes=9)


def row(slot: str = "green", *, ttft_ms: float = 100.0, status: int = 200) -> AccessRow:
    """Return a user's stream that the route of the weight under watch served."""
    good = status == 200
    return AccessRow(
        started_ns=1,
        slot=slot,
        status=status,
        route_revision="rev",
        content_type="text/event-stream" if good else "",
        ttft_us=round(ttft_ms * 1000) if good else None,
        done_seen=good,
    )


def release() -> ReleaseRecord:
    return replace(record("2"), candidate=Slot.GREEN, stable=Slot.BLUE)


def seen(*rows: AccessRow) -> RampWatch:
    began = RampWatch(
        weight_percent=5,
        revision="rev",
        began_s=0.0,
        position=LogPosition(log="log", offset_bytes=0),
    )
    return began.after(release(), AccessTail(rows=rows, end=END))


def figures(watch: RampWatch) -> dict[str, Evidence]:
    found = ramp_evidence(watch, POLICY, window_s=5.0, now_ns=7)
    return {item.name: item for item in found}


def judged(stable: Tally, candidate: Tally) -> tuple[GateResult, GateResult]:
    watch = replace(seen(), stable=stable, candidate=candidate)
    errors, slow = judge_ramp(tuple(figures(watch).values()), POLICY, SLO)
    return errors, slow


def tally(users: int, *, failed: int = 0, ttft_ms: float = 100.0, slow: int = 0) -> Tally:
    times = (ttft_ms,) * (users - failed - slow) + (ttft_ms * 10,) * slow
    return Tally(users=users, failed=failed, first_tokens_ms=times)


def test_rows_of_both_slots_are_counted_and_the_log_is_read_on() -> None:
    watch = seen(row("green"), row("green", status=503), row("blue", ttft_ms=40))

    assert watch.candidate == Tally(users=2, failed=1, first_tokens_ms=(100.0,))
    assert watch.stable == Tally(users=1, failed=0, first_tokens_ms=(40.0,))
    assert watch.position == END


@pytest.mark.parametrize(
    "other",
    [
        replace(row(), purpose="smoke"),
        replace(row(), purpose="warm-up"),
        replace(row(), route=PREVIEW_RULE),
        replace(row(), route_revision="of the weight before"),
        replace(row(), slot=""),
    ],
)
def test_rows_that_are_not_users_of_this_weight_count_for_nobody(other: AccessRow) -> None:
    assert seen(other) == seen()


def test_answer_in_one_piece_has_its_first_token_at_its_end() -> None:
    whole = replace(row(), content_type="application/json", ttft_us=None, duration_ms=250)

    assert seen(whole).candidate.first_tokens_ms == (250.0,)


@pytest.mark.parametrize(
    "without",
    [
        replace(row(), flags=frozenset({"DC"}), done_seen=False),  # the user left
        replace(row(), status=404, content_type="", done_seen=False),  # the user's own mistake
        replace(row(), ttft_us=None),  # a stream without output
    ],
)
def test_answer_without_a_first_token_is_a_request_but_no_time(without: AccessRow) -> None:
    assert seen(without).candidate == Tally(users=1, failed=0, first_tokens_ms=())


def test_truncated_stream_is_a_failure() -> None:
    assert seen(replace(row(), done_seen=False)).candidate.failed == 1


def test_figures_are_those_of_the_formulas() -> None:
    fast, slow = [row(ttft_ms=10.0 * n) for n in range(1, 20)], [row(ttft_ms=900)]
    found = figures(seen(*fast, *slow, *[row("blue", ttft_ms=100)] * 4, row("blue", status=500)))

    assert found["error_rate_percent"].value == 0
    assert found["stable_error_rate_percent"].value == 20
    assert found["ttft_p95_ms"].value == 190
    assert found["stable_ttft_p95_ms"].value == 100
    assert (found["slow_percent"].value, found["slow_percent"].n) == (25, 20)  # beyond 150 ms
    assert {item.taken_at_ns for item in found.values()} == {7}


def test_two_fast_slots_are_equally_fast() -> None:
    found = figures(seen(row(ttft_ms=14), row("blue", ttft_ms=1)))

    assert found["slow_percent"].value == 0


def test_without_requests_every_figure_is_nan() -> None:
    assert all(math.isnan(item.value) for item in figures(seen()).values())
    assert math.isnan(figures(seen(row("green")))["slow_percent"].value)


def test_equal_slots_pass_both_gates() -> None:
    errors, slow = judged(tally(100, failed=1), tally(20))

    assert (errors.verdict, slow.verdict) == (Verdict.PASS, Verdict.PASS)
    assert (errors.n, slow.n) == (20, 20)


@pytest.mark.parametrize(("stable", "candidate"), [(100, 19), (19, 100)])
def test_too_few_requests_of_either_slot_are_inconclusive(stable: int, candidate: int) -> None:
    errors, slow = judged(tally(stable), tally(candidate))

    assert (errors.verdict, slow.verdict) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    assert "20 of each are needed" in errors.reason
    assert not enough((errors, slow))


def test_no_request_at_all_is_inconclusive_and_never_passes() -> None:
    errors, slow = judged(tally(100), tally(0))

    assert (errors.verdict, slow.verdict) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    assert "no request to compare" in errors.reason


def test_failing_candidate_fails_before_the_least_number_is_in() -> None:
    errors, _ = judged(tally(100), tally(4, failed=3))

    assert errors.verdict is Verdict.FAIL


def test_one_failure_among_few_may_be_chance() -> None:
    errors, slow = judged(tally(100), tally(30, failed=1))

    assert errors.verdict is Verdict.INCONCLUSIVE
    assert enough((errors, slow))


def test_failures_that_the_stable_slot_has_too_are_not_the_candidates() -> None:
    errors, _ = judged(tally(1000, failed=100), tally(1000, failed=120))

    assert errors.verdict is Verdict.PASS


def test_error_rate_beyond_the_ratio_fails() -> None:
    errors, _ = judged(tally(1000, failed=100), tally(1000, failed=300))

    assert errors.verdict is Verdict.FAIL
    assert "at most 20 % asked" in errors.reason


def test_stable_slot_that_fails_itself_is_nothing_to_compare_a_failing_candidate_with() -> None:
    errors, _ = judged(tally(45, failed=36), tally(32, failed=16))

    assert errors.verdict is Verdict.ERROR
    assert "the stable slot fails 80 % itself" in errors.reason


def test_failures_of_the_stable_slot_excuse_no_more_than_their_most() -> None:
    errors, _ = judged(tally(133, failed=33), tally(131, failed=65))

    assert errors.verdict is Verdict.FAIL
    assert "at most 30 % asked" in errors.reason


def test_candidate_within_its_slo_passes_beside_a_stable_slot_that_fails() -> None:
    errors, _ = judged(tally(100, failed=80), tally(100))

    assert errors.verdict is Verdict.PASS


def test_candidate_twice_as_slow_fails() -> None:
    _, slow = judged(tally(100), tally(20, ttft_ms=200))

    assert slow.verdict is Verdict.FAIL
    assert "1.5 × the stable slot's p95" in slow.reason


def test_a_few_slow_requests_too_many_wait_for_more() -> None:
    _, slow = judged(tally(100), tally(30, slow=3))

    assert slow.verdict is Verdict.INCONCLUSIVE


def test_missing_figure_is_an_error() -> None:
    incomplete = tuple(figures(seen(row())).values())[:-1]

    assert {item.verdict for item in judge_ramp(incomplete, POLICY, SLO)} == {Verdict.ERROR}


def test_rows_that_cannot_be_read_are_an_error_with_its_reason() -> None:
    found = unreadable(POLICY, "the log is away")

    assert {(item.verdict, item.reason) for item in found} == {(Verdict.ERROR, "the log is away")}
    assert not enough(found)


def test_nothing_judged_is_never_enough() -> None:
    assert not enough(())


def test_request_that_fell_back_is_a_failure_of_the_candidate_though_its_user_was_answered() -> (
    None
):
    fell = replace(row("green"), fell_back=True)
    watch = seen(row("green"), fell)

    assert not fell.failed
    assert watch.candidate == Tally(users=2, failed=1, first_tokens_ms=(100.0,))
