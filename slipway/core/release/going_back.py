"""One step back after a release has ended: to the version in the other slot. Pure rules."""

from __future__ import annotations

from dataclasses import replace

from slipway.core.errors import ConflictError, InputError
from slipway.core.release.record import Digests, Phase, ReleaseRecord, begun

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
    before = record.slot(live).version
    made = begun(
        service=service,
        model=record.model,
        version=held.version,
        before=record,
        token=token,
        fence=fence,
        now_ns=now_ns,
        reason=f"rollback from version {before} to version {held.version}",
    )
    digests = Digests(image=held.image.rpartition("@")[2], weights=held.weights)
    # Blue/green, at once: whoever goes back wants nobody left on the version that is live.
    return replace(made, rollback=True, digests=digests)


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


def versions_in_use(record: ReleaseRecord) -> dict[str, str]:
    """Return the versions that serve users, or that one step back would bring them to.

    Returns:
        version → what it is used for, in words.
    """
    live = record.live_slot
    if live is None:
        return {}
    used = {record.slot(live).version: f"live in {record.service}"}
    other = record.slot(live.other).version
    failed = record.phase is Phase.ROLLED_BACK and not record.rollback
    if other and other not in used and not failed:
        used[other] = f"{record.service} may go back to it"
    return {version: use for version, use in used.items() if version}
