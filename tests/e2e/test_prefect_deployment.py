"""A release started as people start one: through Prefect's API, run by the sandbox's worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slipway.core.release.record import Phase
from tests.e2e.orchestrator import Orchestrator, Run
from tests.e2e.support import PROJECT, Sandbox, World

SERVICE = "simulated"  # one of the project's own, which the worker knows
STAGES = (
    *("integrity", "image", "test", "deploy", "smoke", "benchmark"),
    *("promote", "alias", "bake", "retire"),
)


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(sandbox, tmp_path_factory.mktemp("deployment"))
    made.environment["SLIPWAY_SERVICES"] = str(PROJECT / "deployments/services")
    return made


@pytest.fixture(scope="module")
def orchestrator(world: World) -> Iterator[Orchestrator]:
    api = Orchestrator(world.environment["PREFECT_API_URL"])
    yield api
    api.close()


@pytest.fixture(scope="module")
def released(world: World, orchestrator: Orchestrator) -> Iterator[tuple[Run, str]]:
    """A run that released a version, and the version."""
    version = world.given_version(SERVICE)
    yield orchestrator.run(service=SERVICE, version=version), version
    # Its GPUs are needed by tests of the scheduler.
    scale = ("scale", "deployment", "-l", f"slipway.dev/service={SERVICE}", "--replicas=0")
    assert world.sandbox.kubectl("-n", "serving", *scale).returncode == 0


def live_version(world: World) -> str:
    record = world.record(SERVICE)
    assert record.live_slot is not None
    return record.slot(record.live_slot).version


def test_run_of_the_deployment_completes_and_the_version_serves_users(
    world: World, released: tuple[Run, str]
) -> None:
    run, version = released
    assert (run.state, run.name) == ("COMPLETED", f"{SERVICE}-v{version}"), run.message
    assert live_version(world) == version
    assert world.ask(SERVICE).json()["choices"][0]["message"]["content"] == "pong"
    assert world.leftovers(SERVICE) == []


def test_run_leaves_a_report_with_stages_verdicts_and_drawing(released: tuple[Run, str]) -> None:
    run, version = released
    report = run.artifacts[f"release-{SERVICE}"]
    assert report.startswith(f"# {SERVICE}-v{version}-")
    assert ": live\n" in report
    stages = report.partition("## Stages")[2].partition("## Verdicts")[0]
    rows = [line.split(" | ")[0] for line in stages.splitlines() if line.startswith("| ")]
    assert rows == ["| stage", "| ---", *(f"| {stage}" for stage in STAGES)]
    assert "| benchmark | PASS |" in report
    assert "```mermaid\nflowchart LR\n" in report
    assert "gateway -- 100 % -->" in report


def test_run_of_the_backup_takes_what_was_released_by_an_account_of_its_own(
    orchestrator: Orchestrator, released: tuple[Run, str]
) -> None:
    assert released[0].state == "COMPLETED"
    run = orchestrator.run("backup/backup", model=SERVICE)
    assert run.state == "COMPLETED", run.message
    checked = orchestrator.run("restore drill/restore-drill", service=SERVICE)
    assert checked.state == "COMPLETED", checked.message


def test_run_leaves_the_figures_of_the_benchmark(released: tuple[Run, str]) -> None:
    run, _ = released
    figures = run.artifacts[f"benchmark-{SERVICE}"]
    assert "| gate | verdict | measured | limit | n |" in figures
    for gate in ("time to first token", "error rate", "speed of a stream"):
        assert f"| {gate} | **PASS** |" in figures


def test_log_of_the_run_tells_every_stage(released: tuple[Run, str]) -> None:
    run, _ = released
    assert run.logged(*(f"✓ {stage}: " for stage in STAGES)) == []


def test_refused_version_fails_the_run_with_the_reason_and_users_stay(
    world: World, orchestrator: Orchestrator, released: tuple[Run, str]
) -> None:
    bad = world.given_version(SERVICE, wrong_answers=True)
    run = orchestrator.run(service=SERVICE, version=bad)
    assert run.state == "FAILED"
    assert (
        f"version {bad} of {SERVICE} failed its tests: share of golden prompts right 0"
        in run.message
    )
    assert "model-test-failed" in run.message
    assert "refused, users unharmed" in run.artifacts[f"release-{SERVICE}"]
    assert run.logged("✗ test: ") == []
    assert world.record(SERVICE).phase is Phase.ROLLED_BACK
    assert live_version(world) == released[1]
    assert world.ask(SERVICE).status_code == 200


def test_unknown_service_fails_the_run_and_names_those_there_are(
    orchestrator: Orchestrator,
) -> None:
    run = orchestrator.run(service="nobody", version="1")
    assert run.state == "FAILED"
    assert "nobody" in run.message
    assert SERVICE in run.message


def test_request_without_a_version_is_refused_before_any_run(orchestrator: Orchestrator) -> None:
    refused = orchestrator.start(service=SERVICE)
    assert refused.status_code == 409
    assert "'version' is a required property" in refused.text
