"""The runbook of a release: from the registry to live traffic, or back."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.benchmark import run_benchmark
from tasks.image import build_image
from tasks.leftover import settle_leftover
from tasks.model import test_model, verify_artifacts
from tasks.ramp import ramp
from tasks.reporting import outcome_of, reported
from tasks.rollback import rolled_back_on_failure, taken_back_when_aborted
from tasks.session import opened_release
from tasks.traffic import bake, move_alias, promote, smoke_test
from tasks.workload import deploy_slot, retire_slot


@flow(name="release", flow_run_name="{service}-v{version}", validate_parameters=True)
def release(service: str, version: str) -> dict[str, Any]:
    """Release one model version to one service.

    Running the same release twice equals once; a release whose process died is continued.

    Args:
        service: name of a service, such as smollm; each is a file in deployments/services.
        version: number of a version of its model in the registry, such as 2.
    """
    with (
        opened_release(service, version, settle=settle_leftover) as session,
        reported(session),
    ):
        if not session.already_done:
            with rolled_back_on_failure(session):
                verify_artifacts(session)
                build_image(session)
                test_model(session)
                deploy_slot(session)
                smoke_test(session)
                run_benchmark(session)
                ramp(session)
                promote(session)
                move_alias(session)
                bake(session)
            with taken_back_when_aborted(session):
                retire_slot(session)
        return outcome_of(session)
