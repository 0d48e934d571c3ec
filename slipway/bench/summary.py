"""From a request table to evidence and gates: pure, so `replay` computes the same figures again."""

from __future__ import annotations

import math

from slipway.bench.values import RequestTable, Status
from slipway.core.service import BenchmarkPolicy, Slo
from slipway.core.statistics import mean, percent, quantile
from slipway.core.verdicts import Bound, Evidence, Gate

SOURCE = "benchmark"

TTFT_P95_MS = "ttft_p95_ms"
ERROR_RATE_PERCENT = "error_rate_percent"
OUTPUT_TOKENS_PER_S = "output_tokens_per_s"

FORMULAS = {
    TTFT_P95_MS: "⌈0.95·n⌉-th smallest of (first event with content − request sent), ok requests",
    ERROR_RATE_PERCENT: "100 × (errors + truncated streams) / requests",
    OUTPUT_TOKENS_PER_S: (
        "1000 / mean ITL of a stream; ITL = (latency − TTFT) / (output tokens − 1), ms"
    ),
}
"""How each figure is formed; stands beside it wherever it is shown."""

_TTFT_QUANTILE = 0.95


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

    def item(name: str, value: float, unit: str, n: int) -> Evidence:
        return Evidence(
            name=name,
            value=value,
            unit=unit,
            n=n,
            window_s=table.window_s,
            source=SOURCE,
            taken_at_ns=table.ended_at_ns,
            digest=digest,
        )

    count = len(table.rows)
    return (
        item(TTFT_P95_MS, quantile(ttft_ms, _TTFT_QUANTILE), "ms", len(ttft_ms)),
        item(ERROR_RATE_PERCENT, percent(count - len(ok), count), "%", count),
        # All tokens of a stream may arrive in one read: then there is no speed to measure.
        item(
            OUTPUT_TOKENS_PER_S,
            1000.0 / mean_itl_ms if mean_itl_ms > 0 else math.nan,
            "tokens/s",
            len(itl_ms),
        ),
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
