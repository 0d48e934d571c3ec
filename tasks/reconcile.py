"""What was left behind is finished: releases whose process is gone, slots past their window."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from slipway.adapters.service_file import load_services
from slipway.bootstrap.releases import Ports
from slipway.core.errors import ConflictError, PermanentError, SlipwayError
from slipway.core.release.orders import OrderKind, about
from slipway.core.release.orphan import retirement_is_due
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.ports.records import Lease
from tasks.former_runs import why_not_again
from tasks.lock import LEASE_DURATION_S, take_lock, watch_lock
from tasks.progress import Progress
from tasks.reporting import reported
from tasks.session import (
    ReleaseSession,
    cleared_orders,
    connected,
    installation,
    new_holder,
    taken_over,
)
from tasks.stage import repeatable
from tasks.workload import empty_former_slot

_RUNS = 5

Finish = Callable[[ReleaseRecord], str]
"""Brings the unfinished release of a record to its end, or has it brought there."""


def services_to_reconcile(service: str) -> list[str]:
    """Return the one service named, or all of the installation."""
    return [service] if service else sorted(load_services(installation().services))


@repeatable("reconcile service", run_name="{service}")
def reconcile_service(service: str, finish: Finish) -> str:
    """Finish what was left of one service; may be repeated, and is harmless where all is well.

    Returns:
        what was found, and what was done about it.
    """
    ports, progress = connected(service), Progress(f"{service} reconcile")
    stored = ports.releases.load(service)
    if stored is None:
        return "never released"
    record = stored.record
    due = retirement_is_due(record, now_ns=time.time_ns())
    if record.terminal and not due and not ports.releases.lock(service).holder:
        return f"{record.release_id} {record.phase}: nothing was left"
    try:
        dead = watch_lock(ports.releases, service, holder="", report=progress.say)
        if record.terminal:
            return _retire(ports, progress) if due else _close(ports, progress, dead)
        if dead.holder:
            # Given back in its holder's name: whoever finishes it need not watch it all over again.
            holder = new_holder()
            taken = ports.releases.take(dead, holder=holder, duration_s=LEASE_DURATION_S)
            ports.releases.release(taken)
        _stop_for_good(ports, record)
        # Left to whoever finishes it: another process may be faster.
        return finish(record)
    except ConflictError as error:
        if error.code not in {"release-running", "conflict"}:
            raise
        return f"{record.release_id} {record.phase}: somebody works on it"


def _stop_for_good(ports: Ports, record: ReleaseRecord) -> None:
    """Order a release to be taken back when its runs say so; who finishes it obeys."""
    reason = "" if record.phase is Phase.ROLLING_BACK else why_not_again(record)
    if not reason:
        return
    order = about(
        record,
        OrderKind.ABORT,
        order_id=f"abort-{record.sequence}",  # found twice it is one order
        by="reconcile",
        at_ns=time.time_ns(),
        reason=reason,
    )
    ports.orders.post(ports.spec.name, order)


def _retire(ports: Ports, progress: Progress) -> str:
    service = ports.spec.name
    lease = take_lock(ports.releases, service, holder=new_holder(), report=progress.say)
    with taken_over(ports, lease, progress) as (keeper, found):
        if found is None or not retirement_is_due(found.record, now_ns=time.time_ns()):
            return "another release began meanwhile"
        session = ReleaseSession(ports, found, keeper, progress)
        said = empty_former_slot(session)
        session.save(replace(session.record, retire_after_ns=0, intent="", reason=said))
        return said


def _close(ports: Ports, progress: Progress, dead: Lease) -> str:
    """Do what a process had no time for that died right after the end of its release."""
    if not dead.holder:
        return "somebody was about to end"
    lease = ports.releases.take(dead, holder=new_holder(), duration_s=LEASE_DURATION_S)
    with taken_over(ports, lease, progress) as (keeper, found):
        if found is None or not found.record.terminal:
            return "another release began meanwhile"
        session = ReleaseSession(ports, found, keeper, progress)
        session.already_done = True
        with cleared_orders(session), reported(session):
            return f"{session.record.release_id} {session.record.phase}: closed, its process died"


def start_its_run(record: ReleaseRecord) -> str:
    """Start a run of its own for an unfinished release, so that it stands in the list of runs."""
    parameters: dict[str, Any] = {"service": record.service}
    flow = "rollback" if record.rollback else "release"
    if not record.rollback:
        parameters["version"] = record.version
    for attempt in range(_RUNS):
        run = run_deployment(
            f"{flow}/{flow}",
            parameters=parameters,
            timeout=0,
            as_subflow=False,
            # The same leftover, found twice, is one run; one that took the lock changed the fence.
            idempotency_key=f"{record.release_id}-{record.phase}-{record.fence}-{attempt}",
        )
        if not isinstance(run, FlowRun):  # the synchronous call never returns a coroutine
            raise TypeError(f"run_deployment returned {type(run).__name__}")
        if run.state is None or not run.state.is_final():
            return f"{record.release_id} {record.phase}: run {run.name} finishes it"
    raise PermanentError(
        f"{_RUNS} runs of {record.release_id} ended before they took its lock",
        code="reconcile-gave-up",
        hint=f"look at the runs in Prefect, then run: slipway reconcile {record.service}",
    )


def ended(finishing: Callable[[], dict[str, Any]], record: ReleaseRecord) -> str:
    """Return how a release ended that was finished here; a refused version is an end, too."""
    try:
        outcome = finishing()
    except SlipwayError as error:
        return f"{record.release_id}: {error.message}"
    return f"{record.release_id}: {outcome['outcome']} ({outcome['reason']})"
