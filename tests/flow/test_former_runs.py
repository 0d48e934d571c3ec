"""What Prefect says of a release's runs decides whether reconcile goes on with it."""

from __future__ import annotations

import time
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from prefect import Flow, flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Crashed, Running

from slipway.core.release.record import Phase, ReleaseRecord
from tasks.dead_runs import mark_dead_runs
from tasks.former_runs import why_not_again
from tests.examples import record
from tests.flow.world import SERVICE, World


@flow(name="release")
def some_release() -> None:
    """Stand for the release flow: only its runs matter here."""


@flow(name="rollback")
def some_rollback() -> None:
    """Stand for the rollback flow."""


def a_record(*, rollback: bool = False) -> ReleaseRecord:
    """Return the record of a release whose runs have a name of their own in this test."""
    name = f"chat-{uuid4().hex[:8]}"
    return replace(record("2"), service=name, rollback=rollback, started_at_ns=time.time_ns())


def ran(name: str, end: State, *, what: Flow[[], None] = some_release) -> None:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(what, name=name, state=Running())
        client.set_flow_run_state(run.id, end, force=True)


def test_release_without_runs_is_gone_on_with() -> None:
    assert why_not_again(a_record()) == ""


@pytest.mark.parametrize("end", [Completed(), Crashed(), Running()])
def test_release_whose_run_ended_by_itself_is_gone_on_with(end: State) -> None:
    release = a_record()
    ran(f"{release.service}-v2", end)
    assert why_not_again(release) == ""


def test_release_whose_newest_run_was_cancelled_is_not() -> None:
    release = a_record()
    ran(f"{release.service}-v2", Crashed())
    ran(f"{release.service}-v2", Cancelled())
    assert why_not_again(release) == f"run {release.service}-v2 was cancelled in Prefect"
    ran(f"{release.service}-v2", Crashed())
    assert why_not_again(release) == "", "somebody released it again since"


def test_cancelled_run_of_another_version_says_nothing_of_this_one() -> None:
    release = a_record()
    ran(f"{release.service}-v1", Cancelled())
    assert why_not_again(release) == ""


def test_cancelled_rollback_is_found_by_its_own_name() -> None:
    release = a_record(rollback=True)
    ran(f"{release.service}-rollback", Cancelled(), what=some_rollback)
    assert "was cancelled" in why_not_again(release)


def test_release_that_kills_its_processes_is_not_gone_on_with_for_ever() -> None:
    release = a_record()
    for _ in range(4):
        ran(f"{release.service}-v2", Crashed())
    assert why_not_again(release) == ""
    ran(f"{release.service}-v2", Crashed())
    assert why_not_again(release) == "5 of its runs died"


def test_run_before_the_release_was_asked_for_does_not_count() -> None:
    release = a_record()
    ran(f"{release.service}-v2", Cancelled())
    later = replace(release, started_at_ns=time.time_ns() + 120 * 10**9)
    assert why_not_again(later) == ""


def test_run_without_any_heartbeat_is_not_marked_as_dead() -> None:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(some_release, name=f"chat-{uuid4().hex[:8]}", state=Running())
        assert run.name not in mark_dead_runs()
        assert _state(client, run.id) == "Running"


def _state(client: SyncPrefectClient, run_id: UUID) -> str:
    found = client.read_flow_run(run_id)
    assert found.state is not None
    return str(found.state.name)


def test_cancelled_release_is_taken_back_by_reconcile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.die_at_write("record smoked")
    world.die_in_release("2")
    monkeypatch.setattr("tasks.reconcile.why_not_again", lambda _: "run chat-v2 was cancelled")
    assert "aborted by reconcile: run chat-v2 was cancelled" in world.reconcile()[SERVICE]
    world.assert_taken_back("2", code="aborted")
    assert world.record.phase is Phase.ROLLED_BACK
    assert world.cluster.orders[SERVICE] == {}
