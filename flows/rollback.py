"""The runbook of a rollback: one step, to the version that served before."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.abort import abort_unfinished
from tasks.former import adopt_warm_slot, opened_rollback, trust_former_version
from tasks.reporting import outcome_of, reported
from tasks.rollback import rolled_back_on_failure, taken_back_when_aborted
from tasks.traffic import bake, move_alias, promote, smoke_test
from tasks.warm_up import warm_up
from tasks.workload import deploy_slot, retire_slot


@flow(name="rollback", flow_run_name="{service}-rollback", validate_parameters=True)
def rollback(service: str) -> dict[str, Any]:
    """Take an unfinished release back; after one that ended well, go back to the version before.

    One step: asked for twice, it does not come forward again.

    Args:
        service: name of a service, such as smollm.
    """
    aborted = abort_unfinished(service, reason="rollback")
    if aborted is not None:
        return aborted
    with opened_rollback(service) as session, reported(session):
        if not session.already_done:
            with rolled_back_on_failure(session):
                trust_former_version(session)
                adopt_warm_slot(session)
                deploy_slot(session)
                smoke_test(session)
                warm_up(session)
                promote(session)
                move_alias(session)
                bake(session)
            with taken_back_when_aborted(session):
                retire_slot(session)
        return outcome_of(session)
