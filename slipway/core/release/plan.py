"""What a release would do, step by step and with its reasons: `slipway release --dry-run`.

The plan is decided by what a run decides by: `admit`, `leftover`, and `why_skipped`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from slipway.core.feasibility.values import Feasibility
from slipway.core.release.admission import Admission, AlreadyDone, Request, Resume, admit
from slipway.core.release.holder import refuse_stranger
from slipway.core.release.orders import Leftover, leftover
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.release.scaling import Scaling, first_scaling, replicas_for
from slipway.core.release.stages import (
    ALIAS,
    BAKE,
    BENCHMARK,
    DEPLOY,
    IMAGE,
    INTEGRITY,
    OF_RELEASE,
    PROMOTE,
    RAMP,
    RETIRE,
    SMOKE,
    TEST,
    Stage,
    why_skipped,
)
from slipway.core.report import amount_of_files
from slipway.core.routing import Slot
from slipway.core.service import (
    RampStep,
    RouterKind,
    ServiceSpec,
    Weights,
    WhenBusy,
    falls_back,
    keeps_sessions,
)

_UNDRAWN = "drawn when the release begins"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of a service just now.

    Args:
        record: of its last release, None before the first one.
        holder: of its lock, empty when it is free.
        ready: pods of each slot that can serve.
        asked: pods that each slot is to have.
        alias: version that the registry's alias names, None when it names none.
        split_filter: the gateway has what `router.sticky` and `router.fall_back` need.
        files: of the version asked for.
        size_bytes: of these files together.
    """

    record: ReleaseRecord | None
    holder: str
    ready: Mapping[Slot, int]
    asked: Mapping[Slot, int]
    alias: str | None
    split_filter: bool
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One step.

    Args:
        stage: its name.
        does: what it changes or asks.
        why: the reason of it, or why it is left out.
        skipped: it is left out.
    """

    stage: str
    does: str
    why: str
    skipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePlan:
    """What a release would do, from the state that was seen.

    Args:
        release_id: of the release that would begin or go on.
        begins: how it begins.
        steps: in order; none when nothing is to do.
        on_failure: what becomes of the users when a step fails.
        users_moved_s: shortest time from the first user on the candidate to the release's end.
        feasibility: whether it could be carried out now; None when nothing is to do.
        unfinished: it goes on with what a process has left, which is refused in no case.
    """

    release_id: str
    begins: str
    steps: tuple[PlannedStep, ...]
    on_failure: str
    users_moved_s: float
    feasibility: Feasibility | None = None
    unfinished: bool = False

    @property
    def refused(self) -> bool:
        """Whether a release would be refused now."""
        found = self.feasibility
        return found is not None and found.way is None and not self.unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    record: ReleaseRecord
    seen: Seen
    spec: ServiceSpec

    @property
    def workload(self) -> str:
        return self.record.slot(self.record.candidate).workload

    @property
    def scaling(self) -> Scaling | None:
        stable = self.record.stable
        asked = 0 if stable is None else self.seen.asked.get(stable, 0)
        return first_scaling(self.spec, self.record.steps, stable=asked)

    @property
    def needed(self) -> int:
        """Pods that carry all users now."""
        return self.spec.replicas if self.scaling is None else self.scaling.needed

    @property
    def at_first(self) -> int:
        """Pods that the candidate begins with."""
        return self.spec.replicas if self.scaling is None else self.scaling.candidate_floor


def plan_release(request: Request, seen: Seen, spec: ServiceSpec, *, now_ns: int) -> ReleasePlan:
    """Return what a release would do.

    Args:
        request: what is asked for.
        seen: of the service.
        spec: the service.
        now_ns: Unix time.

    Raises:
        ConflictError: it would be refused: another version's release is unfinished.
        PermanentError: it would be refused: something other than Slipway holds the lock.
    """
    waits, _ = _first(request, seen, spec)
    admission = upcoming(request, seen, spec, now_ns=now_ns)
    record = admission.record
    if isinstance(admission, AlreadyDone):
        said = f"version {request.version} is live already: nothing to do"
        return _plan(record, said, waits, spec)
    begins = f"goes on from {record.phase}" if isinstance(admission, Resume) else _begins(record)
    case = _Case(record=record, seen=seen, spec=spec)
    planned = tuple(step for stage in OF_RELEASE for step in _planned(stage, case))
    return _plan(record, begins, (*waits, *planned), spec)


def upcoming(request: Request, seen: Seen, spec: ServiceSpec, *, now_ns: int) -> Admission:
    """Return what a request would mean, once what has to end before has ended.

    Raises:
        ConflictError: as `plan_release`.
        PermanentError: as `plan_release`.
    """
    _, before = _first(request, seen, spec)
    fence = 0 if seen.record is None else seen.record.fence
    return admit(request, before, token=_UNDRAWN, fence=fence, now_ns=now_ns)


def _plan(
    record: ReleaseRecord, begins: str, steps: tuple[PlannedStep, ...], spec: ServiceSpec
) -> ReleasePlan:
    baked_s = sum(step.bake_s for step in record.steps) + spec.policy.bake_s
    return ReleasePlan(
        release_id=record.release_id,
        begins=begins,
        steps=steps,
        on_failure=_on_failure(record),
        users_moved_s=0.0 if record.terminal else baked_s,
    )


def _first(
    request: Request, seen: Seen, spec: ServiceSpec
) -> tuple[tuple[PlannedStep, ...], ReleaseRecord | None]:
    """Return what has to end before, and the record as it stands when it has."""
    when_busy, record = spec.policy.when_busy, seen.record
    refuse_stranger(spec.name, seen.holder)
    waits = () if not seen.holder else (_turn(seen.holder, when_busy),)
    if record is None:
        return waits, None
    match leftover(record, version=request.version, when_busy=when_busy):
        case Leftover.TAKE_BACK:
            return (*waits, _settled(record, "is taken back")), _ended(record, Phase.ROLLED_BACK)
        case Leftover.FINISH:
            return (*waits, _settled(record, "goes to its end")), _ended(record, Phase.DONE)
        case _:  # there is none, or `admit` refuses it
            return waits, record


def _ended(record: ReleaseRecord, phase: Phase) -> ReleaseRecord:
    return replace(record, phase=phase, hold=None)


def _turn(holder: str, when_busy: WhenBusy) -> PlannedStep:
    means = {
        WhenBusy.REFUSE: "while that process lives, this request is refused",
        WhenBusy.QUEUE: "this request waits until that process has ended",
        WhenBusy.SUPERSEDE: "that release gives way, unless its users were promoted already",
    }
    return PlannedStep(
        stage="turn",
        does=f"the service's lock is held by {holder}",
        why=f"policy.when_busy is {when_busy}: {means[when_busy]}",
    )


def _settled(record: ReleaseRecord, how: str) -> PlannedStep:
    promoted = record.has_reached(Phase.PROMOTED)
    return PlannedStep(
        stage="leftover",
        does=f"release {record.release_id} (phase {record.phase}) {how} first",
        why="its users were promoted" if promoted else "its users were never promoted",
    )


def _begins(record: ReleaseRecord) -> str:
    where = f"version {record.version} of {record.model} into slot {record.candidate}"
    if record.stable is None:
        return f"{where}; nobody serves yet"
    return f"{where}; slot {record.stable} serves version {record.slot(record.stable).version}"


def _on_failure(record: ReleaseRecord) -> str:
    if record.stable is None:
        return f"no route is left, slot {record.candidate} is emptied"
    return (
        f"all users stay on slot {record.stable} or go back to it, the alias follows,"
        f" slot {record.candidate} is drained and emptied"
    )


def _planned(stage: Stage, case: _Case) -> tuple[PlannedStep, ...]:
    skipped = why_skipped(stage, case.record)
    if skipped is not None:
        return (PlannedStep(stage=stage.name, does="nothing", why=skipped, skipped=True),)
    if stage is RAMP:
        return tuple(_ramp_step(step, case) for step in _steps_ahead(case.record))
    does, why = _TEXTS[stage](case)
    return (PlannedStep(stage=stage.name, does=does, why=why),)


def _steps_ahead(record: ReleaseRecord) -> tuple[RampStep, ...]:
    return tuple(step for step in record.steps if step.weight_percent > record.weight_percent)


def _ramp_step(step: RampStep, case: _Case) -> PlannedStep:
    policy = case.spec.policy.ramp
    pods = _pods(replicas_for(step.weight_percent, case.needed))
    asked = "" if case.record.is_approved(step) else ", after a person's approval"
    return PlannedStep(
        stage=RAMP.name,
        does=f"{step.weight_percent} % of the users for {step.bake_s:g} s and longer{asked}",
        why=f"needs {pods} ready; rises on {policy.requests_min} requests to"
        f" each slot and no gate that says FAIL or ERROR; {_while_divided(case)}",
    )


def _while_divided(case: _Case) -> str:
    """Return what users may count on while they are divided."""
    router, filtered = case.spec.router, case.seen.split_filter
    sticks = keeps_sessions(router) and filtered
    # Of an HTTPRoute the filter says how often a request is sent again.
    falls = falls_back(router) and (filtered or router.kind is not RouterKind.GATEWAY_API)
    stays = "a session that moved stays" if sticks else "sessions change sides at random"
    dead = f"falls back to slot {case.record.stable}" if falls else "fails its share of the users"
    return f"{stays}, a dead candidate {dead}"


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def _integrity(case: _Case) -> tuple[str, str]:
    amount = amount_of_files(case.seen.files, case.seen.size_bytes)
    return f"check {amount}, by their checksums", "the registry is not trusted"


def _image(case: _Case) -> tuple[str, str]:
    base = case.spec.server.image
    if case.spec.weights is Weights.PVC:
        return f"pin {base} by its digest", "the weights lie on a volume, not in the image"
    return f"append the files to {base} and push it", "what is tested is what is deployed"


def _test(case: _Case) -> tuple[str, str]:
    quality = case.spec.policy.quality
    return (
        f"load it in a pod of its own and ask {len(quality.golden)} golden prompts",
        f"accuracy of at least {quality.accuracy_min:g} is asked, before it takes a slot",
    )


def _deploy(case: _Case) -> tuple[str, str]:
    record = case.record
    warm = case.seen.ready.get(record.candidate, 0)
    held = record.slot(record.candidate).version
    first = f"drain {warm} pods of version {held}, then " if warm else ""
    pods = _pods(case.at_first)
    scaled = "" if case.spec.autoscaling is None else ", and an autoscaler of their own"
    return (
        f"{first}deploy {pods} as {case.workload}{scaled}",
        "no user is routed to the slot",
    )


def _smoke(case: _Case) -> tuple[str, str]:
    return (
        f"reach slot {case.record.candidate} through the gateway by a secret header",
        "the way of the users is tried before they take it",
    )


def _benchmark(case: _Case) -> tuple[str, str]:
    policy, slo = case.spec.policy.benchmark, case.spec.slo
    limit = f"p95 TTFT at most {slo.ttft_p95_ms:g} ms"
    if case.record.stable is not None:
        limit += f", at most {policy.slowdown_max:g} × as slow as the stable slot"
    return f"{policy.requests} requests, {policy.concurrency} at a time", limit


def _promote(case: _Case) -> tuple[str, str]:
    return (
        f"all users to slot {case.record.candidate}",
        f"every gate passed; {_pods(case.needed)} of the tested image ready",
    )


def _alias(case: _Case) -> tuple[str, str]:
    now = case.seen.alias
    return (
        f"{case.spec.alias} → version {case.record.version} (now {now or 'nowhere'})",
        "the alias follows the users",
    )


def _bake(case: _Case) -> tuple[str, str]:
    return (
        f"watch the users for {case.spec.policy.bake_s:g} s",
        f"an error rate of at most {case.spec.slo.error_rate_percent:g} % is asked",
    )


def _retire(case: _Case) -> tuple[str, str]:
    stable, window_s = case.record.stable, case.spec.policy.rollback_window_s
    if stable is None:
        return "nothing", "there is no old slot"
    if window_s > 0:
        return f"keep slot {stable} warm for {window_s:g} s", "to go back in one step"
    return f"drain slot {stable} and scale it to zero", "policy.rollback_window_s is 0"


_TEXTS: dict[Stage, Callable[[_Case], tuple[str, str]]] = {
    INTEGRITY: _integrity,
    IMAGE: _image,
    TEST: _test,
    DEPLOY: _deploy,
    SMOKE: _smoke,
    BENCHMARK: _benchmark,
    PROMOTE: _promote,
    ALIAS: _alias,
    BAKE: _bake,
    RETIRE: _retire,
}
