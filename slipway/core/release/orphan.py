"""What the watcher does about a service: releases whose process is gone, users on dead pods.

The watcher acts where no release does. A release that lives watches its candidate itself; one that
does not give the users back within seconds is as good as gone: the watcher takes the lock over, and
the fence refuses what its former holder still writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.routing import Route, Slot

PATIENCE_S = 3.0
"""How long the watcher leaves users on a dead candidate to the release that should see it too."""

_GRACE_S = 2.0  # between the end of a release and the giving back of its lock, and for renewals


@dataclass(frozen=True, slots=True, kw_only=True)
class LockView:
    """The lock of a service as the watcher has seen it.

    Args:
        holder: empty when it is free.
        duration_s: after which an unchanged lock is that of a dead process.
        unchanged_s: for how long the watcher has seen no renewal, on its own clock.
    """

    holder: str
    duration_s: float
    unchanged_s: float

    @property
    def abandoned(self) -> bool:
        """Whether no living process holds the lock."""
        patience_s = self.duration_s if self.holder else 0.0
        return self.unchanged_s > patience_s + _GRACE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Nothing is to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUsersBack:
    """Take the lock over and point the users at the stable slot, before anything else."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconcile:
    """Start the flow that finishes what was left."""

    reason: str


WatchDecision = Leave | GiveUsersBack | Reconcile


def decide_watch(
    record: ReleaseRecord | None,
    lock: LockView,
    *,
    route: Route | None,
    ready: Mapping[Slot, int],
    dead_s: float,
    now_ns: int,
) -> WatchDecision:
    """Return what the watcher does about a service.

    Args:
        record: of its release, None before the first one.
        lock: as the watcher has seen it.
        route: as the cluster's objects state it; None when it was not read (nothing is under way).
        ready: pods of each slot that can serve now.
        dead_s: for how long the watcher has seen users on a candidate without ready pods.
        now_ns: Unix time; it only decides when a slot that nobody uses is retired.
    """
    if record is None:
        return Leave()
    if record.terminal:
        return _after_the_end(record, lock, now_ns)
    if users_on_dead_candidate(record, route, ready) and (dead_s >= PATIENCE_S or lock.abandoned):
        return GiveUsersBack(reason=f"slot {record.candidate} has users and no ready pod")
    if lock.abandoned:
        return Reconcile(
            reason=f"nobody works on release {record.release_id} any more (phase {record.phase})"
        )
    return Leave()


def users_on_dead_candidate(
    record: ReleaseRecord, route: Route | None, ready: Mapping[Slot, int]
) -> bool:
    """Return whether users are sent to a candidate that cannot serve while the stable slot can."""
    stable = record.stable
    if route is None or stable is None:
        return False
    dead = ready.get(record.candidate, 0) == 0 and ready.get(stable, 0) > 0
    return dead and route.percent(record.candidate) > 0


def retirement_is_due(record: ReleaseRecord, *, now_ns: int) -> bool:
    """Return whether the rollback window of a finished release is over and its slot still warm."""
    due = record.retire_after_ns != 0 and now_ns >= record.retire_after_ns
    return record.phase is Phase.DONE and due


def _after_the_end(record: ReleaseRecord, lock: LockView, now_ns: int) -> WatchDecision:
    if lock.abandoned and lock.holder:
        return Reconcile(reason=f"the process of {record.release_id} died as it ended")
    if lock.abandoned and retirement_is_due(record, now_ns=now_ns):
        return Reconcile(reason=f"the rollback window of {record.release_id} is over")
    return Leave()
