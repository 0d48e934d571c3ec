"""The steps of a canary: look, decide, act, until everybody may move or the users go back."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from typing import Any, assert_never

from slipway.core.errors import PermanentError, TransientError
from slipway.core.release.decision import (
    Decision,
    GoOn,
    HoldRelease,
    Promote,
    RampView,
    Reserve,
    SetWeight,
    TakeBack,
    Wait,
    decide_ramp,
    step_to_approve,
)
from slipway.core.release.promotion import promotion_refusal, route_at
from slipway.core.release.ramp import RampWatch, judge_ramp, ramp_evidence, unreadable
from slipway.core.release.record import Phase, StageVerdict, with_approval, with_weight
from slipway.core.release.scaling import replicas_for
from slipway.core.release.stages import RAMP
from slipway.core.verdicts import Evidence, GateResult, overall
from tasks.approval import ApprovalDesk
from tasks.scaling import (
    hold_stable,
    judged_by,
    pods_needed,
    pods_promised,
    reserve,
    reserve_again,
    stable_has_grown,
)
from tasks.session import ReleaseSession, evidence_prefix
from tasks.stage import release_stage

_POLL_S = 0.5
_SAY_EVERY_S = 15.0
_RAMP_FILE = "ramp.json"


@release_stage(RAMP)
def ramp(session: ReleaseSession) -> str:
    """Give the candidate more and more of the users, as long as they fare as well as the others."""
    if not session.reached(Phase.RAMPING):
        session.advance(Phase.RAMPING, "every gate passed")
    told = _Told(session)
    hold_stable(session)
    reserve_again(session)
    while True:
        with session.outlived():
            risen = _look_and_act(session, told)
            if risen is not None:
                return risen.reason
        time.sleep(_POLL_S)  # between two looks; no look waits for another's end


def _look_and_act(session: ReleaseSession, told: _Told) -> Promote | None:
    session.check_lock()
    session.check_orders()
    _ask_a_person(session)
    figures, results = _judged(session)
    needed = pods_needed(session)
    decision = decide_ramp(
        session.record, _view(session, results), session.spec.policy.ramp, replicas=needed
    )
    if isinstance(decision, Promote):
        _leave_weight(session, figures, results)
        return decision
    told.tell(decision)
    if isinstance(decision, SetWeight):
        _leave_weight(session, figures, results)
        _set_weight(session, decision.weight_percent, needed)
    else:
        _act(session, decision, figures, results)
    return None


class _Told:
    """Says what is decided: every change at once, the figures of a wait now and then."""

    def __init__(self, session: ReleaseSession) -> None:
        self._session = session
        self._last: type[Decision] | None = None
        self._at_s = 0.0

    def tell(self, decision: Decision) -> None:
        """Say a decision, unless it is one wait among many."""
        now_s = time.monotonic()
        if isinstance(decision, Wait) and self._last is Wait and now_s - self._at_s < _SAY_EVERY_S:
            return
        self._last, self._at_s = type(decision), now_s
        before = f"{decision.weight_percent} % now: " if isinstance(decision, SetWeight) else ""
        self._session.progress.say(before + decision.reason)


def _act(
    session: ReleaseSession,
    decision: Reserve | Wait | HoldRelease | GoOn | TakeBack,
    figures: tuple[Evidence, ...],
    results: tuple[GateResult, ...],
) -> None:
    match decision:
        case Reserve():
            reserve(session, decision.floor)
        case Wait(short=False):
            session.short_since_s = None
        case Wait():
            if session.short_since_s is None:
                session.short_since_s = time.monotonic()
        case HoldRelease():
            session.hold(decision.reason, timeout_s=decision.timeout_s)
            session.held_since_s = time.monotonic()
        case GoOn():
            session.go_on(decision.reason)
            session.held_since_s = None
            _close_desk(session)
        case TakeBack():
            _leave_weight(session, figures, results)
            _close_desk(session)
            raise PermanentError(
                f"canary of version {session.record.version} of {session.spec.model}: "
                f"{decision.reason}",
                code=decision.code,
                hint=f"the figures are in the evidence, {_RAMP_FILE}",
            )
        case _:
            assert_never(decision)


def _ask_a_person(session: ReleaseSession) -> None:
    """Open the question of a held step, and take its answer over into the record."""
    record, desk = session.record, session.desk
    step = step_to_approve(record)
    if record.phase is not Phase.HELD or record.hold is None or step is None:
        return
    if desk is None:
        session.desk = ApprovalDesk(record, step, timeout_s=record.hold.timeout_s)
        return
    if desk.aborted:
        raise PermanentError(
            f"release {record.release_id} was aborted by {desk.aborted}",
            code="aborted",
            hint="the users are back on the stable slot; release again when you like",
        )
    approval = desk.approval()
    if approval is not None:
        session.save(with_approval(record, approval))


def _close_desk(session: ReleaseSession) -> None:
    if session.desk is None:
        return
    weight = session.desk.step.weight_percent
    given = (item for item in session.record.approvals if item.weight_percent == weight)
    session.desk.close(next(given, None))
    session.desk = None


def _view(session: ReleaseSession, results: tuple[GateResult, ...]) -> RampView:
    record, now_s, watch = session.record, time.monotonic(), session.ramp_watch
    if record.phase is Phase.HELD and session.held_since_s is None:
        session.held_since_s = now_s  # a process before this one held it
    return RampView(
        share_percent=session.ports.traffic.read(record.service).percent(record.candidate),
        candidate=session.observe(record.candidate),
        results=results,
        at_weight_s=0.0 if watch is None else now_s - watch.began_s,
        held_s=0.0 if session.held_since_s is None else now_s - session.held_since_s,
        short_s=0.0 if session.short_since_s is None else now_s - session.short_since_s,
    )


def _judged(session: ReleaseSession) -> tuple[tuple[Evidence, ...], tuple[GateResult, ...]]:
    """Read what was logged since the last look; returns figures and verdicts of this weight."""
    record, traffic, policy = session.record, session.ports.traffic, session.spec.policy.ramp
    if record.weight_percent == 0:
        return (), ()
    watch = session.ramp_watch or _watch(session, record.weight_percent)
    session.ramp_watch = watch
    try:
        tail = traffic.access_rows(record.service, after=watch.position)
    except TransientError as error:
        return (), unreadable(policy, error.message)
    session.ramp_watch = watch = watch.after(record, tail)
    window_s = time.monotonic() - watch.began_s
    figures = ramp_evidence(watch, policy, window_s=window_s, now_ns=time.time_ns())
    return figures, judge_ramp(figures, policy, session.spec.slo)


def _watch(session: ReleaseSession, weight_percent: int) -> RampWatch:
    record = session.record
    return RampWatch(
        weight_percent=weight_percent,
        revision=route_at(record, weight_percent).revision,
        began_s=time.monotonic(),
        position=session.ports.traffic.access_end(record.service),
    )


def _set_weight(session: ReleaseSession, weight_percent: int, needed: int) -> None:
    traffic, record = session.ports.traffic, session.record
    if weight_percent == record.weight_percent:  # written again: nothing rises
        needed = pods_promised(record, replicas=needed)
    if record.scaling is not None:
        hold_stable(session)  # it may have grown since the weight before
    route = route_at(record, weight_percent)
    session.intend(
        f"{weight_percent} % of the users to slot {record.candidate}",
        scaling=judged_by(session.record, needed),
    )
    if stable_has_grown(session):
        return  # while the intent was written: the next look decides again
    session.ramp_watch = session.short_since_s = None
    _require_fit(session, weight_percent, needed)
    traffic.apply(route)
    traffic.confirm(route, timeout_s=30)
    session.save(with_weight(session.record, weight_percent))
    session.ramp_watch = _watch(session, weight_percent)


def _require_fit(session: ReleaseSession, weight_percent: int, replicas: int) -> None:
    """Look once more: while the intent was written the API server may have been away for long.

    Raises:
        PermanentError: the candidate's pods do not carry the weight any more.
    """
    needed = replicas_for(weight_percent, replicas)
    observed = session.observe(session.record.candidate)
    refusal = promotion_refusal(session.record, observed, replicas=needed)
    if refusal is not None:
        raise PermanentError(
            f"not {weight_percent} %: {refusal}",
            code="candidate-unhealthy",
            hint="look at the log of the slot's pods",
        )


def _leave_weight(
    session: ReleaseSession, figures: tuple[Evidence, ...], results: tuple[GateResult, ...]
) -> None:
    """Write down what the weight showed that is left now: in the record, and as evidence."""
    weight = session.record.weight_percent
    if not results:
        return
    known = _evidence_so_far(session)
    shown = {
        "weight_percent": weight,
        "evidence": [_plain(asdict(item)) for item in figures],
        "results": [_plain(asdict(item)) for item in results],
    }
    key = session.put_evidence(_RAMP_FILE, {"weights": [*known, shown]}, "application/json")
    reasons = tuple(item.reason for item in results)
    verdict = StageVerdict(
        stage=f"ramp {weight} %", verdict=overall(results), reasons=reasons, evidence_key=key
    )
    session.judge(verdict)


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it: a figure that could not be formed is null, not NaN."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _evidence_so_far(session: ReleaseSession) -> list[Any]:
    """Return what this release has stored already, also under the lock of a process that died."""
    objects = session.ports.objects
    stored = [
        key
        for key in objects.list(evidence_prefix(session.record))
        if key.endswith(f"/{_RAMP_FILE}")
    ]
    if not stored:
        return []
    # Sorted, so the last one has the highest number of a lock.
    found: list[Any] = json.loads(objects.get(stored[-1]))["weights"]
    return found
