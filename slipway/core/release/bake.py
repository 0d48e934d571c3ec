"""What the gateway's rows say of the new slot while it bakes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from slipway.core.routing import Slot
from slipway.core.statistics import binomial_tail
from slipway.core.traffic import AccessTail, LogPosition, failures, user_rows
from slipway.core.verdicts import Bound, Evidence, Gate, GateResult, Verdict, judge

_MIN_REQUESTS = 20
_TOO_UNLIKELY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeWatch:
    """One process's watch of a bake. No wall clock decides: they step, and each machine has one.

    Args:
        slot: the new slot.
        began_s: monotonic.
        position: how far the gateway's log has been read.
        users: how many requests of users the slot ended since the watch began.
        failed: how many of them failed or were truncated.
    """

    slot: Slot
    began_s: float
    position: LogPosition
    users: int = 0
    failed: int = 0

    def baked_s(self, *, now_s: float) -> float:
        """Return how long the watch has lasted."""
        return now_s - self.began_s

    def after(self, tail: AccessTail) -> BakeWatch:
        """Return the watch once it has seen what was logged since its last look."""
        users = [row for row in user_rows(tail.rows) if row.slot == self.slot.value]
        return replace(
            self,
            position=tail.end,
            users=self.users + len(users),
            failed=self.failed + len(failures(users)),
        )


def bake_evidence(watch: BakeWatch, *, window_s: float, now_ns: int) -> tuple[Evidence, ...]:
    """Return the error rate of the users' requests that the new slot served.

    Formula: 100 × failed or truncated / all requests of users on the slot. NaN without any.

    Args:
        watch: of the bake.
        window_s: how long it has lasted.
        now_ns: Unix time.
    """
    return (
        Evidence(
            name="error_rate_percent",
            value=100 * watch.failed / watch.users if watch.users else math.nan,
            unit="%",
            n=watch.users,
            window_s=window_s,
            source="gateway access log",
            taken_at_ns=now_ns,
        ),
    )


def judge_bake(
    evidence: tuple[Evidence, ...], *, error_rate_percent: float, users_seen: bool = True
) -> GateResult:
    """Return what the users' requests say of the new slot.

    A bake without users is INCONCLUSIVE, not an error: the log was read, nobody asked. It does not
    take a release back, since every gate has passed before; it never counts as a PASS either.

    Below the 20 requests that a PASS needs, the bake FAILs when so many failures are too unlikely
    (less than 1 in 100, exact binomial tail) for a slot that keeps its SLO: 2 of 10 at 1 %.

    Args:
        evidence: of `bake_evidence`.
        error_rate_percent: the service's SLO.
        users_seen: False where no gateway tells of the users: that is INCONCLUSIVE, too.
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
            reason="no user asked during the bake"
            if users_seen
            else "users are not seen: router.access_log is false",
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
