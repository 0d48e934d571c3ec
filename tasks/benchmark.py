"""The short benchmark of a candidate: measured as data, validated, then judged."""

from __future__ import annotations

import hashlib
import secrets

from slipway.bench.report import markdown
from slipway.bench.runner import run_benchmark as run
from slipway.bench.summary import evidence, gates
from slipway.bench.table import to_parquet
from slipway.bench.validation import validate
from slipway.bench.values import BenchmarkPlan, Target
from slipway.core.errors import PermanentError
from slipway.core.release import Phase, StageVerdict
from slipway.core.verdicts import Verdict, judge, overall
from tasks.reporting import publish_markdown
from tasks.session import ReleaseSession
from tasks.stage import release_stage
from tasks.traffic import preview_headers


@release_stage("benchmark", proves=Phase.BENCHMARKED)
def run_benchmark(session: ReleaseSession) -> str:
    """Load the candidate through the gateway, store a row per request, judge it by the SLOs."""
    spec, policy = session.spec, session.spec.policy.benchmark
    target = Target(
        url=session.ports.settings.gateway_url,
        model=spec.model,
        headers=tuple(preview_headers(session, "benchmark").items()),
        path=f"{spec.path_prefixes[0]}/chat/completions",
    )
    plan = BenchmarkPlan(
        requests=policy.requests,
        concurrency=policy.concurrency,
        warmup_requests=policy.warmup_requests,
        max_tokens=policy.max_tokens,
        prompts=policy.prompts,
    )
    table = run(target, plan, run_id=f"{session.record.release_id}-{secrets.token_hex(4)}")
    stored = to_parquet(table)
    key = session.put_evidence(
        "benchmark-requests.parquet", stored, "application/vnd.apache.parquet"
    )
    # An invalid table says nothing of the model: the stage is repeated, never judged.
    validate(table, plan).require_valid()
    figures = evidence(table, digest=hashlib.sha256(stored).hexdigest())
    results = tuple(judge(gate, figures) for gate in gates(spec.slo, policy))
    report = markdown(results, figures, table=table, target=target, policy=policy)
    publish_markdown(
        session, f"benchmark-{spec.name}", report, f"benchmark of {session.record.release_id}"
    )
    session.put_evidence("benchmark.md", report.encode(), "text/markdown")
    verdict = overall(results)
    reasons = tuple(item.reason for item in results)
    session.judge(
        StageVerdict(stage="benchmark", verdict=verdict, reasons=reasons, evidence_key=key)
    )
    if verdict is not Verdict.PASS:
        said = zip(reasons, results, strict=True)
        bad = "; ".join(reason for reason, item in said if item.verdict is not Verdict.PASS)
        raise PermanentError(
            f"version {session.record.version} of {spec.model} failed its benchmark: {bad}",
            code="benchmark-failed",
            hint=f"a row per request is in the evidence: {key}",
        )
    session.advance(Phase.BENCHMARKED, "; ".join(item.reason for item in results))
    return f"{policy.requests} requests: " + "; ".join(item.reason for item in results)
