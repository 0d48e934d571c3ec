"""What a release would do: looks at everything, writes nothing."""

from __future__ import annotations

import time
from dataclasses import replace

from slipway.bootstrap.releases import Ports
from slipway.core.release.admission import AlreadyDone, Resume, requested
from slipway.core.release.plan import ReleasePlan, Seen, plan_release, upcoming
from slipway.core.release.record import ReleaseRecord
from slipway.core.rollout import RolloutObservation
from slipway.core.routing import Slot
from tasks.feasibility import feasibility
from tasks.session import connected, refuse_begin
from tasks.takeover import require_fence


def planned_release(service: str, version: str) -> ReleasePlan:
    """Return what `release` would do now.

    Args:
        service: to release to.
        version: to release.

    Raises:
        InputError: unknown service or version.
        ConflictError: another version's release is unfinished, and the policy refuses.
        PermanentError: the service is not installed, its policies are not in force, or somebody
            else scales its slots.
    """
    ports = connected(service)
    spec = ports.spec
    found = ports.registry.version(spec.model, version)
    refuse_begin(ports)
    ports.orders.read(service)
    lock = ports.releases.lock(service)
    if lock.fence > 0:  # else nothing was ever stamped
        require_fence(ports, lock.fence)
    stored = ports.releases.load(service)
    record = None if stored is None else stored.record
    slots = {} if record is None else _observed(ports, record)
    seen = Seen(
        record=record,
        holder=lock.holder,
        ready={slot: len(item.ready_pods) for slot, item in slots.items()},
        asked={slot: item.desired for slot, item in slots.items()},
        alias=ports.registry.alias(spec.model, spec.alias),
        split_filter=ports.traffic.split_filter_in_force(),
        files=len(found.files),
        size_bytes=sum(file.size_bytes for file in found.files),
    )
    now_ns, request = time.time_ns(), requested(spec, version)
    plan = plan_release(request, seen, spec, now_ns=now_ns)
    admission = upcoming(request, seen, spec, now_ns=now_ns)
    if isinstance(admission, AlreadyDone):
        return plan
    recorded = record is not None
    return replace(
        plan,
        feasibility=feasibility(ports, admission.record, recorded=recorded),
        unfinished=isinstance(admission, Resume),
    )


def _observed(ports: Ports, record: ReleaseRecord) -> dict[Slot, RolloutObservation]:
    seen = {
        slot: ports.workloads.observe(ports.spec.namespace, record.slot(slot).workload)
        for slot in Slot
    }
    return {slot: observed for slot, observed in seen.items() if observed is not None}
