"""What a request means, given what the service's record says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from slipway.core.errors import ConflictError
from slipway.core.release.record import Phase, ReleaseRecord, begun
from slipway.core.service import RampStep, ServiceSpec, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asked for.

    Args:
        strategy: of the service's policy.
        steps: of a canary, as the service's policy states them now.
    """

    service: str
    model: str
    version: str
    strategy: Strategy = Strategy.BLUE_GREEN
    steps: tuple[RampStep, ...] = ()


def requested(spec: ServiceSpec, version: str) -> Request:
    """Return the request to release `version` to a service as its file states it now."""
    return Request(
        service=spec.name,
        model=spec.model,
        version=version,
        strategy=spec.policy.strategy,
        steps=spec.policy.ramp.steps,
    )


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


def admit(
    request: Request, record: ReleaseRecord | None, *, token: str, fence: int, now_ns: int
) -> Admission:
    """Decide what a request means, given the service's record. The caller holds the lease.

    Args:
        request: what is asked for.
        record: of the service's last release, None when there was none.
        token: a fresh random value for the preview header.
        fence: number of the lock that the caller holds.
        now_ns: Unix time.

    Raises:
        ConflictError: another version's release is unfinished.
    """
    if record is not None and not record.terminal:
        # A rollback has proved other things than a release: only a rollback goes on with it.
        if record.version == request.version and not record.rollback:
            return Resume(record=record)
        raise ConflictError(
            f"release {record.release_id} of service {record.service} is unfinished "
            f"(phase {record.phase})",
            code="release-unfinished",
            hint=f"finish it first: {_finished_by(record)};"
            f" or take it back: slipway abort {record.service}",
        )
    if record is not None and _live_version(record) == request.version:
        return AlreadyDone(record=record)
    return Start(record=_begun(request, record, token=token, fence=fence, now_ns=now_ns))


def _finished_by(record: ReleaseRecord) -> str:
    if record.rollback:
        return f"slipway rollback {record.service}"
    return f"slipway release {record.service} {record.version}"


def _live_version(record: ReleaseRecord) -> str | None:
    """Return the version that serves once the release of `record` has ended; None before any."""
    if record.phase is Phase.DONE:
        return record.version
    return None if record.stable is None else record.slot(record.stable).version


def _begun(
    request: Request, record: ReleaseRecord | None, *, token: str, fence: int, now_ns: int
) -> ReleaseRecord:
    made = begun(
        service=request.service,
        model=request.model,
        version=request.version,
        before=record,
        token=token,
        fence=fence,
        now_ns=now_ns,
    )
    if made.stable is None:  # nobody serves: nothing to compare with, and no user to protect
        return made
    steps = request.steps if request.strategy is Strategy.CANARY else ()
    return replace(made, strategy=request.strategy, steps=steps)
