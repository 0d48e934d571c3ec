"""The question to a person, as a real pause of a real flow run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext

from slipway.core.release.record import Approval
from slipway.core.service import RampStep
from tasks.approval import ApprovalDesk
from tests.examples import record

STEP = RampStep(weight_percent=50, bake_s=1.0, approval=True)
_LONGEST_S = 30.0


@flow(name="asks")
def asks(answer: Callable[[SyncPrefectClient, str, ApprovalDesk], None]) -> ApprovalDesk:
    """Open a question, have it answered, and wait until the run goes on."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    run = context.flow_run.id
    desk = ApprovalDesk(replace(record("2"), steps=(STEP,)), STEP, timeout_s=60.0)
    assert desk.approval() is None
    with get_client(sync_client=True) as client:
        _await(client, str(run), StateType.PAUSED)
        answer(client, str(run), desk)
        _await(client, str(run), StateType.RUNNING)
    _await_answer(lambda: desk.approval() or desk.aborted)
    return desk


def _await(client: SyncPrefectClient, run: str, wanted: StateType) -> None:
    deadline_s = time.monotonic() + _LONGEST_S
    while _state(client, run) is not wanted:
        assert time.monotonic() < deadline_s, f"the run did not become {wanted}"
        time.sleep(0.05)  # between two looks; the deadline decides


def _state(client: SyncPrefectClient, run: str) -> StateType | None:
    answer = client.request("GET", "/flow_runs/{id}", path_params={"id": run})
    return StateType(answer.json()["state_type"])


def _resume(client: SyncPrefectClient, run: str, decision: str) -> None:
    client.request(
        "POST",
        "/flow_runs/{id}/resume",
        path_params={"id": run},
        json={"run_input": {"decision": decision, "approved_by": "ann"}},
    )


def _await_answer(read: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + _LONGEST_S
    while not read():
        assert time.monotonic() < deadline_s, "the answer was not read"
        time.sleep(0.05)  # between two looks; the deadline decides


def test_yes_in_prefect_is_an_approval_by_name() -> None:
    desk = asks(lambda client, run, _: _resume(client, run, "approve"))
    approval = desk.approval()
    assert approval is not None
    assert (approval.weight_percent, approval.by, desk.aborted) == (50, "ann", "")


def test_no_in_prefect_aborts_and_approves_nothing() -> None:
    desk = asks(lambda client, run, _: _resume(client, run, "abort"))
    assert (desk.aborted, desk.approval()) == ("ann", None)


@pytest.mark.parametrize("given", [Approval(weight_percent=50, by="bob", at_ns=1), None])
def test_answer_from_elsewhere_lets_the_run_go_on(given: Approval | None) -> None:
    desk = asks(lambda _client, _run, desk: desk.close(given))
    assert desk.aborted == ("" if given else "slipway")


def test_without_a_flow_run_nobody_is_asked_and_nothing_breaks() -> None:
    desk = ApprovalDesk(record("2"), STEP, timeout_s=60.0)
    desk.close(None)
    assert (desk.approval(), desk.aborted) == (None, "")
