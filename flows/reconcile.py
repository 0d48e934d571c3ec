"""The runbook of reconcile: look at every service, finish what was left, tidy up dead runs."""

from __future__ import annotations

from prefect import flow

from flows.release import release
from flows.rollback import rollback
from slipway.core.release.record import ReleaseRecord
from tasks.dead_runs import mark_dead_runs
from tasks.reconcile import ended, reconcile_service, services_to_reconcile, start_its_run


@flow(name="reconcile", validate_parameters=True)
def reconcile(service: str = "", here: bool = False) -> dict[str, str]:
    """Finish releases whose process is gone, and retire slots whose rollback window is over.

    Args:
        service: name of a service; all of them when it is left out.
        here: finish releases in this run instead of in runs of their own.
    """
    found = {
        name: reconcile_service(name, finish_here if here else start_its_run)
        for name in services_to_reconcile(service)
    }
    return {**found, "dead runs": mark_dead_runs()}


def finish_here(record: ReleaseRecord) -> str:
    """Go on with a release in this run."""
    if record.rollback:
        return ended(lambda: rollback(record.service), record)
    return ended(lambda: release(record.service, record.version), record)
