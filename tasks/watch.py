"""The watcher: looks at every service once a second, acts where no release lives to do so.

It decides by `slipway.core.release.orphan`, keeps no state that matters, and may be killed at any
time: what it has begun is in the record. Two watchers are as good as one: the lock and its fence
decide who writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import assert_never

from slipway.bootstrap.releases import Ports
from slipway.core.errors import PermanentError, SlipwayError
from slipway.core.release.holder import refuse_stranger
from slipway.core.release.orphan import (
    GiveUsersBack,
    Leave,
    LockView,
    Reconcile,
    decide_watch,
    users_on_dead_candidate,
)
from slipway.core.release.promotion import route_after_rollback
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.routing import Route, Slot
from slipway.ports.records import Lease
from tasks.lock import LEASE_DURATION_S
from tasks.progress import Progress
from tasks.session import ReleaseSession, new_holder, taken_over

LOOK_EVERY_S = 1.0
_START_AGAIN_S = 60.0  # a reconcile that was started may be waiting for a worker

Start = Callable[[str, str], None]
"""Starts reconcile for a service; the second text makes two starts of the same thing one."""

Report = Callable[[str], None]


@dataclass
class _Memory:
    """What the watcher remembers of a service between two looks, on its own clock."""

    renewal: tuple[str, int, int] | None = None
    renewal_s: float = 0.0
    dead_since_s: float | None = None
    started: tuple[str, str, int] | None = None
    started_s: float = 0.0
    said: str = ""


@dataclass
class Watcher:
    """Watches services until its process ends.

    Args:
        start: starts reconcile.
        report: told what is done and what cannot be seen.
    """

    start: Start
    report: Report
    _memories: dict[str, _Memory] = field(default_factory=dict)

    def look(self, services: Iterable[Ports]) -> None:
        """Look at each service once; one that cannot be looked at does not keep the others."""
        for ports in services:
            memory = self._memories.setdefault(ports.spec.name, _Memory())
            try:
                self._look_at(ports, memory)
            except SlipwayError as error:
                self._say(memory, f"{ports.spec.name}: {error.message}")
            else:
                memory.said = ""

    def _look_at(self, ports: Ports, memory: _Memory) -> None:
        service = ports.spec.name
        lease = ports.releases.lock(service)
        refuse_stranger(service, lease.holder)
        lock = _seen(lease, memory)
        stored = ports.releases.load(service)
        record = stored.record if stored else None
        route, ready = _traffic(ports, record)
        dead_s = _dead_s(record, route, ready, memory)
        decision = decide_watch(
            record, lock, route=route, ready=ready, dead_s=dead_s, now_ns=time.time_ns()
        )
        match decision:
            case Leave():
                return
            case GiveUsersBack():
                self.report(f"{service}: {decision.reason}: giving them back")
                self.report(f"{service}: {give_users_back(ports, decision.reason)}")
            case Reconcile():
                self._reconcile(record, memory, decision.reason)
            case _:
                assert_never(decision)

    def _reconcile(self, record: ReleaseRecord | None, memory: _Memory, reason: str) -> None:
        if record is None:
            return
        what, now_s = (record.release_id, str(record.phase), record.fence), time.monotonic()
        if memory.started == what and now_s - memory.started_s < _START_AGAIN_S:
            return
        times = "again" if memory.started == what else "now"
        self.report(f"{record.service}: {reason}: reconcile is started {times}")
        key = f"{record.release_id}-{record.phase}-{record.fence}-{int(now_s // _START_AGAIN_S)}"
        self.start(record.service, key)
        memory.started, memory.started_s = what, now_s

    def _say(self, memory: _Memory, text: str) -> None:
        if memory.said != text:
            memory.said = text
            self.report(text)


def _seen(lease: Lease, memory: _Memory) -> LockView:
    now_s, renewal = time.monotonic(), (lease.holder, lease.fence, lease.renewed_at_ns)
    if memory.renewal != renewal:
        memory.renewal, memory.renewal_s = renewal, now_s
    return LockView(
        holder=lease.holder,
        duration_s=lease.duration_s,
        unchanged_s=now_s - memory.renewal_s,
    )


def _traffic(ports: Ports, record: ReleaseRecord | None) -> tuple[Route | None, dict[Slot, int]]:
    """Return route and ready pods while a release is under way: else nobody asks the cluster."""
    if record is None or record.terminal:
        return None, {}
    spec = ports.spec
    ready = {}
    for slot in Slot:
        observed = ports.workloads.observe(spec.namespace, record.slot(slot).workload)
        ready[slot] = 0 if observed is None else len(observed.ready_pods)
    return ports.traffic.read(spec.name), ready


def _dead_s(
    record: ReleaseRecord | None, route: Route | None, ready: dict[Slot, int], memory: _Memory
) -> float:
    if record is None or not users_on_dead_candidate(record, route, ready):
        memory.dead_since_s = None
        return 0.0
    now_s = time.monotonic()
    if memory.dead_since_s is None:
        memory.dead_since_s = now_s
    return now_s - memory.dead_since_s


def give_users_back(ports: Ports, reason: str) -> str:
    """Take the service over and point its users at the stable slot; returns what was done.

    The lock is taken whoever holds it: the fence refuses what that process still writes. The rest
    of the rollback is reconcile's.

    Raises:
        ConflictError: somebody else took the service over meanwhile; it is theirs.
    """
    service, progress = ports.spec.name, Progress(f"{ports.spec.name} watcher", stream=None)
    found = ports.releases.lock(service)
    lease = ports.releases.take(found, holder=new_holder(), duration_s=LEASE_DURATION_S)
    with taken_over(ports, lease, progress) as (keeper, stored):
        if stored is None or stored.record.terminal:
            return "the release has ended meanwhile"
        session = ReleaseSession(ports, stored, keeper, progress)
        record, traffic = session.record, session.ports.traffic
        if not users_on_dead_candidate(record, *_traffic(ports, record)):
            return f"slot {record.candidate} serves again"
        if record.phase is not Phase.ROLLING_BACK:
            session.fail(
                PermanentError(
                    reason,
                    code="candidate-unhealthy",
                    hint="look at the log of the slot's pods; the watcher gave the users back",
                )
            )
        session.intend("users back")
        if not users_on_dead_candidate(record, *_traffic(ports, record)):  # the writes took time
            return f"slot {record.candidate} serves again, or no slot does: reconcile decides"
        # Known to the gateway still: streams may be open, and reconcile drains the slot.
        route = route_after_rollback(session.record, keep=True)
        traffic.apply(route)
        proof = traffic.confirm(route, timeout_s=30)
        return f"users are back on slot {record.stable} after {proof.waited_ms:.0f} ms"
