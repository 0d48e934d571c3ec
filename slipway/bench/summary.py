"""From a request table to evidence and gates: pure, so `replay` computes the same figures again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from slipway.bench.values import CANDIDATE, STABLE, RequestRow, RequestTable, Status
from slipway.core.service import BenchmarkPolicy, Slo
from slipway.core.statistics import mean, percent, quantile
from slipway.core.verdicts import Bound, Evidence, Gate, Measurement

SOURCE = "benchmark"

TTFT_P95_MS = "ttft_p95_ms"
ERROR_RATE_PERCENT = "error_rate_percent"
OUTPUT_TOKENS_PER_S = "output_tokens_per_s"
TTFT_TIMES_STABLE = "ttft_times_stable"
ITL_TIMES_STABLE = "itl_times_stable"

COMPARED = 10
"""Requests to each slot when the two are compared."""

FORMULAS = {
    TTFT_P95_MS: "⌈0.95·n⌉-th smallest of (first event with content − request sent), ok requests",
    ERROR_RATE_PERCENT: "100 × (errors + truncated streams) / requests",
    OUTPUT_TOKENS_PER_S: (
        "1000 / mean ITL of a stream; ITL = (latency − TTFT) / (output tokens − 1), ms"
    ),
    TTFT_TIMES_STABLE: "median of the candidate / median of the stable slot, each ≥ 10 ms",
    ITL_TIMES_STABLE: "median ITL of the candidate / median ITL of the stable slot, each ≥ 2 ms",
}
"""How each figure is formed; stands beside it wherever it is shown."""

_TTFT_QUANTILE = 0.95
_TTFT_FLOOR_MS = 10.0
_ITL_FLOOR_MS = 2.0


def evidence(table: RequestTable, *, digest: str = "") -> tuple[Evidence, ...]:
    """Return the figures of a benchmark that gates read.

    Args:
        table: every recorded request.
        digest: sha256 of the stored table.
    """
    ok = [row for row in table.rows if row.status is Status.OK]
    ttft_ms = [row.ttft_ms for row in ok if row.ttft_ms is not None]
    itl_ms = [row.itl_ms for row in ok if row.itl_ms is not None]
    mean_itl_ms = mean(itl_ms)
    figure = _measurement(table, digest).figure
    count = len(table.rows)
    return (
        figure(TTFT_P95_MS, quantile(ttft_ms, _TTFT_QUANTILE), "ms", len(ttft_ms)),
        figure(ERROR_RATE_PERCENT, percent(count - len(ok), count), "%", count),
        # All tokens of a stream may arrive in one read: then there is no speed to measure.
        figure(
            OUTPUT_TOKENS_PER_S,
            1000.0 / mean_itl_ms if mean_itl_ms > 0 else math.nan,
            "tokens/s",
            len(itl_ms),
        ),
    )


def comparison(table: RequestTable, *, digest: str = "") -> tuple[Evidence, ...]:
    """Return how many times as long as the stable slot the candidate took.

    Medians of requests sent to the two in turns, so whatever else slows the machine slows both.
    What is below the floors counts as the floor: nobody feels it, and schedulers make it.

    Args:
        table: rows of the scenarios `STABLE` and `CANDIDATE`.
        digest: sha256 of the stored table.
    """
    figure = _measurement(table, digest).figure

    def times(name: str, floor_ms: float, of: Callable[[RequestRow], float | None]) -> Evidence:
        stable, candidate = (_figures_of(table, arm, of) for arm in (STABLE, CANDIDATE))
        ratio = max(floor_ms, quantile(candidate, 0.5)) / max(floor_ms, quantile(stable, 0.5))
        known = bool(stable and candidate)
        return figure(name, ratio if known else math.nan, "×", min(len(stable), len(candidate)))

    return (
        times(TTFT_TIMES_STABLE, _TTFT_FLOOR_MS, lambda row: row.ttft_ms),
        times(ITL_TIMES_STABLE, _ITL_FLOOR_MS, lambda row: row.itl_ms),
    )


def of_arm(table: RequestTable, arm: str) -> RequestTable:
    """Return the part of a comparison's table that one slot answered."""
    return replace(table, rows=tuple(row for row in table.rows if row.scenario == arm))


def comparison_gates(policy: BenchmarkPolicy) -> tuple[Gate, ...]:
    """Return the gates of the comparison with the stable slot; half of its requests must count."""
    return tuple(
        Gate(
            name=name,
            evidence=evidence_name,
            bound=Bound.AT_MOST,
            threshold=policy.slowdown_max,
            n_min=COMPARED // 2,
        )
        for name, evidence_name in (
            ("time to first token against the stable slot", TTFT_TIMES_STABLE),
            ("time per token against the stable slot", ITL_TIMES_STABLE),
        )
    )


def _figures_of(
    table: RequestTable, arm: str, of: Callable[[RequestRow], float | None]
) -> list[float]:
    figures = (of(row) for row in of_arm(table, arm).rows if row.status is Status.OK)
    return [figure for figure in figures if figure is not None]


def _measurement(table: RequestTable, digest: str) -> Measurement:
    return Measurement(
        window_s=table.window_s, source=SOURCE, taken_at_ns=table.ended_at_ns, digest=digest
    )


def gates(slo: Slo, policy: BenchmarkPolicy) -> tuple[Gate, ...]:
    """Return the gates of the short benchmark.

    Every planned request must count. Latency exists only for requests that went well, so as many
    may be missing there as the SLO lets fail: more are the error gate's matter.
    """
    allowed = math.floor(policy.requests * slo.error_rate_percent / 100)
    well = max(1, policy.requests - allowed)
    return (
        Gate(
            name="time to first token",
            evidence=TTFT_P95_MS,
            bound=Bound.AT_MOST,
            threshold=slo.ttft_p95_ms,
            n_min=well,
        ),
        Gate(
            name="error rate",
            evidence=ERROR_RATE_PERCENT,
            bound=Bound.AT_MOST,
            threshold=slo.error_rate_percent,
            n_min=policy.requests,
        ),
        Gate(
            name="speed of a stream",
            evidence=OUTPUT_TOKENS_PER_S,
            bound=Bound.AT_LEAST,
            threshold=slo.output_tokens_per_s,
            n_min=well,
        ),
    )
