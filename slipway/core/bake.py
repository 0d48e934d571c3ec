"""What the gateway's rows say of the new slot while it bakes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from slipway.core.routing import Slot
from slipway.core.statistics import binomial_tail
from slipway.core.traffic import AccessRow, failures, user_rows
from slipway.core.verdicts import Bound, Evidence, Gate, GateResult, Verdict, judge

_MIN_REQUESTS = 20
_STEP_NS = 1_000_000_000
_TOO_UNLIKELY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeWatch:
    """One process's watch of a bake: how long by a clock that never steps, and which rows count.

    Args:
        since_ns: rows of requests that started before do not count, Unix time.
        began_ns: of the watch, monotonic.
        offset_ns: Unix time − monotonic time as the watch began.
        ignored: ids of rows that do not count although their times would.
    """

    since_ns: int
    began_ns: int
    offset_ns: int
    ignored: frozenset[str] = frozenset()

    def baked_s(self, *, monotonic_ns: int) -> float:
        """Return how long the watch has lasted."""
        return (monotonic_ns - self.began_ns) / 1e9

    def went_back(self, *, now_ns: int, monotonic_ns: int) -> bool:
        """Return whether the wall clock was set back since the watch began.

        Then times come twice, and what follows starts "before" the bake: watch anew. A clock that
        was set forward does no harm: later rows are still later.
        """
        return now_ns - monotonic_ns < self.offset_ns - _STEP_NS

    def counts(self, row: AccessRow) -> bool:
        """Return whether a row of the gateway belongs to the bake."""
        return row.started_ns >= self.since_ns and row.request_id not in self.ignored


def watch_bake(
    *, since_ns: int, now_ns: int, monotonic_ns: int, ignored: frozenset[str] = frozenset()
) -> BakeWatch:
    """Return a watch that begins now.

    Args:
        since_ns: when the bake began by the record; what an earlier process saw counts too. In the
            future, it was written by a clock that has been set back since.
        now_ns: Unix time.
        monotonic_ns: monotonic time.
        ignored: ids of rows that are there already and do not count.
    """
    return BakeWatch(
        since_ns=min(since_ns, now_ns),
        began_ns=monotonic_ns,
        offset_ns=now_ns - monotonic_ns,
        ignored=ignored,
    )


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
