"""The version before: its slot, warm or cold, made ready to serve again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from slipway.core.release.going_back import (
    SERVED_BEFORE,
    going_back,
    redeployed,
    rolled_back_already,
)
from slipway.core.release.promotion import why_unready
from slipway.core.release.record import Phase
from slipway.core.release.stages import FORMER, WARM_SLOT
from tasks.lock import take_lock
from tasks.progress import Progress
from tasks.scaling import adopt_candidate
from tasks.session import (
    ReleaseSession,
    cleared_orders,
    connected,
    new_holder,
    refuse_begin,
    saved,
    taken_over,
)
from tasks.stage import release_stage
from tasks.takeover import put_alias_right


@contextmanager
def opened_rollback(service: str) -> Iterator[ReleaseSession]:
    """Take the service's lock and open the record of a rollback, begun now or left unfinished.

    Raises:
        InputError: `no-earlier-version`; or an unknown service.
        ConflictError: a release of the service runs.
        PermanentError: the service is not installed, or somebody else scales its slots.
    """
    ports, progress = connected(service), Progress(f"{service} rollback")
    refuse_begin(ports)
    lease = take_lock(ports.releases, service, holder=new_holder(), report=progress.say)
    with taken_over(ports, lease, progress) as (keeper, found):
        before = found.record if found else None
        if before is not None:
            put_alias_right(ports, keeper, before, report=progress.say)
        record = going_back(
            before,
            service=service,
            token=secrets.token_hex(16),
            fence=keeper.lease.fence,
            now_ns=time.time_ns(),
        )
        stored = found
        if stored is None or record != before:
            version = found.version if found else None
            stored = saved(ports.releases, keeper, record, version)
        session = ReleaseSession(ports, stored, keeper, progress)
        session.already_done = rolled_back_already(before)
        progress.say(f"{session.record.release_id}: {session.record.history[0].reason}")
        with cleared_orders(session):
            yield session


@release_stage(FORMER)
def trust_former_version(session: ReleaseSession) -> str:
    """Take over what an earlier release proved of the version: its image and its tests."""
    held = session.record.slot(session.record.candidate)
    if not session.reached(Phase.BUILT):
        session.advance(Phase.BUILT, f"image as in slot {held.slot}: {held.image}")
    session.advance(Phase.TESTED, SERVED_BEFORE)
    return f"version {held.version}: {SERVED_BEFORE}"


@release_stage(WARM_SLOT)
def adopt_warm_slot(session: ReleaseSession) -> str:
    """Take the slot's pods as they run, when they are ready and of the recorded digest."""
    record = session.record
    observed = session.observe(record.candidate)
    # Where an autoscaler decides, the promotion waits for as many pods as the users need by then.
    replicas = session.spec.replicas if session.spec.autoscaling is None else 1
    cold = why_unready(record, observed, replicas=replicas)
    if observed is None or cold is not None:
        held, images = record.slot(record.candidate), session.ports.images
        if not held.adopted:  # that comes from wherever its Deployment names
            images.verify(images.resolve(held.image))
        session.save(redeployed(record))
        return f"{cold}: it is deployed again"
    uids = tuple(sorted(pod.uid for pod in observed.ready_pods))
    session.save(replace(record, tested_pod_uids=uids))
    adopt_candidate(session, desired=observed.desired)
    session.advance(Phase.DEPLOYED, f"{len(uids)} pods of slot {record.candidate} were still ready")
    return f"slot {record.candidate}: {len(uids)} pods were still ready"
