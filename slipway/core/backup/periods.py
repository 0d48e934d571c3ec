"""Days, weeks, months and years of a moment, in UTC: the periods that backups are kept by."""

from __future__ import annotations

from enum import StrEnum

_NS_PER_DAY = 86_400 * 10**9
_DAYS_PER_ERA = 146_097
"""Of 400 years, after which the calendar repeats itself."""


class Period(StrEnum):
    """What one backup is kept of."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"


def period_number(period: Period, at_ns: int) -> int:
    """Return the number of the period that a moment lies in; later periods have larger ones.

    Args:
        period: weeks begin on Monday, as in ISO 8601.
        at_ns: since 1970-01-01 UTC.
    """
    days = at_ns // _NS_PER_DAY
    match period:
        case Period.HOURLY:
            return at_ns // (_NS_PER_DAY // 24)
        case Period.DAILY:
            return days
        case Period.WEEKLY:
            return (days + 3) // 7  # the first of January 1970 was a Thursday
        case Period.MONTHLY:
            year, month = _year_and_month(days)
            return 12 * year + month - 1
    return _year_and_month(days)[0]


def _year_and_month(days: int) -> tuple[int, int]:
    """Return year and month of a day since 1970-01-01.

    The years begin in March, so that the day that may be missing is their last (the algorithm of
    H. Hinnant's "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
    """
    era, day = divmod(days + 719_468, _DAYS_PER_ERA)
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day_of_year = day - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    if month < 10:
        return era * 400 + year, month + 3
    return era * 400 + year + 1, month - 9
