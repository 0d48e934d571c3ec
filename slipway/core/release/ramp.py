"""One weight of a canary: what the gateway's rows say of it, and what the gates make of that.

Both slots answer at the same time, so whatever else slows or fails the machine does it to both, and
only the difference between them counts. The gates have fixed limits; a limit counts as broken only
when so many requests beyond it are too unlikely to be chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from slipway.core.release.record import ReleaseRecord
from slipway.core.routing import Slot
from slipway.core.service import RampPolicy, Slo
from slipway.core.statistics import binomial_tail, percent, quantile
from slipway.core.traffic import AccessRow, AccessTail, LogPosition, user_rows
from slipway.core.verdicts import Bound, Evidence, Gate, GateResult, Measurement, Verdict

SOURCE = "gateway access log"

_QUANTILE = 0.95
_SLOW_PERCENT = 5.0
_TTFT_FLOOR_MS = 10.0  # two slots below it are equally fast: nobody feels it
_TOO_UNLIKELY = 0.001
# More failures of the candidate than this are excused by no stable slot: it is no yardstick then.
_NO_YARDSTICK_PERCENT = 50.0
_MOST_EXCUSED_PERCENT = 30.0  # of the candidate's requests, by failures of the stable slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What the users of one slot met.

    Args:
        users: requests that ended.
        failed: of them, failed or truncated, or answered by the other slot because none of this
            one's pods did: users do not notice, the gate must.
        first_tokens_ms: time to first token of each that went well, in the order they ended; of an
            answer in one piece, its whole duration.
    """

    users: int = 0
    failed: int = 0
    first_tokens_ms: tuple[float, ...] = ()

    def plus(self, rows: tuple[AccessRow, ...]) -> Tally:
        """Return the tally with further rows of the slot."""
        times = tuple(time for row in rows if (time := _first_token_ms(row)) is not None)
        return Tally(
            users=self.users + len(rows),
            failed=self.failed + sum(row.failed or row.fell_back for row in rows),
            first_tokens_ms=self.first_tokens_ms + times,
        )


def _first_token_ms(row: AccessRow) -> float | None:
    if row.failed or row.fell_back or row.client_left or row.status >= 400:
        return None
    if row.streaming:
        return None if row.ttft_us is None else row.ttft_us / 1000
    return float(row.duration_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class RampWatch:
    """One process's watch of one weight. No wall clock decides.

    Args:
        weight_percent: of the candidate.
        revision: of the route; only rows that it served count.
        began_s: monotonic.
        position: how far the gateway's log has been read.
    """

    weight_percent: int
    revision: str
    began_s: float
    position: LogPosition
    stable: Tally = Tally()
    candidate: Tally = Tally()

    def after(self, record: ReleaseRecord, tail: AccessTail) -> RampWatch:
        """Return the watch once it has seen what was logged since its last look."""
        rows = [row for row in user_rows(tail.rows) if row.route_revision == self.revision]

        def of(slot: Slot | None) -> tuple[AccessRow, ...]:
            return tuple(row for row in rows if row.slot == slot)

        return replace(
            self,
            position=tail.end,
            stable=self.stable.plus(of(record.stable)),
            candidate=self.candidate.plus(of(record.candidate)),
        )


def ramp_evidence(
    watch: RampWatch, policy: RampPolicy, *, window_s: float, now_ns: int
) -> tuple[Evidence, ...]:
    """Return the figures of one weight, NaN where there is no request.

    Formulas: error rate = 100 × failed or truncated / requests of users; p95 = ⌈0.95·n⌉-th smallest
    time to first token; slow = 100 × candidate's requests slower than `ttft_ratio_max` × the stable
    slot's p95 (at least 10 ms) / candidate's requests with a first token.

    Args:
        watch: of the weight.
        policy: its limits.
        window_s: how long the weight has been watched.
        now_ns: Unix time.
    """
    figure = Measurement(window_s=window_s, source=SOURCE, taken_at_ns=now_ns).figure
    stable, candidate = watch.stable, watch.candidate
    p95_ms = {
        name: quantile(tally.first_tokens_ms, _QUANTILE)
        for name, tally in (("stable", stable), ("candidate", candidate))
    }
    limit_ms = policy.ttft_ratio_max * max(p95_ms["stable"], _TTFT_FLOOR_MS)
    slow = sum(time > limit_ms for time in candidate.first_tokens_ms)
    counted = len(candidate.first_tokens_ms)
    known = counted if stable.first_tokens_ms else 0
    return (
        figure(
            "stable_error_rate_percent", percent(stable.failed, stable.users), "%", stable.users
        ),
        figure(
            "error_rate_percent", percent(candidate.failed, candidate.users), "%", candidate.users
        ),
        figure("stable_ttft_p95_ms", p95_ms["stable"], "ms", len(stable.first_tokens_ms)),
        figure("ttft_p95_ms", p95_ms["candidate"], "ms", counted),
        figure("slow_percent", percent(slow, counted) if known else math.nan, "%", known),
    )


def judge_ramp(
    evidence: tuple[Evidence, ...], policy: RampPolicy, slo: Slo
) -> tuple[GateResult, ...]:
    """Return what the gates say of one weight.

    A gate PASSes when both slots had `requests_min` requests and its limit holds; it FAILs, however
    few they were, when so many beyond the limit have a chance below 1 in 1000 (exact binomial
    tail); otherwise it is INCONCLUSIVE. A figure that is missing is ERROR. So
    is one beyond the SLO when the stable slot fails so often that half of the candidate's requests
    could fail and more: it is no yardstick.

    Args:
        evidence: of `ramp_evidence`.
        policy: the limits against the stable slot.
        slo: an error rate within it never fails.
    """
    found = {item.name: item for item in evidence}
    if not found.keys() >= _FIGURES:
        return tuple(_unmeasured(gate) for gate in _gates(policy, math.nan))
    errors, slow = found["error_rate_percent"], found["slow_percent"]
    stable_errors, stable_ttft = found["stable_error_rate_percent"], found["stable_ttft_p95_ms"]
    stable_percent = 0.0 if math.isnan(stable_errors.value) else stable_errors.value
    relative = policy.error_ratio_max * stable_percent
    error_gate, slow_gate = _gates(
        policy, max(slo.error_rate_percent, min(relative, _MOST_EXCUSED_PERCENT))
    )
    broken = relative > _NO_YARDSTICK_PERCENT and errors.value > slo.error_rate_percent
    return (
        _without_yardstick(error_gate, errors, stable=stable_errors)
        if broken
        else _judged(error_gate, errors, stable=stable_errors),
        _judged(slow_gate, slow, stable=stable_ttft),
    )


_FIGURES = frozenset(
    {
        "stable_error_rate_percent",
        "error_rate_percent",
        "stable_ttft_p95_ms",
        "ttft_p95_ms",
        "slow_percent",
    }
)


def unreadable(policy: RampPolicy, why: str) -> tuple[GateResult, ...]:
    """Return the results when the rows could not be read: ERROR, whatever was seen before."""
    return tuple(replace(_unmeasured(gate), reason=why) for gate in _gates(policy, math.nan))


def enough(results: tuple[GateResult, ...]) -> bool:
    """Return whether every gate has the requests it needs of both slots."""
    return bool(results) and all(item.n >= item.gate.n_min for item in results)


def _gates(policy: RampPolicy, error_limit_percent: float) -> tuple[Gate, Gate]:
    return (
        Gate(
            name="users' error rate",
            evidence="error_rate_percent",
            bound=Bound.AT_MOST,
            threshold=error_limit_percent,
            n_min=policy.requests_min,
        ),
        Gate(
            name=f"requests beyond {policy.ttft_ratio_max:g} × the stable slot's p95 TTFT",
            evidence="slow_percent",
            bound=Bound.AT_MOST,
            threshold=_SLOW_PERCENT,
            n_min=policy.requests_min,
        ),
    )


def _without_yardstick(gate: Gate, figure: Evidence, *, stable: Evidence) -> GateResult:
    reason = (
        f"{gate.name} {figure.value:.3g} %: the stable slot fails {stable.value:.3g} % itself"
        f" and is nothing to compare with (n = {figure.n}, stable {stable.n})"
    )
    fewest = min(figure.n, stable.n)
    return GateResult(gate=gate, verdict=Verdict.ERROR, value=figure.value, n=fewest, reason=reason)


def _unmeasured(gate: Gate) -> GateResult:
    reason = f"{gate.name}: no evidence"
    return GateResult(gate=gate, verdict=Verdict.ERROR, value=math.nan, n=0, reason=reason)


def _judged(gate: Gate, figure: Evidence, *, stable: Evidence) -> GateResult:
    fewest = min(figure.n, stable.n)

    def result(verdict: Verdict, reason: str) -> GateResult:
        return GateResult(gate=gate, verdict=verdict, value=figure.value, n=fewest, reason=reason)

    if figure.n == 0:
        return result(Verdict.INCONCLUSIVE, f"{gate.name}: no request to compare")
    said = (
        f"{gate.name} {figure.value:.3g} %, at most {gate.threshold:.3g} % asked"
        f" (n = {figure.n}, stable {stable.n})"
    )
    beyond = round(figure.value * figure.n / 100)
    if figure.value > gate.threshold:
        chance = binomial_tail(beyond, figure.n, gate.threshold / 100)
        return result(Verdict.FAIL if chance < _TOO_UNLIKELY else Verdict.INCONCLUSIVE, said)
    if fewest < gate.n_min:
        return result(Verdict.INCONCLUSIVE, f"{said}, {gate.n_min} of each are needed")
    return result(Verdict.PASS, said)
