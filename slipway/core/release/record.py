"""One release: its record, how the record changes, and what may follow.

The record is the truth: it lives in the cluster, guarded by the object's resourceVersion. Each
stage writes its intent (`begin`), acts, reads back, and writes what it proved (`advance`). Killed
at any line, a rerun finds here where to go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from slipway.core.errors import ConflictError, InputError
from slipway.core.release.scaling import Scaling
from slipway.core.routing import Route, Slot, all_to, empty
from slipway.core.service import RampStep, Strategy
from slipway.core.verdicts import Verdict

SCHEMA_VERSION = 2


class Phase(StrEnum):
    """How far a release has come; each phase names what has been proved."""

    REQUESTED = "requested"
    BUILT = "built"
    TESTED = "tested"
    DEPLOYED = "deployed"
    SMOKED = "smoked"
    BENCHMARKED = "benchmarked"
    RAMPING = "ramping"
    PROMOTED = "promoted"
    BAKING = "baking"
    DONE = "done"
    HELD = "held"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


FORWARD = (
    Phase.REQUESTED,
    Phase.BUILT,
    Phase.TESTED,
    Phase.DEPLOYED,
    Phase.SMOKED,
    Phase.BENCHMARKED,
    Phase.RAMPING,
    Phase.PROMOTED,
    Phase.BAKING,
    Phase.DONE,
)
"""The phases of a release that goes well, in order."""

_WEIGHTS = {Phase.PROMOTED: 100, Phase.ROLLED_BACK: 0}
"""What these phases prove of the candidate's share of the users."""

TERMINAL = frozenset({Phase.DONE, Phase.ROLLED_BACK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What exactly is released; empty strings until known.

    Args:
        image: `sha256:…` of the image manifest.
        weights: sha256 over the version's file list with their checksums.
        config: sha256 of the server's configuration file, empty when there is none.
        chat_template: sha256 of the chat template.
    """

    image: str = ""
    weights: str = ""
    config: str = ""
    chat_template: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """What one slot holds.

    Args:
        workload: name of its Deployment (an adopted service keeps its own).
        version: model version deployed there last, empty when never.
        image: full image reference by digest.
        release_id: the release that deployed it.
        weights: digest of the version's weights; on a volume it is kept while a slot names it.
        adopted: somebody else made its Deployment; it is scaled, and never written anew.
    """

    slot: Slot
    workload: str
    version: str = ""
    image: str = ""
    release_id: str = ""
    weights: str = ""
    adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageVerdict:
    """The outcome of one judged stage, with the key of its evidence in the object store."""

    stage: str
    verdict: Verdict
    reasons: tuple[str, ...]
    evidence_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One change of phase."""

    phase: Phase
    at_ns: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why a release waits, and for how long it may.

    Args:
        phase: that it goes on from.
        since_ns: Unix time.
        timeout_s: after which it is taken back; counted by the process that watches.
    """

    phase: Phase
    reason: str
    since_ns: int
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's yes to one step of a canary.

    Args:
        weight_percent: of the step.
        by: who said it.
        at_ns: Unix time.
    """

    weight_percent: int
    by: str
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """The persisted state of a service's current or last release.

    Args:
        release_id: `SERVICE-vVERSION-N`; N counts the service's releases.
        stable: slot that served when the release began; None before the first one.
        candidate: slot under release.
        preview_token: secret value of the preview header.
        fence: number of the lock under which the record was written; it only grows.
        strategy: how traffic moves; what the service file says later changes nothing.
        steps: of the canary, likewise.
        rollback: it goes back to a version that served before, by a person's order.
        weight_percent: of the users' requests that the gateway was last seen to give the candidate.
        hold: why the release waits, None unless it is held.
        approvals: of steps that ask for one.
        scaling: what the slots' autoscalers are to keep; None where the number of pods is fixed.
        retire_after_ns: end of the rollback window, Unix time, while the former slot is kept warm;
            else 0.
        intent: what is being written to the outside right now, empty between writes.
        reason: of the last change, and at the end of the outcome.
        failure_code: code of the error that rolled it back, empty otherwise.
    """

    service: str
    release_id: str
    model: str
    version: str
    phase: Phase
    candidate: Slot
    stable: Slot | None
    slots: tuple[SlotRecord, ...]
    preview_token: str
    started_at_ns: int
    sequence: int = 1
    fence: int = 0
    strategy: Strategy = Strategy.BLUE_GREEN
    steps: tuple[RampStep, ...] = ()
    rollback: bool = False
    weight_percent: int = 0
    hold: Hold | None = None
    approvals: tuple[Approval, ...] = ()
    scaling: Scaling | None = None
    retire_after_ns: int = 0
    digests: Digests = Digests()
    intent: str = ""
    reason: str = ""
    failure_code: str = ""
    alias_before: str = ""
    tested_pod_uids: tuple[str, ...] = ()
    verdicts: tuple[StageVerdict, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def terminal(self) -> bool:
        """Whether the release has ended."""
        return self.phase in TERMINAL

    @property
    def live_slot(self) -> Slot | None:
        """The slot that serves users once this record's writes have taken effect."""
        if self.phase in {Phase.PROMOTED, Phase.BAKING, Phase.DONE}:
            return self.candidate
        return self.stable

    @property
    def has_passed_promotion(self) -> bool:
        """Whether the users were ever given to the candidate in this release."""
        return any(entry.phase is Phase.PROMOTED for entry in self.history)

    def slot(self, slot: Slot) -> SlotRecord:
        """Return what `slot` holds."""
        return next(item for item in self.slots if item.slot is slot)

    @property
    def proved(self) -> Phase | None:
        """The last phase proved on the way forward; None once the release is taken back."""
        if self.phase is Phase.HELD:
            return None if self.hold is None else self.hold.phase
        return self.phase if self.phase in FORWARD else None

    def has_reached(self, phase: Phase) -> bool:
        """Return whether the release has already proved `phase` on its way forward."""
        proved = self.proved
        return proved is not None and FORWARD.index(proved) >= FORWARD.index(phase)

    def is_approved(self, step: RampStep) -> bool:
        """Return whether nobody, or somebody who said yes, had to be asked about `step`."""
        weights = {item.weight_percent for item in self.approvals}
        return not step.approval or step.weight_percent in weights

    def began_ns(self, phase: Phase) -> int:
        """Return when the release last entered `phase`, Unix ns.

        Raises:
            InputError: it never did.
        """
        for entry in reversed(self.history):
            if entry.phase is phase:
                return entry.at_ns
        raise InputError(
            f"release {self.release_id} never reached {phase}",
            code="record-incomplete",
            hint="the record was edited by hand; restore its history",
        )


def begun(
    *,
    service: str,
    model: str,
    version: str,
    before: ReleaseRecord | None,
    token: str,
    fence: int,
    now_ns: int,
    reason: str = "requested",
) -> ReleaseRecord:
    """Return the record of a release that begins: into the slot that does not serve.

    Args:
        before: of the service's last release, None before the first one.
        token: a fresh random value for the preview header.
        fence: number of the lock that the caller holds.
        now_ns: Unix time.
        reason: why it begins.
    """
    live = None if before is None else before.live_slot
    idle = Slot.BLUE if before is None else before.candidate
    sequence = 1 if before is None else before.sequence + 1
    blank = tuple(SlotRecord(slot=slot, workload=f"{service}-{slot}") for slot in Slot)
    return ReleaseRecord(
        service=service,
        release_id=f"{service}-v{version}-{sequence}",
        model=model,
        version=version,
        phase=Phase.REQUESTED,
        candidate=idle if live is None else live.other,
        stable=live,
        slots=blank if before is None else before.slots,
        preview_token=token,
        started_at_ns=now_ns,
        sequence=sequence,
        fence=fence,
        reason=reason,
        history=(HistoryEntry(phase=Phase.REQUESTED, at_ns=now_ns, reason=reason),),
    )


def begin(record: ReleaseRecord, intent: str, *, scaling: Scaling | None = None) -> ReleaseRecord:
    """Return the record with the intent of the next outside write.

    Args:
        scaling: what autoscalers are to keep from now on; None leaves it as it is.
    """
    return replace(record, intent=intent, scaling=scaling or record.scaling)


def advance(record: ReleaseRecord, phase: Phase, *, reason: str, now_ns: int) -> ReleaseRecord:
    """Return the record in `phase`, its intent cleared.

    Raises:
        ConflictError: `phase` does not follow the record's phase.
    """
    if not _may_follow(record, phase):
        raise _out_of_order(record, phase)
    weight = _WEIGHTS.get(phase, record.weight_percent)
    return _entered(replace(record, hold=None, weight_percent=weight), phase, reason, now_ns)


def hold(record: ReleaseRecord, *, reason: str, timeout_s: float, now_ns: int) -> ReleaseRecord:
    """Return the record held: it waits, for a person or for data, where it is.

    Raises:
        ConflictError: it has ended, is taken back, or is held already.
    """
    if record.phase not in FORWARD or record.terminal:
        raise _out_of_order(record, Phase.HELD)
    why = Hold(phase=record.phase, reason=reason, since_ns=now_ns, timeout_s=timeout_s)
    return _entered(replace(record, hold=why), Phase.HELD, reason, now_ns)


def go_on(record: ReleaseRecord, *, reason: str, now_ns: int) -> ReleaseRecord:
    """Return the held record back in the phase that it was held from.

    Raises:
        ConflictError: it is not held.
    """
    if record.hold is None or record.phase is not Phase.HELD:
        raise _out_of_order(record, "going on")
    return _entered(replace(record, hold=None), record.hold.phase, reason, now_ns)


def with_weight(record: ReleaseRecord, percent: int) -> ReleaseRecord:
    """Return the record that says what the gateway was seen to give the candidate."""
    return replace(record, weight_percent=percent, intent="")


def with_approval(record: ReleaseRecord, approval: Approval) -> ReleaseRecord:
    """Return the record with a person's yes to a step; a second yes changes nothing."""
    if any(item.weight_percent == approval.weight_percent for item in record.approvals):
        return record
    return replace(record, approvals=(*record.approvals, approval))


def _entered(record: ReleaseRecord, phase: Phase, reason: str, now_ns: int) -> ReleaseRecord:
    entry = HistoryEntry(phase=phase, at_ns=now_ns, reason=reason)
    history = (*record.history, entry)
    return replace(record, phase=phase, intent="", reason=reason, history=history)


def _may_follow(record: ReleaseRecord, following: Phase) -> bool:
    current = record.phase
    if following is Phase.ROLLING_BACK:
        return current not in TERMINAL
    if following is Phase.ROLLED_BACK:
        return current is Phase.ROLLING_BACK
    if following not in FORWARD or current not in FORWARD or current in TERMINAL:
        return False
    return FORWARD.index(following) == FORWARD.index(current) + 1


def _out_of_order(record: ReleaseRecord, following: str) -> ConflictError:
    return ConflictError(
        f"release {record.release_id}: {following} cannot follow {record.phase}",
        code="phase-order",
        hint="the record changed meanwhile; read it again",
    )


def with_verdict(record: ReleaseRecord, verdict: StageVerdict) -> ReleaseRecord:
    """Return the record with a stage's verdict; an earlier one of the same stage is replaced."""
    kept = tuple(item for item in record.verdicts if item.stage != verdict.stage)
    return replace(record, verdicts=(*kept, verdict))


def with_candidate(record: ReleaseRecord, *, image: str) -> ReleaseRecord:
    """Return the record whose candidate slot holds this release's version by `image`."""
    held = replace(
        record.slot(record.candidate),
        version=record.version,
        image=image,
        release_id=record.release_id,
        weights=record.digests.weights,
    )
    updated = tuple(held if item.slot is record.candidate else item for item in record.slots)
    return replace(record, slots=updated)


def adopted_workload(record: ReleaseRecord) -> str:
    """Return the name of the Deployment that a slot was adopted with; "" without one."""
    return next((item.workload for item in record.slots if item.adopted), "")


def with_own_workload(record: ReleaseRecord, workload: str) -> ReleaseRecord:
    """Return the record whose candidate slot has a Deployment of a release's own from now on."""
    own = replace(record.slot(record.candidate), workload=workload, adopted=False)
    slots = tuple(own if item.slot is record.candidate else item for item in record.slots)
    return replace(record, slots=slots)


def route_before(record: ReleaseRecord) -> Route:
    """Return the route that holds when this release has changed nothing: all users on stable."""
    if record.stable is None:
        return empty(record.service)
    return all_to(record.service, record.stable)
