from __future__ import annotations

import math

from slipway.core.release.bake import BakeWatch, bake_evidence, judge_bake
from slipway.core.routing import Slot
from slipway.core.traffic import AccessRow, AccessTail, LogPosition
from slipway.core.verdicts import Evidence, Verdict


def row(slot: str = "green", *, status: int = 200, purpose: str = "") -> AccessRow:
    return AccessRow(started_ns=1, slot=slot, status=status, purpose=purpose)


def tail(*rows: AccessRow, end_bytes: int = 0) -> AccessTail:
    return AccessTail(rows=rows, end=LogPosition(log="log", offset_bytes=end_bytes))


def watch(began_s: float = 0.0) -> BakeWatch:
    return BakeWatch(slot=Slot.GREEN, began_s=began_s, position=tail().end)


def evidence(*rows: AccessRow) -> Evidence:
    seen = watch().after(tail(*rows))
    (found,) = bake_evidence(seen, window_s=5.0, now_ns=5_000_000_000)
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


def test_watch_lasts_from_its_begin() -> None:
    assert watch(began_s=7.0).baked_s(now_s=12.5) == 5.5


def test_looks_add_up_and_each_begins_where_the_last_ended() -> None:
    first = watch().after(tail(row(), row(status=503), row("blue"), end_bytes=300))
    second = first.after(tail(row(status=503), row(purpose="smoke"), end_bytes=500))
    assert (first.users, first.failed, first.position.offset_bytes) == (2, 1, 300)
    assert (second.users, second.failed, second.position.offset_bytes) == (3, 2, 500)
    assert second.began_s == first.began_s


def test_users_whom_nobody_sees_are_not_called_absent() -> None:
    result = judge_bake((evidence(),), error_rate_percent=1.0, users_seen=False)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == "users are not seen: router.access_log is false"
