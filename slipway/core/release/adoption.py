"""The record of a service that was live before Slipway knew of it."""

from __future__ import annotations

from slipway.core.release.record import (
    HistoryEntry,
    Phase,
    ReleaseRecord,
    SlotRecord,
)
from slipway.core.routing import Slot
from slipway.core.service import ServiceSpec

ADOPTED = "adopted as it was live"
"""Reason of the record's only phase."""


def adopted_record(
    spec: ServiceSpec,
    *,
    version: str,
    slot: Slot,
    workload: str,
    image: str,
    fence: int,
    now_ns: int,
) -> ReleaseRecord:
    """Return the record of a service that is taken over: its pods are the stable slot.

    Args:
        spec: the service.
        version: of the model that the pods serve, as the registry names it.
        slot: that they become.
        workload: name of their Deployment.
        image: reference by digest that they run.
        fence: number of the lock that the caller holds.
        now_ns: Unix time.
    """
    release_id = f"{spec.name}-v{version}-1"
    held = SlotRecord(
        slot=slot,
        workload=workload,
        version=version,
        image=image,
        release_id=release_id,
        adopted=True,
    )
    other = SlotRecord(slot=slot.other, workload=f"{spec.name}-{slot.other}")
    return ReleaseRecord(
        service=spec.name,
        release_id=release_id,
        model=spec.model,
        version=version,
        phase=Phase.DONE,
        candidate=slot,
        stable=None,
        slots=tuple(held if one is slot else other for one in Slot),
        preview_token="",
        started_at_ns=now_ns,
        fence=fence,
        weight_percent=100,
        reason=ADOPTED,
        history=(HistoryEntry(phase=Phase.DONE, at_ns=now_ns, reason=ADOPTED),),
    )
