"""What the gateway's rows say of the new slot while it bakes."""

from __future__ import annotations

import math
from collections.abc import Iterable

from slipway.core.routing import Slot
from slipway.core.traffic import AccessRow, failures, user_rows
from slipway.core.verdicts import Evidence


def bake_evidence(
    rows: Iterable[AccessRow], slot: Slot, *, since_ns: int, now_ns: int
) -> tuple[Evidence, ...]:
    """Return the error rate of the users' requests that `slot` served.

    Formula: 100 × failed or truncated / all requests of users on the slot. NaN without any.

    Args:
        rows: the gateway's rows of the service.
        slot: the new slot.
        since_ns: begin of the bake, Unix time.
        now_ns: Unix time.
    """
    users = [row for row in user_rows(rows) if row.slot == slot.value]
    failed = len(failures(users))
    rate = 100 * failed / len(users) if users else math.nan
    return (
        Evidence(
            name="error_rate_percent",
            value=rate,
            unit="%",
            n=len(users),
            window_s=(now_ns - since_ns) / 1e9,
            source="gateway access log",
            taken_at_ns=now_ns,
        ),
    )
