"""What a release would do: looks at everything, writes nothing."""

from __future__ import annotations

import time

from slipway.bootstrap import Ports
from slipway.core.release.admission import requested
from slipway.core.release.plan import ReleasePlan, Seen, plan_release
from slipway.core.release.record import ReleaseRecord
from slipway.core.routing import Slot
from tasks.session import connected
from tasks.takeover import require_fence


def planned_release(service: str, version: str) -> ReleasePlan:
    """Return what `release` would do now.

    Args:
        service: to release to.
        version: to release.

    Raises:
        InputError: unknown service or version, or a base image that the registry does not have.
        ConflictError: another version's release is unfinished, and the policy refuses.
        PermanentError: the service is not installed.
    """
    ports = connected(service)
    spec = ports.spec
    found = ports.registry.version(spec.model, version)
    ports.images.resolve(spec.server.image)
    ports.orders.read(service)
    lock = ports.releases.lock(service)
    if lock.fence > 0:  # else nothing was ever stamped
        require_fence(ports, lock.fence)
    stored = ports.releases.load(service)
    record = None if stored is None else stored.record
    seen = Seen(
        record=record,
        holder=lock.holder,
        ready={} if record is None else {slot: _ready(ports, record, slot) for slot in Slot},
        alias=ports.registry.alias(spec.model, spec.alias),
        files=len(found.files),
        size_bytes=sum(file.size_bytes for file in found.files),
    )
    return plan_release(requested(spec, version), seen, spec, now_ns=time.time_ns())


def _ready(ports: Ports, record: ReleaseRecord, slot: Slot) -> int:
    observed = ports.workloads.observe(ports.spec.namespace, record.slot(slot).workload)
    return 0 if observed is None else len(observed.ready_pods)
