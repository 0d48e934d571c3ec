from __future__ import annotations

import math

from slipway.core.bake import bake_evidence, judge_bake, watch_bake
from slipway.core.routing import Slot
from slipway.core.traffic import AccessRow
from slipway.core.verdicts import Evidence, Verdict


def row(slot: str = "green", *, status: int = 200, purpose: str = "") -> AccessRow:
    return AccessRow(started_ns=1, slot=slot, status=status, purpose=purpose)


def evidence(*rows: AccessRow) -> Evidence:
    (found,) = bake_evidence(rows, Slot.GREEN, window_s=5.0, now_ns=5_000_000_000)
    return found


def test_error_rate_is_that_of_users_on_the_new_slot() -> None:
    found = evidence(row(), row(), row(), row(status=503), row("blue", status=503))

    assert (found.name, found.value, found.n) == ("error_rate_percent", 25.0, 4)
    assert (found.window_s, found.taken_at_ns) == (5.0, 5_000_000_000)


def test_traffic_of_our_own_counts_neither_as_good_nor_as_bad() -> None:
    found = evidence(row(), row(purpose="smoke", status=503), row(purpose="benchmark"))

    assert (found.value, found.n) == (0.0, 1)


def test_bake_without_users_has_no_figure() -> None:
    found = evidence(row("blue"))

    assert math.isnan(found.value)
    assert found.n == 0


def test_bake_without_users_is_inconclusive_and_never_passes() -> None:
    result = judge_bake((evidence(),), error_rate_percent=1)

    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == "no user asked during the bake"


def test_failing_users_fail_the_bake_and_served_ones_pass_it() -> None:
    good = evidence(*[row()] * 20)
    bad = evidence(*[row()] * 19, row(status=503))

    assert judge_bake((good,), error_rate_percent=1).verdict is Verdict.PASS
    assert judge_bake((bad,), error_rate_percent=1).verdict is Verdict.FAIL


def test_few_users_of_whom_too_many_fail_fail_the_bake() -> None:
    result = judge_bake((evidence(*[row()] * 8, *[row(status=503)] * 2),), error_rate_percent=1)

    assert result.verdict is Verdict.FAIL
    assert result.reason == (
        "users' error rate 20 %: 2 of 10 failed, too many for 1 % even of so few"
    )


def test_one_failure_of_few_users_says_nothing_yet() -> None:
    result = judge_bake((evidence(*[row()] * 9, row(status=503)),), error_rate_percent=1)

    assert result.verdict is Verdict.INCONCLUSIVE


def test_few_users_who_are_all_served_say_nothing_yet() -> None:
    result = judge_bake((evidence(*[row()] * 19),), error_rate_percent=0)

    assert result.verdict is Verdict.INCONCLUSIVE


_HOUR_NS = 3_600_000_000_000


def test_watch_lasts_as_long_as_time_passes_whatever_the_wall_clock_does() -> None:
    watch = watch_bake(since_ns=_HOUR_NS, now_ns=_HOUR_NS, monotonic_ns=7)
    assert watch.baked_s(monotonic_ns=5_000_000_007) == 5.0


def test_watch_sees_a_clock_set_back_and_no_other_change() -> None:
    watch = watch_bake(since_ns=9 * _HOUR_NS, now_ns=9 * _HOUR_NS, monotonic_ns=0)
    assert watch.went_back(now_ns=8 * _HOUR_NS, monotonic_ns=500)
    assert not watch.went_back(now_ns=9 * _HOUR_NS, monotonic_ns=900_000_000)  # slewed, no step
    assert not watch.went_back(now_ns=10 * _HOUR_NS, monotonic_ns=500)


def test_rows_before_the_bake_or_of_a_time_that_came_twice_do_not_count() -> None:
    watch = watch_bake(
        since_ns=100, now_ns=50, monotonic_ns=0, ignored=frozenset({"of the first time"})
    )
    counted = [
        item.request_id
        for item in (
            AccessRow(started_ns=49, status=200, request_id="before"),
            AccessRow(started_ns=60, status=200, request_id="of the first time"),
            AccessRow(started_ns=60, status=200, request_id="of the second time"),
        )
        if watch.counts(item)
    ]
    assert counted == ["of the second time"]
