"""One step back after a release has ended: to the version in the other slot. Pure rules."""

from __future__ import annotations

from dataclasses import replace

from slipway.core.errors import ConflictError, InputError
from slipway.core.release.promotion import image_mismatch
from slipway.core.release.record import (
    Digests,
    HistoryEntry,
    Phase,
    ReleaseRecord,
)
from slipway.core.rollout import RolloutObservation
from slipway.core.service import Strategy

SERVED_BEFORE = "served before: not tested again"
"""Reason of the phases that a rollback does not prove anew."""


def rolled_back_already(record: ReleaseRecord | None) -> bool:
    """Return whether the service's last release was a rollback that went well.

    One step is one step: asked for twice it must not bring the users to where they fled from.
    """
    return record is not None and record.rollback and record.phase is Phase.DONE


def going_back(
    record: ReleaseRecord | None, *, service: str, token: str, fence: int, now_ns: int
) -> ReleaseRecord:
    """Return the record of a rollback: a new one, or the one that is unfinished or done already.

    Args:
        record: of the service's last release, None when there was none.
        service: whose.
        token: a fresh random value for the preview header.
        fence: number of the lock that the caller holds.
        now_ns: Unix time.

    Raises:
        InputError: `no-earlier-version`, no slot holds a version that served before.
    """
    if record is None:
        raise _nothing(service, "it was never released")
    if not record.terminal and not record.rollback:
        raise ConflictError(
            f"release {record.release_id} of service {service} began meanwhile "
            f"(phase {record.phase})",
            code="release-unfinished",
            hint=f"take it back: slipway rollback {service}",
        )
    if not record.terminal or rolled_back_already(record):
        return record
    live = record.live_slot
    if live is None or record.stable is None:
        raise _nothing(service, "no other version ever served")
    if record.phase is Phase.ROLLED_BACK and not record.rollback:
        raise _nothing(service, f"release {record.release_id}, taken back, used its slot")
    held = record.slot(live.other)
    sequence = record.sequence + 1
    before = record.slot(live).version
    reason = f"rollback from version {before} to version {held.version}"
    return ReleaseRecord(
        service=service,
        release_id=f"{service}-v{held.version}-{sequence}",
        model=record.model,
        version=held.version,
        phase=Phase.REQUESTED,
        candidate=held.slot,
        stable=live,
        slots=record.slots,
        preview_token=token,
        started_at_ns=now_ns,
        sequence=sequence,
        fence=fence,
        # One step, at once: whoever goes back wants nobody left on the version that is live.
        strategy=Strategy.BLUE_GREEN,
        rollback=True,
        digests=Digests(image=held.image.rpartition("@")[2], weights=held.weights),
        reason=reason,
        history=(HistoryEntry(phase=Phase.REQUESTED, at_ns=now_ns, reason=reason),),
    )


def why_cold(
    record: ReleaseRecord, observed: RolloutObservation | None, *, replicas: int
) -> str | None:
    """Return why the former slot cannot take the users as it stands; None when it is warm.

    Args:
        record: of the rollback.
        observed: the slot's Deployment, read just now.
        replicas: how many ready pods the service needs for all its users.
    """
    if observed is None:
        return f"slot {record.candidate} has no Deployment any more"
    ready = observed.ready_pods
    if len(ready) < replicas:
        return f"slot {record.candidate} has {len(ready)} ready pods of {replicas} needed"
    return image_mismatch(record, ready)


def redeployed(record: ReleaseRecord) -> ReleaseRecord:
    """Return the record whose candidate slot is deployed anew, by the image it held."""
    held = replace(record.slot(record.candidate), release_id=record.release_id)
    slots = tuple(held if item.slot is record.candidate else item for item in record.slots)
    return replace(record, slots=slots)


def _nothing(service: str, why: str) -> InputError:
    return InputError(
        f"service {service} has no earlier version to go back to: {why}",
        code="no-earlier-version",
        hint=f"release the version you want: slipway release {service} VERSION",
    )
