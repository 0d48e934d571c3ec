"""What a canary does next: one pure function of what was seen, asked again at every look."""

from __future__ import annotations

from dataclasses import dataclass

from slipway.core.release.promotion import promotion_refusal
from slipway.core.release.ramp import enough
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.release.scaling import EVERYBODY, replicas_for
from slipway.core.rollout import RolloutObservation
from slipway.core.service import RampPolicy, RampStep
from slipway.core.verdicts import GateResult, Verdict, overall


@dataclass(frozen=True, slots=True, kw_only=True)
class RampView:
    """What one look saw; nothing in it is older than a few seconds.

    Args:
        share_percent: of the users' requests that the route gives the candidate.
        candidate: its Deployment.
        results: of the gates at this weight; empty at weight 0.
        at_weight_s: for how long this process has seen the weight in force.
        held_s: for how long it has seen the release held.
        short_s: for how long it has waited for the pods of the next weight.
    """

    share_percent: int
    candidate: RolloutObservation | None
    results: tuple[GateResult, ...] = ()
    at_weight_s: float = 0.0
    held_s: float = 0.0
    short_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWeight:
    """Give the candidate this share of the users."""

    weight_percent: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Have the candidate's autoscaler keep so many pods, before it gets more users.

    Args:
        floor: pods that the next weight needs.
    """

    floor: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Change nothing, look again.

    Args:
        short: it waits for the pods of the next weight.
    """

    reason: str
    short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRelease:
    """Change nothing until a person or data allow it, and say so."""

    reason: str
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoOn:
    """What the release was held for is there."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Every gate passed at the last step: give the candidate everybody."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBack:
    """Give the users back to the stable slot.

    Args:
        code: of the error that the release ends with.
    """

    reason: str
    code: str


Decision = SetWeight | Reserve | Wait | HoldRelease | GoOn | Promote | TakeBack


def decide_ramp(
    record: ReleaseRecord, view: RampView, policy: RampPolicy, *, replicas: int
) -> Decision:
    """Return what a canary does next.

    The weight rises when its time is over, no gate says FAIL or ERROR and the least evidence is in;
    everybody moves only on a PASS of every gate (R2, R3). What was seen is compared with the record
    first: a route that says something else is written again.

    Args:
        record: of a release in phase `ramping`, or held from it.
        view: what was seen just now.
        policy: of the service.
        replicas: how many ready pods the service needs for all its users; where an autoscaler
            decides, as found just now.
    """
    decision = _decide(record, view, policy, replicas)
    if record.phase is not Phase.HELD or isinstance(decision, TakeBack):
        return decision
    if not isinstance(decision, HoldRelease | Wait):
        return GoOn(reason=decision.reason)
    timeout_s = policy.hold_timeout_s if record.hold is None else record.hold.timeout_s
    if view.held_s > timeout_s:
        reason = f"held for {timeout_s:g} s without an answer: {record.reason}"
        return TakeBack(reason=reason, code="hold-expired")
    return Wait(reason=record.reason)


def step_to_approve(record: ReleaseRecord) -> RampStep | None:
    """Return the next step when a person must allow it and nobody has yet."""
    step = _next_step(record)
    return None if step is None or record.is_approved(step) else step


def _decide(record: ReleaseRecord, view: RampView, policy: RampPolicy, replicas: int) -> Decision:
    weight = record.weight_percent
    # A process that died between route and record leaves more users there than the record knows.
    carried = max(weight, view.share_percent)
    # Load that grows is no fault of the candidate: it is judged by what its weight was set for.
    judged_by = replicas if record.scaling is None else record.scaling.needed
    unfit = promotion_refusal(record, view.candidate, replicas=replicas_for(carried, judged_by))
    if unfit is not None:
        return TakeBack(reason=unfit, code="candidate-unhealthy")
    verdict = overall(view.results)
    if verdict is Verdict.FAIL:
        bad = "; ".join(item.reason for item in view.results if item.verdict is Verdict.FAIL)
        return TakeBack(reason=f"at {weight} %: {bad}", code="canary-failed")
    if weight == 0:
        return _rise(record, view, policy, replicas, reason="every gate before users passed")
    if view.share_percent != weight:
        return SetWeight(weight_percent=weight, reason="the route says something else")
    return _at_weight(record, view, policy, replicas, verdict)


def _at_weight(
    record: ReleaseRecord,
    view: RampView,
    policy: RampPolicy,
    replicas: int,
    verdict: Verdict,
) -> Decision:
    bake_s = next(
        (item.bake_s for item in record.steps if item.weight_percent == record.weight_percent), 0.0
    )
    if view.at_weight_s < bake_s:
        return Wait(reason=f"{record.weight_percent} % for {bake_s:g} s")
    said = "; ".join(item.reason for item in view.results)
    last = _next_step(record) is None
    if verdict is Verdict.PASS or (
        verdict is Verdict.INCONCLUSIVE and enough(view.results) and not last
    ):
        return _rise(record, view, policy, replicas, reason=said)
    if view.at_weight_s > bake_s + policy.data_timeout_s:
        return HoldRelease(
            reason=f"no verdict at {record.weight_percent} %: {said}",
            timeout_s=policy.hold_timeout_s,
        )
    return Wait(reason=f"{record.weight_percent} %: {said}")


def _rise(
    record: ReleaseRecord, view: RampView, policy: RampPolicy, replicas: int, *, reason: str
) -> Decision:
    step = _next_step(record)
    if step is not None and not record.is_approved(step):
        return HoldRelease(
            reason=f"{step.weight_percent} % needs a person's approval",
            timeout_s=policy.hold_timeout_s,
        )
    weight = EVERYBODY if step is None else step.weight_percent
    missing = _missing_pods(record, view, policy, weight=weight, replicas=replicas)
    if missing is not None:
        return missing
    if step is None:
        return Promote(reason=reason)
    return SetWeight(weight_percent=weight, reason=reason)


def _missing_pods(
    record: ReleaseRecord, view: RampView, policy: RampPolicy, *, weight: int, replicas: int
) -> Reserve | Wait | HoldRelease | None:
    """Return what to do first about pods that `weight` needs; None when they are there."""
    needed, scaling = replicas_for(weight, replicas), record.scaling
    if scaling is None and weight == EVERYBODY:
        return None  # the promotion looks itself, and is refused
    if scaling is not None and scaling.candidate_floor < needed:
        reason = f"{needed} of {replicas} pods are needed for {weight} %"
        return Reserve(floor=needed, reason=reason)
    refusal = promotion_refusal(record, view.candidate, replicas=needed)
    if refusal is None:
        return None
    said = f"not {weight} % yet: {refusal}"
    if view.short_s > policy.data_timeout_s:
        return HoldRelease(reason=said, timeout_s=policy.hold_timeout_s)
    return Wait(reason=said, short=True)


def _next_step(record: ReleaseRecord) -> RampStep | None:
    higher = (step for step in record.steps if step.weight_percent > record.weight_percent)
    return next(higher, None)
