"""Moving the users: the preview route, the switch, and the time after it."""

from __future__ import annotations

import time
from dataclasses import replace

import httpx

from slipway.core.errors import PermanentError, TransientError
from slipway.core.release.bake import BakeWatch, bake_evidence, judge_bake
from slipway.core.release.promotion import (
    promotion_refusal,
    route_with_users_on_candidate,
    why_unready,
)
from slipway.core.release.record import Phase, StageVerdict
from slipway.core.release.stages import ALIAS, BAKE, PROMOTE, SMOKE
from slipway.core.routing import PURPOSE_HEADER, SLOT_HEADER, Preview, with_preview
from slipway.core.verdicts import Verdict
from slipway.ports.traffic import WayIn
from tasks.scaling import (
    await_everybodys_pods,
    hold_stable,
    judged_by,
    pods_promised,
    shortest_bake_s,
    stable_has_grown,
)
from tasks.session import ReleaseSession
from tasks.stage import release_stage

_SMOKE_REQUESTS = 3
_BAKE_POLL_S = 0.5


@release_stage(SMOKE)
def smoke_test(session: ReleaseSession) -> str:
    """Reach the candidate through the gateway by its secret header and have it answer."""
    record, traffic = session.record, session.ports.traffic
    current = traffic.read(record.service)
    route = with_preview(current, record.candidate, record.preview_token)
    session.intend("preview route")
    # After the intent: an API server that was away meanwhile has aged the look of the rollout (R1).
    unready = why_unready(record, session.observe(record.candidate), replicas=1)
    if unready is not None:
        raise PermanentError(
            unready, code="candidate-unhealthy", hint="look at the log of the slot's pods"
        )
    traffic.apply(route)
    proof = traffic.confirm(route, timeout_s=30)
    for _ in range(_SMOKE_REQUESTS):
        _ask(session)
    session.advance(Phase.SMOKED, f"{_SMOKE_REQUESTS} answers from slot {record.candidate}")
    return (
        f"{_SMOKE_REQUESTS} answers through the gateway, route seen after {proof.waited_ms:.0f} ms"
    )


def way_to_candidate(session: ReleaseSession) -> WayIn:
    """Return how a request of ours reaches the candidate."""
    record = session.record
    return session.ports.traffic.way_in(Preview(slot=record.candidate, token=record.preview_token))


def _ask(session: ReleaseSession) -> None:
    spec, candidate = session.spec, session.record.candidate
    way = way_to_candidate(session)
    url = f"{way.url}{spec.path_prefixes[0]}/chat/completions"
    body = {
        "model": spec.model,
        "messages": [{"role": "user", "content": spec.policy.quality.golden[0].prompt}],
        "max_tokens": 4,
    }
    try:
        answer = httpx.post(
            url,
            json=body,
            headers={**way.headers, PURPOSE_HEADER: "smoke"},
            timeout=60.0,
            trust_env=False,
            proxy=way.proxy,
        )
        slot = answer.headers.get(SLOT_HEADER, "none") if way.names_slot else candidate
        text = answer.json()["choices"][0]["message"]["content"] if answer.is_success else ""
    except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
        raise TransientError(
            f"smoke request to slot {candidate} of {spec.name}: {type(error).__name__}: {error}",
            code="smoke-failed",
            hint="look at the log of the slot's pods",
        ) from error
    if not answer.is_success or not text or slot != candidate:
        raise PermanentError(
            f"smoke request to slot {candidate} of {spec.name}: status {answer.status_code}, "
            f"answered by slot {slot}, text {text!r}",
            code="smoke-failed",
            hint="look at the log of the slot's pods and at the gateway's access log",
        )


@release_stage(PROMOTE)
def promote(session: ReleaseSession) -> str:
    """Give all users to the candidate: the very pods that were tested."""
    traffic = session.ports.traffic
    if not session.reached(Phase.RAMPING):
        session.advance(Phase.RAMPING, "every gate passed")
    replicas = _await_room_for_everybody(session)
    route = route_with_users_on_candidate(session.record)
    # After the intent: an API server that was away while it was written has aged every look before.
    refusal = promotion_refusal(
        session.record, session.observe(session.record.candidate), replicas=replicas
    )
    if refusal is not None:
        raise PermanentError(
            refusal, code="promotion-refused", hint="run the release again; it tests the new pods"
        )
    traffic.apply(route)
    proof = traffic.confirm(route, timeout_s=30)
    session.advance(Phase.PROMOTED, f"route {proof.revision} in force")
    return (
        f"users on slot {session.record.candidate}: {proof.requests} answers by route "
        f"{proof.revision}, seen after {proof.waited_ms:.0f} ms"
    )


def _await_room_for_everybody(session: ReleaseSession) -> int:
    """Have the pods on either side, and say that all users move; returns how many carry them."""
    while True:
        hold_stable(session)
        replicas = await_everybodys_pods(session)
        session.intend(
            f"all users to slot {session.record.candidate}",
            scaling=judged_by(session.record, replicas),
        )
        if not stable_has_grown(session):
            return replicas
        # while pods started or the intent was written: both sides need more now


@release_stage(ALIAS)
def move_alias(session: ReleaseSession) -> str:
    """Let the registry's alias follow the traffic (R8)."""
    spec, registry, version = session.spec, session.ports.registry, session.record.version
    before = registry.alias(spec.model, spec.alias)
    if before == version:
        return f"{spec.alias} → version {version}"
    session.save(replace(session.record, alias_before=before or ""))
    registry.set_alias(spec.model, spec.alias, version)
    return f"{spec.alias} → version {version} (was {before or 'nowhere'})"


@release_stage(BAKE)
def bake(session: ReleaseSession) -> str:
    """Watch the new slot for the bake time while the old one stays warm."""
    bake_s = shortest_bake_s(session)
    # Outlives retries of this stage. A later process bakes for the whole time again: how long its
    # forerunner did would be a difference of wall clocks, and those step.
    watch = session.bake_watch or BakeWatch(
        slot=session.record.candidate,
        began_s=time.monotonic(),
        position=session.ports.traffic.access_end(session.record.service),
    )
    session.bake_watch = watch
    # After the log's end was noted: who fails while the record is written belongs to the bake.
    if not session.reached(Phase.BAKING):
        session.advance(Phase.BAKING, f"{bake_s:.0f} s")
    verdict = _watched(session, watch, bake_s)
    session.judge(verdict)
    return "; ".join(verdict.reasons)


def _watched(session: ReleaseSession, watch: BakeWatch, bake_s: float) -> StageVerdict:
    """Look until the bake is over, and at its end once more: an old look proves nothing."""
    while True:
        verdict: StageVerdict | None = None
        with session.outlived():
            verdict = _bake_once(session, session.bake_watch or watch)
        if verdict is not None and watch.baked_s(now_s=time.monotonic()) >= bake_s:
            return verdict
        time.sleep(_BAKE_POLL_S)  # between two looks


def _bake_once(session: ReleaseSession, watch: BakeWatch) -> StageVerdict:
    record, spec = session.record, session.spec
    session.check_lock()
    session.check_orders()
    observed = session.observe(record.candidate)
    ready = 0 if observed is None else len(observed.ready_pods)
    promised = pods_promised(record, replicas=spec.replicas)
    if ready < promised:
        raise PermanentError(
            f"slot {record.candidate} has {ready} ready pods of {promised} during the bake",
            code="candidate-unhealthy",
            hint="look at the log of the slot's pods",
        )
    watch = watch.after(session.ports.traffic.access_rows(record.service, after=watch.position))
    session.bake_watch = watch
    window_s = watch.baked_s(now_s=time.monotonic())
    evidence = bake_evidence(watch, window_s=window_s, now_ns=time.time_ns())
    result = judge_bake(
        evidence,
        error_rate_percent=spec.slo.error_rate_percent,
        users_seen=spec.router.access_log,
    )
    if result.verdict is Verdict.FAIL:
        raise PermanentError(
            f"users of slot {record.candidate} fail during the bake: {result.reason}",
            code="bake-failed",
            hint="look at the gateway's access log",
        )
    return StageVerdict(
        stage="bake", verdict=result.verdict, reasons=(f"{ready} pods ready", result.reason)
    )
