"""The slots' Deployments: deployed into the idle slot, retired when nothing needs them."""

from __future__ import annotations

import time
from dataclasses import replace

from slipway.core.errors import PermanentError
from slipway.core.release.promotion import image_mismatch
from slipway.core.release.record import Phase, advance, with_own_workload
from slipway.core.release.stages import DEPLOY, RETIRE
from slipway.core.rollout import (
    RolloutObservation,
    RolloutPatience,
    RolloutState,
    judge_rollout,
)
from slipway.core.routing import Slot, all_to
from slipway.manifests.names import slot_labels, workload_name
from slipway.manifests.workload import slot_deployment
from tasks import scaling
from tasks.session import ReleaseSession
from tasks.stage import release_stage
from tasks.takeover import refuse_other_autoscalers
from tasks.waiting import wait_until
from tasks.weights import sweep_weights, weights_fetch

_NS_PER_S = 1e9


@release_stage(DEPLOY)
def deploy_slot(session: ReleaseSession) -> str:
    """Deploy the version into the idle slot and wait until every replica serves the right image."""
    spec, record = session.spec, session.record
    slot = record.slot(record.candidate)
    if session.ports.traffic.read(spec.name).names(record.candidate):
        raise PermanentError(
            f"slot {record.candidate} of service {spec.name} is routed to; it is not idle",
            code="slot-not-idle",
            hint=f"look at: slipway status {spec.name}",
        )
    if session.ready_pods(record.candidate):
        # Still warm from the release before: streams that users opened there end first.
        await_no_streams(session, record.candidate)
    refuse_other_autoscalers(session.ports, record)
    if slot.adopted and record.rollback:
        return _wake_adopted(session)
    manifest = slot_deployment(
        spec,
        slot=record.candidate,
        workload=workload_name(spec.name, record.candidate) if slot.adopted else slot.workload,
        image=slot.image,
        release_id=record.release_id,
        fetch=weights_fetch(session),
    )
    session.ports.workloads.apply(manifest, dry_run=True)
    plan = scaling.planned(session)
    scaling.check_candidate(session, plan)
    if plan is None and record.scaling is not None:
        session.save(replace(record, scaling=None))  # the service file changed since
    if slot.adopted:
        _leave_adopted(session)
    session.intend(f"deploy {manifest['metadata']['name']}", scaling=plan)
    # What scaled its former version would fight with the number it begins with.
    scaling.remove_autoscalers(session, record.candidate)
    applied = session.ports.workloads.apply(manifest)
    scaling.wake_candidate(session)
    return _deployed(session, applied.generation)


def _leave_adopted(session: ReleaseSession) -> None:
    """Empty the Deployment that a service was adopted with: another one takes its place.

    Its template is somebody else's, and its selector cannot change.
    """
    record = session.record
    session.intend(f"slot {record.candidate} leaves {record.slot(record.candidate).workload}")
    scale_to_zero(session, record.candidate)
    # Whoever scales it up again shall not bring pods of it among those of the slot.
    labels = tuple(slot_labels(session.spec.name, record.candidate))
    adopted = record.slot(record.candidate).workload
    session.ports.workloads.unlabel(session.spec.namespace, adopted, labels)
    own = workload_name(session.spec.name, record.candidate)
    session.save(with_own_workload(session.record, own))


def _wake_adopted(session: ReleaseSession) -> str:
    """Bring back the pods of the Deployment that a service was adopted with, as it is."""
    record, plan = session.record, scaling.planned(session)
    replicas = session.spec.replicas if plan is None else plan.candidate_floor
    slot = record.slot(record.candidate)
    session.intend(f"{slot.workload} comes back with {replicas} pods", scaling=plan)
    scaling.remove_autoscalers(session, record.candidate)
    scaling.scale_to(session, record.candidate, replicas)
    scaling.wake_candidate(session)
    observed = session.observe(record.candidate)
    return _deployed(session, 0 if observed is None else observed.generation)


def _deployed(session: ReleaseSession, generation: int) -> str:
    """Wait until every replica serves, and say by which pods."""
    record = session.record
    slot = record.slot(record.candidate)
    observed = _await_rollout(session, generation)
    mismatch = image_mismatch(session.record, observed.ready_pods)
    if mismatch is not None:
        raise PermanentError(mismatch, code="image-mismatch", hint="look at the registry")
    uids = tuple(sorted(pod.uid for pod in observed.ready_pods))
    session.save(replace(session.record, tested_pod_uids=uids))
    session.advance(Phase.DEPLOYED, f"{len(uids)} pods of {slot.workload} ready")
    return f"slot {record.candidate}: {len(uids)} pods ready"


def _await_rollout(session: ReleaseSession, generation: int) -> RolloutObservation:
    slot = session.record.candidate
    seen: list[RolloutObservation] = []

    def look() -> str | None:
        session.check_orders()
        observed = session.observe(slot)
        if observed is None:
            return f"the Deployment of slot {slot} does not exist yet"
        verdict = judge_rollout(observed, generation=generation, patience=RolloutPatience())
        if verdict.state is RolloutState.FAILED:
            raise PermanentError(
                verdict.reason,
                code=verdict.code,
                hint=f"kubectl -n {session.spec.namespace} describe deployment {observed.name}",
            )
        seen[:] = [observed]
        return None if verdict.state is RolloutState.READY else verdict.reason

    wait_until(
        look,
        timeout_s=session.spec.policy.ready_timeout_s,
        what=f"slot {slot} was ready",
        report=session.progress.say,
    )
    return seen[0]


@release_stage(RETIRE)
def retire_slot(session: ReleaseSession) -> str:
    """Keep the old slot warm for the rollback window; without one, scale it to zero now."""
    record, window_s = session.record, session.spec.policy.rollback_window_s
    if record.stable is None:
        swept = sweep_weights(session)
        scaling.let_candidate_go(session)
        session.advance(Phase.DONE, "first release: no old slot")
        return f"first release: no old slot{swept}"
    if window_s > 0:
        said = f"slot {record.stable} stays warm for {window_s:g} s"
        scaling.let_candidate_go(session)
        retire_after_ns = time.time_ns() + round(window_s * _NS_PER_S)
        kept = replace(session.record, retire_after_ns=retire_after_ns)
        session.save(advance(kept, Phase.DONE, reason=said, now_ns=time.time_ns()))
        return said
    said = empty_former_slot(session)
    scaling.let_candidate_go(session)
    session.advance(Phase.DONE, f"slot {record.stable} retired")
    return said


def empty_former_slot(session: ReleaseSession) -> str:
    """Scale the slot that served before to zero, once nobody needs it; returns what was done.

    Raises:
        PermanentError: something routes to it, or its streams do not end in time.
    """
    record = session.record
    if record.stable is None:
        return "no old slot"
    waited_s = await_no_streams(session, record.stable)
    route = all_to(record.service, record.candidate)
    session.intend(f"retire slot {record.stable}")
    session.ports.traffic.apply(route)
    session.ports.traffic.confirm(route, timeout_s=30)
    scale_to_zero(session, record.stable)
    swept = sweep_weights(session)
    return f"slot {record.stable} drained in {waited_s:.1f} s and scaled to zero{swept}"


def await_no_streams(session: ReleaseSession, slot: Slot) -> float:
    """Wait until neither the gateway nor the servers have a request open on `slot`."""
    traffic, metrics, spec = session.ports.traffic, session.ports.metrics, session.spec

    def look() -> str | None:
        session.check_lock()
        session.check_orders()
        at_gateway = traffic.open_streams(spec.name, slot)
        addresses = [pod.address for pod in session.ready_pods(slot) if pod.address]
        at_servers = metrics.running_requests(spec.server.kind, addresses)
        # None: no gateway tells the slots apart, the servers alone know.
        if not at_gateway and at_servers == 0:
            return None
        said = "" if at_gateway is None else f"{at_gateway} at the gateway, "
        return f"streams open on slot {slot}: {said}{at_servers} at its servers"

    return wait_until(
        look,
        timeout_s=spec.policy.drain_timeout_s,
        what=f"slot {slot} was without open streams",
        report=session.progress.say,
    )


def scale_to_zero(session: ReleaseSession, slot: Slot) -> None:
    """Scale a slot that nothing routes to down to nothing, and wait until its pods are gone.

    What scales it goes first: it would bring pods back.
    """
    spec = session.spec
    _require_idle(session, slot)
    scaling.remove_autoscalers(session, slot)

    def scaled() -> str | None:
        _require_idle(session, slot)
        return scaling.scale_as_observed(session, slot, 0)

    def look() -> str | None:
        now = session.observe(slot)
        return f"{len(now.pods)} pods of slot {slot} end" if now and now.pods else None

    wait_until(
        scaled,
        timeout_s=scaling.SCALE_TIMEOUT_S,
        what=f"slot {slot} was scaled to zero",
        report=session.progress.say,
    )
    wait_until(
        look,
        timeout_s=spec.policy.drain_timeout_s,
        what=f"the pods of slot {slot} were gone",
        report=session.progress.say,
    )


def _require_idle(session: ReleaseSession, slot: Slot) -> None:
    if session.ports.traffic.read(session.spec.name).names(slot):
        raise PermanentError(
            f"slot {slot} of service {session.spec.name} is still routed to",
            code="slot-not-idle",
            hint=f"look at: slipway status {session.spec.name}",
        )
