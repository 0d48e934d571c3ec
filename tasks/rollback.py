"""Taking a failed release back: users first, then everything else that it created."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from slipway.core.errors import PermanentError, SlipwayError
from slipway.core.release.promotion import rollback_refusal, route_after_rollback
from slipway.core.release.record import Phase
from slipway.core.routing import Slot
from slipway.manifests.names import test_pod_name
from tasks import scaling
from tasks.session import ReleaseSession, lock_is_lost, timed
from tasks.stage import repeatable
from tasks.waiting import wait_until
from tasks.workload import await_no_streams, scale_to_zero

_STABLE_TIMEOUT_S = 120.0


@contextmanager
def rolled_back_on_failure(session: ReleaseSession) -> Iterator[None]:
    """Run a release; when a stage fails for good, take it back and raise the stage's error.

    A release whose former process died while it was taking back is taken back at once. When the
    lock is lost nothing is touched: whoever holds it now decides.
    """
    if session.record.phase is Phase.ROLLING_BACK:
        roll_back(session)
        raise _as_recorded(session)
    try:
        yield
    except SlipwayError as error:
        if lock_is_lost(error) or session.record.terminal:
            raise
        _take_back(session, error)
        raise


@contextmanager
def taken_back_when_aborted(session: ReleaseSession) -> Iterator[None]:
    """Run the end of a release, where nothing but a person's order takes it back.

    Users have served as the proof by then: what cannot be tidied up is finished by a rerun.
    """
    try:
        yield
    except PermanentError as error:
        if error.code == "aborted":
            _take_back(session, error)
        raise


def _take_back(session: ReleaseSession, error: SlipwayError) -> None:
    session.progress.say(f"{error.message}: taking the release back")
    session.fail(error)
    roll_back(session)


@repeatable("roll back", run_name="roll back")
def roll_back(session: ReleaseSession) -> str:
    """Give the users back, drain and empty the candidate's slot, move the alias back."""
    return timed(session, "roll back", _roll_back)


def _roll_back(session: ReleaseSession) -> str:
    spec, record = session.spec, session.record
    moved = _give_users_back(session)
    alias = _move_alias_back(session)
    session.remove_pod(test_pod_name(spec.name))
    observed = session.observe(record.candidate)
    # Still warm from the release before, whose users may have streams open there. Its rollback
    # window ended when this release began: nobody else would ever retire it.
    warm = observed is not None and observed.release_id != record.release_id
    if moved or (warm and session.ready_pods(record.candidate)):
        await_no_streams(session, record.candidate)
    _forget_candidate(session)
    scale_to_zero(session, record.candidate)
    scaling.let_stable_go(session, users_came_back=moved or record.weight_percent > 0)
    why = record.history[-1].reason
    session.advance(Phase.ROLLED_BACK, why)
    kept = f"users on slot {record.stable}" if record.stable else "no version is live"
    return f"{kept}, slot {record.candidate} emptied{alias}"


def _give_users_back(session: ReleaseSession) -> bool:
    """Point the users at the former slot; returns whether the candidate had any."""
    traffic, record = session.ports.traffic, session.record
    current = traffic.read(record.service)
    # Without a preview only users make a slot known: somebody before us gave them back and died,
    # or is the watcher, and their streams may still be open.
    known = current.preview is None and record.candidate in current.subsets
    had_users = known or current.percent(record.candidate) > 0
    _warm_former_slot(session)
    session.intend("users back")  # before the look, which a slow write would age

    def look() -> str | None:
        ready = {slot: len(session.ready_pods(slot)) for slot in Slot}
        return rollback_refusal(record, current, ready=ready)

    wait_until(
        look,
        timeout_s=_STABLE_TIMEOUT_S,
        what=f"users could go back to slot {record.stable}",
        report=session.progress.say,
    )
    route = route_after_rollback(record, keep=had_users)
    traffic.apply(route)
    traffic.confirm(route, timeout_s=30)
    return had_users


def _warm_former_slot(session: ReleaseSession) -> None:
    """Bring back the former slot when an earlier process had begun to retire it."""
    stable, replicas = session.record.stable, session.spec.replicas
    if session.record.scaling is not None:
        scaling.bring_stable_back(session)
        return
    if stable is None:
        return
    told: list[Slot] = []

    def warmed() -> str | None:
        observed = session.observe(stable)
        if observed is None or observed.desired >= replicas:
            return None
        if not told:
            session.intend(f"slot {stable} comes back with {replicas} pods")
            told.append(stable)
        return scaling.scale_as_observed(session, stable, replicas)

    wait_until(
        warmed,
        timeout_s=_STABLE_TIMEOUT_S,
        what=f"slot {stable} was scaled to {replicas}",
        report=session.progress.say,
    )


def _forget_candidate(session: ReleaseSession) -> None:
    route = route_after_rollback(session.record, keep=False)
    session.ports.traffic.apply(route)
    session.ports.traffic.confirm(route, timeout_s=30)


def _move_alias_back(session: ReleaseSession) -> str:
    spec, registry, record = session.spec, session.ports.registry, session.record
    if not record.has_passed_promotion or registry.alias(spec.model, spec.alias) != record.version:
        return ""
    registry.set_alias(spec.model, spec.alias, record.alias_before or None)
    return f", alias back on {record.alias_before or 'nothing'}"


def _as_recorded(session: ReleaseSession) -> SlipwayError:
    return PermanentError(
        session.record.reason,
        code=session.record.failure_code or "rolled-back",
        hint="an earlier run of this release failed and was taken back now",
    )
