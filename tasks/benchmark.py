"""The short benchmark of a candidate: measured as data, validated, then judged."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace

from slipway.bench.report import markdown
from slipway.bench.runner import run_benchmark as run
from slipway.bench.summary import (
    COMPARED,
    comparison,
    comparison_gates,
    evidence,
    gates,
    of_arm,
)
from slipway.bench.table import to_parquet
from slipway.bench.validation import validate
from slipway.bench.values import (
    CANDIDATE,
    STABLE,
    BenchmarkPlan,
    Status,
    Target,
)
from slipway.core.errors import PermanentError, TransientError
from slipway.core.release.record import Phase, StageVerdict
from slipway.core.release.stages import BENCHMARK
from slipway.core.routing import PURPOSE_HEADER
from slipway.core.verdicts import Evidence, GateResult, Verdict, judge, overall
from slipway.ports.traffic import WayIn
from tasks.reporting import publish_markdown
from tasks.session import ReleaseSession
from tasks.stage import release_stage
from tasks.traffic import way_to_candidate

PARQUET = "application/vnd.apache.parquet"


@release_stage(BENCHMARK)
def run_benchmark(session: ReleaseSession) -> str:
    """Load the candidate through the gateway, store a row per request, judge it by the SLOs.

    A candidate that keeps them is compared with the stable slot: the SLOs are limits for the worst
    that users may see, not a licence to be five times slower than yesterday.
    """
    spec, policy = session.spec, session.spec.policy.benchmark
    plan = BenchmarkPlan(
        requests=policy.requests,
        concurrency=policy.concurrency,
        warmup_requests=policy.warmup_requests,
        max_tokens=policy.max_tokens,
        prompts=policy.prompts,
    )
    target = _candidate(session)
    table = run(target, plan, run_id=_run_id(session))
    stored = to_parquet(table)
    key = session.put_evidence("benchmark-requests.parquet", stored, PARQUET)
    # An invalid table says nothing of the model: the stage is repeated, never judged.
    validate(table, plan).require_valid()
    figures = evidence(table, digest=hashlib.sha256(stored).hexdigest())
    results = tuple(judge(gate, figures) for gate in gates(spec.slo, policy))
    if overall(results) is Verdict.PASS and _stable_serves(session):
        compared = _compare(session, plan)
        figures += compared
        results += tuple(judge(gate, compared) for gate in comparison_gates(policy))
    report = markdown(results, figures, table=table, target=target, policy=policy)
    publish_markdown(
        session, f"benchmark-{spec.name}", report, f"benchmark of {session.record.release_id}"
    )
    session.put_evidence("benchmark.md", report.encode(), "text/markdown")
    return _judged(session, results, key)


def _judged(session: ReleaseSession, results: tuple[GateResult, ...], key: str) -> str:
    """Write the verdict down; refuse the version unless it is PASS."""
    verdict = overall(results)
    reasons = tuple(item.reason for item in results)
    session.judge(
        StageVerdict(stage="benchmark", verdict=verdict, reasons=reasons, evidence_key=key)
    )
    if verdict is not Verdict.PASS:
        bad = "; ".join(item.reason for item in results if item.verdict is not Verdict.PASS)
        raise PermanentError(
            f"version {session.record.version} of {session.spec.model} failed its benchmark: {bad}",
            code="benchmark-failed",
            hint=f"a row per request is in the evidence: {key}",
        )
    session.advance(Phase.BENCHMARKED, "; ".join(reasons))
    return f"{session.spec.policy.benchmark.requests} requests: " + "; ".join(reasons)


def _compare(session: ReleaseSession, plan: BenchmarkPlan) -> tuple[Evidence, ...]:
    """Ask the candidate and the stable slot in turns; returns how much slower the candidate is."""
    plan = replace(plan, requests=COMPARED, warmup_requests=1, concurrency=1)
    stable = _target(session, session.ports.traffic.way_in(None))  # where the users go
    table = run(_candidate(session), plan, run_id=_run_id(session), stable=stable)
    stored = to_parquet(table)
    key = session.put_evidence("benchmark-comparison.parquet", stored, PARQUET)
    for arm in (STABLE, CANDIDATE):
        validate(of_arm(table, arm), replace(plan, scenario=arm)).require_valid()
    answered = sum(row.status is Status.OK for row in of_arm(table, STABLE).rows)
    if answered < COMPARED // 2:
        raise TransientError(
            f"slot {session.record.stable} answered {answered} of {COMPARED} requests: "
            "nothing to compare the candidate with",
            code="benchmark-invalid",
            hint=f"look at the pods of the stable slot; a row per request is in {key}",
        )
    return comparison(table, digest=hashlib.sha256(stored).hexdigest())


def _stable_serves(session: ReleaseSession) -> bool:
    """Return whether there is anything to compare with: a first release has nothing."""
    stable = session.record.stable
    if stable is None:
        return False
    if not session.ready_pods(stable):
        session.progress.say(f"slot {stable} has no ready pod: nothing to compare with")
        return False
    return True


def _candidate(session: ReleaseSession) -> Target:
    return _target(session, way_to_candidate(session))


def _target(session: ReleaseSession, way: WayIn) -> Target:
    spec = session.spec
    return Target(
        url=way.url,
        model=spec.model,
        proxy=way.proxy,
        headers=tuple({**way.headers, PURPOSE_HEADER: "benchmark"}.items()),
        path=f"{spec.path_prefixes[0]}/chat/completions",
    )


def _run_id(session: ReleaseSession) -> str:
    return f"{session.record.release_id}-{secrets.token_hex(4)}"
