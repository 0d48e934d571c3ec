"""A release as a person starts it: Prefect's form in a browser, the run's page, its report."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SCREENSHOTS
from tests.e2e.support import PROJECT, Sandbox, World

SERVICE = "simulated"
_RUN_MS = 480_000.0


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(sandbox, tmp_path_factory.mktemp("browser"))
    made.environment["SLIPWAY_SERVICES"] = str(PROJECT / "deployments/services")
    yield made
    scale = ("scale", "deployment", "-l", f"slipway.dev/service={SERVICE}", "--replicas=0")
    assert sandbox.kubectl("-n", "serving", *scale).returncode == 0


def test_release_started_from_the_form_completes_and_its_report_is_read_in_the_browser(
    world: World, page: Page
) -> None:
    version = world.given_version(SERVICE)
    _submit(page, world, service=SERVICE, version=version)
    _await_state(page, "Completed")
    _shoot(page, "run-completed")
    record = world.record(SERVICE)
    assert record.live_slot is not None
    assert record.slot(record.live_slot).version == version
    assert world.ask(SERVICE).json()["choices"][0]["message"]["content"] == "pong"
    _open_report(page)
    expect(page.get_by_text(re.compile(rf"^{SERVICE}-v{version}-\d+: live$")).first).to_be_visible(
        timeout=_RUN_MS
    )
    for stage in ("integrity", "benchmark", "promote", "retire"):
        expect(page.get_by_role("cell", name=stage, exact=True).first).to_be_visible()
    _shoot(page, "report-completed")


def test_version_that_does_not_exist_fails_the_run_with_our_words_on_its_page(
    world: World, page: Page
) -> None:
    _submit(page, world, service=SERVICE, version="999")
    _await_state(page, "Failed")
    # A run's log reaches the server in batches.
    expect(page.get_by_text(re.compile("version 999")).first).to_be_visible(timeout=_RUN_MS)
    _shoot(page, "run-failed")


def _submit(page: Page, world: World, *, service: str, version: str) -> None:
    """Go to the deployment, fill its form and start the run; ends on the run's page."""
    before = _runs(world)
    ui = world.environment["PREFECT_API_URL"].removesuffix("/api")
    page.goto(f"{ui}/v2/deployments")
    page.locator("a[href*='/deployments/deployment/']").first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_label("service").fill(service)
    page.get_by_label("version").fill(version)
    _shoot(page, f"form-{version}")
    page.get_by_role("button", name="Submit").click()
    # The deployment's page lists the run; the message with a link to it goes away after seconds.
    run = page.locator(f"a[href*='{_new_run(world, before)}']").first
    run.click()
    # The address changes before the page does, and the page before lists older runs.
    page.get_by_role("tab", name="Job Variables").wait_for()


def _runs(world: World) -> set[str]:
    url = f"{world.environment['PREFECT_API_URL']}/flow_runs/filter"
    answer = httpx.post(url, json={}, trust_env=False, timeout=60).raise_for_status()
    return {run["id"] for run in answer.json()}


def _new_run(world: World, before: set[str]) -> str:
    deadline_s = time.monotonic() + _RUN_MS / 1000
    while not (found := _runs(world) - before):
        assert time.monotonic() < deadline_s, "the form started no run"
        time.sleep(0.5)
    return found.pop()


def _await_state(page: Page, state: str) -> None:
    expect(page.get_by_text(state, exact=True).first).to_be_visible(timeout=_RUN_MS)


def _open_report(page: Page) -> None:
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name=re.compile(f"release-{SERVICE}")).first.click()


def _shoot(page: Page, name: str) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    target = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=target, full_page=True)
    return target
