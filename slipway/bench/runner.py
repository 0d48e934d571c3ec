"""Runs a benchmark in a process of its own, so that whoever asks for it does not distort it."""

from __future__ import annotations

import math
import subprocess
import sys

from slipway.bench.table import from_json, order_to_json
from slipway.bench.values import BenchmarkPlan, RequestTable, Target
from slipway.core.errors import PermanentError, TransientError

_START_S = 30.0


def run_benchmark(
    target: Target, plan: BenchmarkPlan, *, run_id: str, stable: Target | None = None
) -> RequestTable:
    """Return the table of a closed-loop benchmark, or of a comparison with `stable`.

    Args:
        target: who is asked.
        plan: what is asked.
        run_id: begins every request id; unique per attempt.
        stable: asked in turns with `target`, see `slipway.bench.engine.alternate`.

    Raises:
        TransientError: `benchmark-unreachable` when no request got any answer (that says nothing of
            the model), `benchmark-timeout`.
        PermanentError: the load generator itself failed; carries its last lines.
    """
    asked = plan.requests + plan.warmup_requests
    rounds = math.ceil(asked / plan.concurrency) + 1 if stable is None else 2 * asked
    try:
        done = subprocess.run(
            (sys.executable, "-m", "slipway.bench"),
            input=order_to_json(target, plan, run_id, stable),
            capture_output=True,
            text=True,
            timeout=_START_S + rounds * plan.timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TransientError(
            f"the benchmark of {target.url} did not end within {error.timeout:g} s",
            code="benchmark-timeout",
            hint="look at the server's log; the next attempt starts from nothing",
        ) from error
    if done.returncode != 0:
        raise PermanentError(
            f"the load generator ended with exit code {done.returncode}: {done.stderr[-1000:]}",
            code="load-generator-failed",
            hint="run the release again; if it stays, report the lines above",
        )
    table = from_json(done.stdout)
    if all(row.error.startswith("no connection") for row in table.rows):
        raise TransientError(
            f"no request reached {target.url}: {table.rows[0].error}",
            code="benchmark-unreachable",
            hint="check that the pods are ready and that the proxy runs",
        )
    return table
