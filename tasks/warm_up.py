"""Warming a version up that serves again, before the first user is sent to it."""

from __future__ import annotations

import math
import secrets
import time

from slipway.bench.runner import run_benchmark as run
from slipway.bench.values import BenchmarkPlan, Target
from slipway.core.release.record import Phase
from slipway.core.release.stages import WARM_UP
from tasks.session import ReleaseSession
from tasks.stage import release_stage

_REQUESTS = 4
_LONGEST_S = 60.0
_POLL_S = 0.5


@release_stage(WARM_UP)
def warm_up(session: ReleaseSession) -> str:
    """Ask each pod of the candidate until it answers as fast as users were promised.

    A pod that has just loaded its model, or has not been asked for hours, is slow at first. One
    that stays slow does not keep users on the version that a person wants to leave: after a minute
    it is said, and the rollback goes on.
    """
    limit_ms = session.spec.slo.ttft_p95_ms
    until_s = time.monotonic() + _LONGEST_S
    while True:
        session.check_lock()
        session.check_orders()
        slowest_ms = max((_slowest_ms(session, at) for at in _addresses(session)), default=math.inf)
        said = f"slowest first token {slowest_ms:.0f} ms, at most {limit_ms:g} ms asked"
        if slowest_ms <= limit_ms or time.monotonic() > until_s:
            break
        session.progress.say(f"warming up: {said}")
        time.sleep(_POLL_S)  # between two rounds
    session.advance(Phase.BENCHMARKED, f"served before: not measured again; {said}")
    return said


def _addresses(session: ReleaseSession) -> tuple[str, ...]:
    pods = session.ready_pods(session.record.candidate)
    return tuple(pod.address for pod in pods if pod.address)


def _slowest_ms(session: ReleaseSession, address: str) -> float:
    """Return the longest time to first token of a few requests; infinite when one fails."""
    policy = session.spec.policy.benchmark
    target = Target(
        url=f"http://{address}:{session.spec.server.port}",
        model=session.spec.model,
        proxy=session.ports.settings.cluster_proxy,
    )
    plan = BenchmarkPlan(
        requests=_REQUESTS,
        concurrency=1,
        max_tokens=policy.max_tokens,
        prompts=policy.prompts,
        timeout_s=_LONGEST_S / _REQUESTS,
    )
    run_id = f"{session.record.release_id}-{secrets.token_hex(4)}"
    table = run(target, plan, run_id=run_id)
    return max(math.inf if row.ttft_ms is None else row.ttft_ms for row in table.rows)
