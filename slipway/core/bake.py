"""What the gateway's rows say of the new slot while it bakes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from slipway.core.routing import Slot
from slipway.core.statistics import binomial_tail
from slipway.core.traffic import AccessRow, failures, user_rows
from slipway.core.verdicts import Bound, Evidence, Gate, GateResult, Verdict, judge

_MIN_REQUESTS = 20
_TOO_UNLIKELY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeWatch:
    """One process's watch of a bake. No wall clock decides: they step, and each machine has one.

    Args:
        began_s: monotonic.
        rows_before: how many rows of the service the gateway had logged by then.
    """

    began_s: float
    rows_before: int

    def baked_s(self, *, now_s: float) -> float:
        """Return how long the watch has lasted."""
        return now_s - self.began_s

    def rows_of_bake(self, rows: Sequence[AccessRow]) -> Sequence[AccessRow]:
        """Return the rows that were logged since the watch began.

        Args:
            rows: all of the service, in the order in which they were logged. Fewer than there were
                are those of a new log.
        """
        return rows[self.rows_before :] if len(rows) >= self.rows_before else rows


def bake_evidence(
    rows: Iterable[AccessRow], slot: Slot, *, window_s: float, now_ns: int
) -> tuple[Evidence, ...]:
    """Return the error rate of the users' requests that `slot` served.

    Formula: 100 × failed or truncated / all requests of users on the slot. NaN without any.

    Args:
        rows: the gateway's rows of the service.
        slot: the new slot.
        window_s: how long the bake has been watched.
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
            window_s=window_s,
            source="gateway access log",
            taken_at_ns=now_ns,
        ),
    )


def judge_bake(evidence: tuple[Evidence, ...], *, error_rate_percent: float) -> GateResult:
    """Return what the users' requests say of the new slot.

    A bake without users is INCONCLUSIVE, not an error: the log was read, nobody asked. It does not
    take a release back, since every gate has passed before; it never counts as a PASS either.

    Below the 20 requests that a PASS needs, the bake FAILs when so many failures are too unlikely
    (less than 1 in 100, exact binomial tail) for a slot that keeps its SLO: 2 of 10 at 1 %.

    Args:
        evidence: of `bake_evidence`.
        error_rate_percent: the service's SLO.
    """
    gate = Gate(
        name="users' error rate",
        evidence="error_rate_percent",
        bound=Bound.AT_MOST,
        threshold=error_rate_percent,
        n_min=_MIN_REQUESTS,
    )
    if all(item.n == 0 for item in evidence):
        return GateResult(
            gate=gate,
            verdict=Verdict.INCONCLUSIVE,
            value=math.nan,
            n=0,
            reason="no user asked during the bake",
        )
    result = judge(gate, evidence)
    if result.verdict is not Verdict.INCONCLUSIVE:
        return result
    failed = round(result.value * result.n / 100)
    chance = binomial_tail(failed, result.n, error_rate_percent / 100)
    if chance >= _TOO_UNLIKELY:
        return result
    reason = (
        f"{gate.name} {result.value:.4g} %: {failed} of {result.n} failed, "
        f"too many for {gate.threshold:.4g} % even of so few"
    )
    return replace(result, verdict=Verdict.FAIL, reason=reason)
