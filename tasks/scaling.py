"""The slots' autoscalers during a release: floors before users move, nothing left afterwards.

Where an autoscaler decides how many pods a slot has, a release never writes that number over its
head. It raises floors before users come, lifts them when users have been there for a while, and
removes an object before the slot it scales is emptied: nothing grows again what was taken down.
"""

from __future__ import annotations

import time
from dataclasses import replace

from slipway.core.errors import ConflictError
from slipway.core.release.record import ReleaseRecord
from slipway.core.release.scaling import (
    Autoscaler,
    Scaling,
    at_rest,
    first_scaling,
    replicas_needed,
    with_candidate_floor,
    with_growth,
    with_stable_held,
)
from slipway.core.routing import Slot
from slipway.manifests.autoscaling import autoscaler, object_kind
from tasks.session import ReleaseSession
from tasks.waiting import wait_until

SCALE_TIMEOUT_S = 30.0

_REMOVED_TIMEOUT_S = 60.0


def planned(session: ReleaseSession) -> Scaling | None:
    """Return what the candidate begins with; see `first_scaling`."""
    if session.spec.autoscaling is None:
        return None
    return first_scaling(session.spec, session.record.steps, stable=_stable_pods(session))


def check_candidate(session: ReleaseSession, plan: Scaling | None) -> None:
    """Ask the cluster whether it would take what is to scale the candidate; nothing is written.

    Raises:
        PermanentError: it refuses it, or knows no such object.
    """
    if plan is not None:
        slot = session.record.candidate
        _apply(session, plan, slot, floor=plan.candidate_floor, dry_run=True)


def wake_candidate(session: ReleaseSession) -> None:
    """Give a slot just deployed its first pods, and then an autoscaler that goes on from there."""
    record, scaling = session.record, session.record.scaling
    if scaling is None:
        return
    scale_to(session, record.candidate, scaling.candidate_floor)
    _apply_candidate(session, scaling)


def adopt_candidate(session: ReleaseSession, *, desired: int) -> None:
    """Have a slot that is still warm scaled from what it runs with.

    Args:
        desired: pods that it is to have now.
    """
    plan, record = planned(session), session.record
    if plan is None:
        return
    kept = with_candidate_floor(plan, desired)
    session.intend(f"autoscaler of slot {record.candidate}", scaling=kept)
    _remove(session, record.candidate, all_but=object_kind(plan.settings))
    _apply_candidate(session, kept)


def pods_needed(session: ReleaseSession) -> int:
    """Return how many ready pods carry all users, as it is now; growth goes into the record."""
    record, scaling = session.record, session.record.scaling
    if scaling is None:
        return session.spec.replicas
    observed = session.observe(record.candidate)
    stable = _stable_pods(session) or session.spec.replicas
    seen = with_growth(
        scaling,
        stable=stable,
        candidate=0 if observed is None else observed.desired,
        weight_percent=record.weight_percent,
    )
    if seen != scaling:
        session.save(replace(record, scaling=seen))
    return replicas_needed(seen, stable=stable)


def judged_by(record: ReleaseRecord, needed: int) -> Scaling | None:
    """Return the scaling of a record whose candidate gets its share of `needed` pods now."""
    return None if record.scaling is None else replace(record.scaling, needed=needed)


def pods_promised(record: ReleaseRecord, *, replicas: int) -> int:
    """Return how many pods carry all users, as it was found when the candidate got its share.

    Args:
        replicas: of the service file, which holds where no autoscaler decides.
    """
    return replicas if record.scaling is None else record.scaling.needed


def hold_stable(session: ReleaseSession) -> None:
    """Keep the stable slot at the number it has now, for as long as users may come back to it.

    Called before any users leave it, and again before more of them do.
    """
    record, scaling = session.record, session.record.scaling
    if record.stable is None:
        return
    if scaling is None:
        # The service was autoscaled before: from here on its number is fixed, in either slot.
        remove_autoscalers(session, record.stable)
        return
    found = _own(session, record.stable)
    held = with_stable_held(scaling, desired=_stable_pods(session), found=found)
    due = found is not None and found.min_replicas != held.stable_floor
    if due or held != scaling:
        session.intend(f"slot {record.stable} keeps {held.stable_floor} pods", scaling=held)
    if found is not None and due:
        session.ports.autoscalers.set_floor(session.spec.namespace, found, held.stable_floor)


def stable_has_grown(session: ReleaseSession) -> bool:
    """Return whether the stable slot has more pods now than it is held at: load does not wait."""
    record, scaling = session.record, session.record.scaling
    if scaling is None or record.stable is None:
        return False
    found = _own(session, record.stable)
    return with_stable_held(scaling, desired=_stable_pods(session), found=found) != scaling


def reserve(session: ReleaseSession, floor: int) -> None:
    """Have the candidate's autoscaler keep `floor` pods; may be repeated."""
    slot, scaling = session.record.candidate, session.record.scaling
    if scaling is None:
        return
    kept = with_candidate_floor(scaling, floor)
    found = _own(session, slot)
    if kept == scaling and found is not None and found.min_replicas == kept.candidate_floor:
        return
    session.intend(f"slot {slot} keeps {kept.candidate_floor} pods", scaling=kept)
    _apply_candidate(session, kept)


def reserve_again(session: ReleaseSession) -> None:
    """Write once more what the record says: its process may have died before it was written."""
    scaling = session.record.scaling
    if scaling is not None:
        reserve(session, scaling.candidate_floor)


def await_everybodys_pods(session: ReleaseSession) -> int:
    """Have as many candidate pods ready as carry all users; returns how many those are."""
    if session.record.scaling is None:
        return session.spec.replicas
    needed = pods_needed(session)
    reserve(session, needed)

    def look() -> str | None:
        session.check_lock()
        session.check_orders()
        ready = len(session.ready_pods(session.record.candidate))
        slot = session.record.candidate
        return None if ready >= needed else f"{ready} of {needed} pods of slot {slot} ready"

    wait_until(
        look,
        timeout_s=session.spec.policy.ready_timeout_s,
        what=f"slot {session.record.candidate} had pods for all users",
        report=session.progress.say,
    )
    return needed


def shortest_bake_s(session: ReleaseSession) -> float:
    """Return the shortest bake: no floor is lifted before the metric shows the users that came."""
    scaling, asked_s = session.record.scaling, session.spec.policy.bake_s
    if scaling is None or session.record.stable is None:
        return asked_s
    return max(asked_s, scaling.settings.settle_s)


def let_candidate_go(session: ReleaseSession) -> None:
    """Let the slot that serves now shrink to the service's own least number again."""
    record, scaling = session.record, session.record.scaling
    if scaling is None:
        return
    rest = at_rest(scaling)
    session.intend(f"slot {record.candidate} keeps {rest.candidate_floor} pods", scaling=rest)
    _apply_candidate(session, rest)


def bring_stable_back(session: ReleaseSession) -> None:
    """Make again what an earlier process had begun to retire: pods first, then what scales them."""
    record, scaling = session.record, session.record.scaling
    if scaling is None or record.stable is None or not scaling.stable_floor:
        return
    observed = session.observe(record.stable)
    short = observed is not None and observed.desired < scaling.stable_floor
    bare = bool(scaling.stable_min) and _own(session, record.stable) is None
    if short or bare:
        session.intend(f"slot {record.stable} comes back with {scaling.stable_floor} pods")
    if short:
        scale_to(session, record.stable, scaling.stable_floor)
    if bare:
        _apply(session, scaling, record.stable, floor=scaling.stable_floor)


def let_stable_go(session: ReleaseSession, *, users_came_back: bool) -> None:
    """Let the stable slot shrink again to what it kept before the release.

    Args:
        users_came_back: its autoscaler must see them first.
    """
    record, scaling = session.record, session.record.scaling
    if scaling is None or record.stable is None or not scaling.stable_min:
        return
    if users_came_back:
        _settle(session, scaling.settings.settle_s)
    found = _own(session, record.stable)
    if found is not None and found.min_replicas != scaling.stable_min:
        session.intend(f"slot {record.stable} keeps {scaling.stable_min} pods")
        session.ports.autoscalers.set_floor(session.spec.namespace, found, scaling.stable_min)


def remove_autoscalers(session: ReleaseSession, slot: Slot) -> None:
    """Remove what a release made to scale a slot, and wait until it is gone."""
    _remove(session, slot, all_but="")


def _remove(session: ReleaseSession, slot: Slot, *, all_but: str) -> None:
    namespace, said = session.spec.namespace, False

    def look() -> str | None:
        nonlocal said
        left = [found for found in _found(session, slot) if found.ours and found.kind != all_but]
        if left and not said:
            session.intend(f"slot {slot} is scaled no more")
            said = True
        for found in left:
            try:
                session.ports.autoscalers.remove(namespace, found)
            except ConflictError as error:
                if error.code != "conflict":
                    raise  # else its controller wrote its status just now: it is looked at again
        return f"{left[0].kind} {left[0].name} ends" if left else None

    wait_until(
        look,
        timeout_s=_REMOVED_TIMEOUT_S,
        what=f"what scales slot {slot} was gone",
        report=session.progress.say,
    )


def _settle(session: ReleaseSession, settle_s: float) -> None:
    began_s = time.monotonic()

    def look() -> str | None:
        session.check_lock()
        over = time.monotonic() - began_s >= settle_s
        return None if over else f"the metric shows the users that came back within {settle_s:g} s"

    wait_until(
        look,
        timeout_s=settle_s + _REMOVED_TIMEOUT_S,
        what="users had settled",
        report=session.progress.say,
    )


def _apply_candidate(session: ReleaseSession, scaling: Scaling) -> None:
    _apply(session, scaling, session.record.candidate, floor=scaling.candidate_floor)


def _apply(
    session: ReleaseSession, scaling: Scaling, slot: Slot, *, floor: int, dry_run: bool = False
) -> None:
    spec = session.spec
    session.ports.autoscalers.apply(
        autoscaler(
            spec.name,
            spec.namespace,
            scaling.settings,
            slot=slot,
            workload=session.record.slot(slot).workload,
            floor=floor,
        ),
        dry_run=dry_run,
    )


def _found(session: ReleaseSession, slot: Slot) -> tuple[Autoscaler, ...]:
    workload = session.record.slot(slot).workload
    return session.ports.autoscalers.find(session.spec.namespace, (workload,))


def _own(session: ReleaseSession, slot: Slot) -> Autoscaler | None:
    return next((found for found in _found(session, slot) if found.ours), None)


def _stable_pods(session: ReleaseSession) -> int:
    """Return how many pods the stable slot is to have; 0 without one."""
    stable = session.record.stable
    observed = None if stable is None else session.observe(stable)
    return 0 if observed is None else observed.desired


def scale_to(session: ReleaseSession, slot: Slot, replicas: int) -> None:
    """Give a slot exactly so many pods."""

    def scaled() -> str | None:
        observed = session.observe(slot)
        if observed is None or observed.desired == replicas:
            return None
        return scale_as_observed(session, slot, replicas)

    wait_until(
        scaled,
        timeout_s=SCALE_TIMEOUT_S,
        what=f"slot {slot} was scaled to {replicas}",
        report=session.progress.say,
    )


def scale_as_observed(session: ReleaseSession, slot: Slot, replicas: int) -> str | None:
    """Scale a slot unless it changed since it was looked at; returns what is in the way, or None.

    Raises:
        ConflictError: the lock is lost.
    """
    observed = session.observe(slot)
    if observed is None:
        return None
    try:
        session.ports.workloads.scale(
            session.spec.namespace,
            observed.name,
            replicas,
            uid=observed.uid,
            resource_version=observed.resource_version,
        )
    except ConflictError as error:
        if error.code != "conflict":
            raise
        # Its controller wrote its status, say: whoever asked decides again on what stands there.
        return f"Deployment {observed.name} changed just now: it is looked at again"
    return None
