"""A release as a person starts it: Prefect's form in a browser, the run's page, its report."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SCREENSHOTS
from tests.e2e.support import PROJECT, Sandbox, World

SERVICE = "simulated"
# Others are scheduled meanwhile: reconcile, every hour.
_RELEASES = {"name": {"any_": ["release"]}}
_RUN_MS = 480_000.0


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(sandbox, tmp_path_factory.mktemp("browser"))
    made.environment["SLIPWAY_SERVICES"] = str(PROJECT / "deployments/services")
    return made


def test_release_started_from_the_form_completes_and_its_report_is_read_in_the_browser(
    world: World, page: Page
) -> None:
    version = world.given_version(SERVICE)
    run = _submit(page, world, service=SERVICE, version=version)
    _await_state(page, "Completed")
    _await_last_stage(world, run)
    page.reload()
    expect(page.get_by_text("11 Task runs")).to_be_visible()
    _shoot(page, "run-completed")
    record = world.record(SERVICE)
    assert record.live_slot is not None
    assert record.slot(record.live_slot).version == version
    assert world.ask(SERVICE).json()["choices"][0]["message"]["content"] == "pong"
    page.get_by_role("tab", name="Task Runs").click()
    for stage in ("integrity", "image", "deploy"):
        expect(page.get_by_role("link", name=stage, exact=True)).to_be_visible()
    _shoot(page, "run-stages")
    _open_report(page)
    title = re.compile(rf"^{SERVICE}-v{version}-\d+: live$")
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    for stage in ("integrity", "benchmark", "promote", "retire"):
        expect(page.get_by_role("cell", name=stage, exact=True).first).to_be_visible()
    expect(page.locator("svg[aria-roledescription^=flowchart]")).to_contain_text("gateway")
    _shoot(page, "report-completed")


def test_version_that_does_not_exist_fails_the_run_with_our_words_on_its_page(
    world: World, page: Page
) -> None:
    _submit(page, world, service=SERVICE, version="999")
    _await_state(page, "Failed")
    # The log comes in batches, and the page asks for no more of it once the run has ended.
    page.get_by_role("tab", name="Details").click()
    said = page.get_by_text(re.compile(f"the model {SERVICE} has no version 999"))
    expect(said.first).to_be_visible()
    _shoot(page, "run-failed")


def _submit(page: Page, world: World, *, service: str, version: str) -> str:
    """Go to the deployment, fill its form and start the run; ends on the page of that run."""
    before = {item["id"] for item in _ask(world, "flow_runs", flows=_RELEASES)}
    ui = world.environment["PREFECT_API_URL"].removesuffix("/api")
    page.goto(f"{ui}/v2/deployments")
    listed = page.locator("a[href*='/deployments/deployment/']")
    listed.filter(has_text=re.compile("^release$")).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    # What a person is told about a field comes from the docstring of the flow.
    expect(page.get_by_text("a file in deployments/services")).to_be_visible()
    page.get_by_label("service").fill(service)
    page.get_by_label("version").fill(version)
    _shoot(page, f"form-{version}")
    page.get_by_role("button", name="Submit").click()
    # The deployment's page lists the run; the message with a link to it goes away after seconds.
    run = _new_run(world, before)
    page.locator(f"a[href*='{run}']").first.click()
    # The address changes before the page does, and the page before lists older runs.
    page.get_by_role("tab", name="Job Variables").wait_for()
    return run


def _ask(world: World, what: str, **filters: Any) -> list[dict[str, Any]]:
    url = f"{world.environment['PREFECT_API_URL']}/{what}/filter"
    answer = httpx.post(url, json=filters, trust_env=False, timeout=60).raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


def _await_last_stage(world: World, run: str) -> None:
    """Stages are recorded after the run's end, and its page asks for no more of them by itself."""
    deadline_s = time.monotonic() + _RUN_MS / 1000
    of_run = {"id": {"any_": [run]}}
    while not any(
        item["name"] == "retire" and item["state_name"] == "Completed"
        for item in _ask(world, "task_runs", flow_runs=of_run)
    ):
        assert time.monotonic() < deadline_s, "the last stage was never recorded"
        time.sleep(0.5)  # between two looks; the deadline decides


def _new_run(world: World, before: set[str]) -> str:
    deadline_s = time.monotonic() + _RUN_MS / 1000
    while not (
        found := {item["id"] for item in _ask(world, "flow_runs", flows=_RELEASES)} - before
    ):
        assert time.monotonic() < deadline_s, "the form started no run"
        time.sleep(0.5)
    return str(found.pop())


def _await_state(page: Page, state: str) -> None:
    """Wait for the run to end, and ask that it ended so."""
    ended = page.get_by_text(re.compile("^(Completed|Failed|Crashed|Cancelled)$")).first
    ended.wait_for(timeout=_RUN_MS)
    expect(ended).to_have_text(state)


def _open_report(page: Page) -> None:
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name=re.compile(f"release-{SERVICE}")).first.click()
    # The reports of all releases of the service, the newest first.
    page.locator("a[href*='/artifacts/artifact/']").first.click()


def _shoot(page: Page, name: str) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    target = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=target, full_page=True)
    return target
