from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.core.backup.periods import Period, period_number
from slipway.core.backup.retention import Policy, Version, reasons_to_keep
from slipway.core.errors import InputError

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
NOTHING = Policy(last=0, min_age_s=0)


def ns(at: datetime.datetime) -> int:
    return int(at.timestamp()) * 10**9


def version(days_ago: float, **changes: Any) -> Version:
    taken = ns(NOW - datetime.timedelta(days=days_ago))
    made: dict[str, Any] = {"name": f"v{days_ago:g}", "model": "chat", "taken_at_ns": taken}
    return Version(**{**made, "verified_at_ns": taken, **changes})


def kept(versions: list[Version], policy: Policy) -> dict[str, tuple[str, ...]]:
    found = reasons_to_keep(versions, policy, now_ns=ns(NOW))
    return {name: why for name, why in found.items() if why}


@given(st.integers(0, 13_569_465_600))  # to 2400
def test_periods_are_those_of_the_calendar(moment_s: int) -> None:
    at = datetime.datetime.fromtimestamp(moment_s, datetime.UTC)
    found = {period: period_number(period, ns(at)) for period in Period}
    assert found[Period.DAILY] == at.toordinal() - datetime.date(1970, 1, 1).toordinal()
    assert found[Period.HOURLY] == found[Period.DAILY] * 24 + at.hour
    assert found[Period.MONTHLY] == at.year * 12 + at.month - 1
    assert found[Period.YEARLY] == at.year
    monday = at.date() - datetime.timedelta(days=at.weekday())
    assert found[Period.WEEKLY] == period_number(
        Period.WEEKLY, ns(datetime.datetime(*monday.timetuple()[:3], tzinfo=datetime.UTC))
    )
    before = monday - datetime.timedelta(days=1)
    if before.year >= 1970:
        sunday = datetime.datetime(*before.timetuple()[:3], tzinfo=datetime.UTC)
        assert found[Period.WEEKLY] == period_number(Period.WEEKLY, ns(sunday)) + 1


def test_newest_verified_version_of_each_period_is_kept() -> None:
    versions = [version(days) for days in (0.1, 0.2, 1, 2, 40, 41)]

    found = kept(versions, Policy(last=0, min_age_s=0, periods={Period.DAILY: 2}))
    assert found == {"v0.1": ("the newest", "verified last", "daily"), "v1": ("daily",)}
    monthly = kept(versions, Policy(last=0, min_age_s=0, periods={Period.MONTHLY: 9}))
    assert set(monthly) == {"v0.1", "v1", "v40"}


def test_versions_that_nobody_read_back_fill_no_place() -> None:
    versions = [version(1, verified_at_ns=None), version(2), version(3, broken=True), version(4)]

    found = kept(versions, Policy(last=2, min_age_s=0))
    assert set(found) == {"v1", "v2", "v4"}
    assert found["v1"] == ("the newest",)


def test_what_was_verified_last_is_kept_whatever_the_policy_says() -> None:
    versions = [version(1, verified_at_ns=None), version(200), version(300)]

    assert kept(versions, NOTHING) == {"v1": ("the newest",), "v200": ("verified last",)}


def test_broken_version_is_kept_while_no_good_one_is_there() -> None:
    versions = [version(1, verified_at_ns=None), version(2, broken=True), version(3, broken=True)]

    assert kept(versions, NOTHING)["v2"] == ("verified last",)
    assert "v2" not in kept([*versions, version(9)], NOTHING)


def test_what_is_held_used_tagged_or_young_is_kept() -> None:
    versions = [
        version(0),
        version(5, holds=("audit",)),
        version(6, in_use=("live",)),
        version(7, tags=frozenset({"gold", "x"})),
        version(0.5, verified_at_ns=None),
        version(8),
    ]

    found = kept(versions, Policy(last=0, min_age_s=86_400, tags=frozenset({"gold"})))
    assert found["v5"] == ("held: audit",)
    assert found["v6"] == ("in use: live",)
    assert found["v7"] == ("tag gold",)
    assert found["v0.5"] == ("younger than 86400 s",)
    assert "v8" not in found


def test_each_model_has_places_of_its_own() -> None:
    versions = [version(1), version(2, model="other")]
    assert set(kept(versions, NOTHING)) == {"v1", "v2"}


@pytest.mark.parametrize("wrong", [{"last": -1}, {"periods": {Period.DAILY: -2}}])
def test_negative_counts_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="retention's"):
        Policy(**wrong)


_DAYS = st.floats(0, 900).map(lambda days: round(days, 1))


@given(
    st.lists(st.tuples(_DAYS, st.booleans(), st.booleans()), min_size=1, max_size=30),
    st.integers(0, 3),
    st.dictionaries(st.sampled_from(list(Period)), st.integers(0, 4)),
)
def test_last_verified_version_survives_every_policy(
    drawn: list[tuple[float, bool, bool]], last: int, periods: dict[Period, int]
) -> None:
    versions = [
        version(days, name=f"{n}", broken=broken, **({} if verified else {"verified_at_ns": None}))
        for n, (days, verified, broken) in enumerate(drawn)
    ]
    found = kept(versions, Policy(last=last, min_age_s=0, periods=periods))
    verified = [item for item in versions if item.verified_at_ns is not None]
    good = [item for item in verified if not item.broken]
    newest = max((item.taken_at_ns for item in good or verified), default=None)
    assert newest is None or any(
        item.taken_at_ns == newest and item.name in found for item in good or verified
    )
