"""One release: its record, how the record changes, and what may follow.

The record is the truth: it lives in the cluster, guarded by the object's resourceVersion. Each
stage writes its intent (`begin`), acts, reads back, and writes what it proved (`advance`). Killed
at any line, a rerun finds here where to go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from slipway.core.errors import ConflictError, InputError
from slipway.core.routing import Route, Slot, all_to, empty
from slipway.core.verdicts import Verdict

SCHEMA_VERSION = 1


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
    """

    slot: Slot
    workload: str
    version: str = ""
    image: str = ""
    release_id: str = ""
    weights: str = ""


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
class ReleaseRecord:
    """The persisted state of a service's current or last release.

    Args:
        release_id: `SERVICE-vVERSION-N`; N counts the service's releases.
        stable: slot that served when the release began; None before the first one.
        candidate: slot under release.
        promoted: the candidate has been given the users (traffic may already be on it).
        preview_token: secret value of the preview header.
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

    def has_reached(self, phase: Phase) -> bool:
        """Return whether the release has already proved `phase` on its way forward."""
        return self.phase in FORWARD and FORWARD.index(self.phase) >= FORWARD.index(phase)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asked for."""

    service: str
    model: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Begin a new release with this record."""

    record: ReleaseRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Go on with the release of this record; its former holder is gone."""

    record: ReleaseRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyDone:
    """The version asked for is live already; nothing is to do."""

    record: ReleaseRecord


Admission = Start | Resume | AlreadyDone


def admit(request: Request, record: ReleaseRecord | None, *, token: str, now_ns: int) -> Admission:
    """Decide what a request means, given the service's record. The caller holds the lease.

    Args:
        request: what is asked for.
        record: of the service's last release, None when there was none.
        token: a fresh random value for the preview header.
        now_ns: Unix time.

    Raises:
        ConflictError: another version's release is unfinished.
    """
    if record is None:
        return Start(record=_first(request, token=token, now_ns=now_ns))
    if not record.terminal:
        if record.version == request.version:
            return Resume(record=record)
        raise ConflictError(
            f"release {record.release_id} of service {record.service} is unfinished "
            f"(phase {record.phase})",
            code="release-unfinished",
            hint=f"finish it first: slipway release {record.service} {record.version}",
        )
    if _live_version(record) == request.version:
        return AlreadyDone(record=record)
    return Start(record=_next(request, record, token=token, now_ns=now_ns))


def _live_version(record: ReleaseRecord) -> str | None:
    """Return the version that serves once the release of `record` has ended; None before any."""
    if record.phase is Phase.DONE:
        return record.version
    return None if record.stable is None else record.slot(record.stable).version


def _first(request: Request, *, token: str, now_ns: int) -> ReleaseRecord:
    slots = tuple(SlotRecord(slot=slot, workload=f"{request.service}-{slot}") for slot in Slot)
    return _requested(
        ReleaseRecord(
            service=request.service,
            release_id=f"{request.service}-v{request.version}-1",
            model=request.model,
            version=request.version,
            phase=Phase.REQUESTED,
            candidate=Slot.BLUE,
            stable=None,
            slots=slots,
            preview_token=token,
            started_at_ns=now_ns,
        )
    )


def _next(request: Request, record: ReleaseRecord, *, token: str, now_ns: int) -> ReleaseRecord:
    live = record.live_slot
    sequence = record.sequence + 1
    return _requested(
        ReleaseRecord(
            service=request.service,
            release_id=f"{request.service}-v{request.version}-{sequence}",
            model=request.model,
            version=request.version,
            phase=Phase.REQUESTED,
            candidate=live.other if live else record.candidate,
            stable=live,
            slots=record.slots,
            preview_token=token,
            started_at_ns=now_ns,
            sequence=sequence,
        )
    )


def _requested(record: ReleaseRecord) -> ReleaseRecord:
    entry = HistoryEntry(phase=Phase.REQUESTED, at_ns=record.started_at_ns, reason="requested")
    return replace(record, history=(entry,), reason="requested")


def begin(record: ReleaseRecord, intent: str) -> ReleaseRecord:
    """Return the record with the intent of the next outside write."""
    return replace(record, intent=intent)


def advance(record: ReleaseRecord, phase: Phase, *, reason: str, now_ns: int) -> ReleaseRecord:
    """Return the record in `phase`, its intent cleared.

    Raises:
        ConflictError: `phase` does not follow the record's phase.
    """
    if not _may_follow(record.phase, phase):
        raise ConflictError(
            f"release {record.release_id}: {phase} cannot follow {record.phase}",
            code="phase-order",
            hint="the record changed meanwhile; read it again",
        )
    entry = HistoryEntry(phase=phase, at_ns=now_ns, reason=reason)
    return replace(record, phase=phase, intent="", reason=reason, history=(*record.history, entry))


def _may_follow(current: Phase, following: Phase) -> bool:
    if following is Phase.ROLLING_BACK:
        return current not in TERMINAL
    if following is Phase.ROLLED_BACK:
        return current is Phase.ROLLING_BACK
    if current in TERMINAL or current is Phase.ROLLING_BACK:
        return False
    return FORWARD.index(following) == FORWARD.index(current) + 1


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


def route_before(record: ReleaseRecord) -> Route:
    """Return the route that holds when this release has changed nothing: all users on stable."""
    if record.stable is None:
        return empty(record.service)
    return all_to(record.service, record.stable)
