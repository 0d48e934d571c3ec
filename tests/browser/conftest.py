"""The sandbox of the end-to-end tests, and Debian's Chromium in front of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.e2e.conftest import PROJECT, sandbox

__all__ = ["sandbox"]

SCREENSHOTS = PROJECT / "build" / "screenshots"
# A page of a busy machine; what a release takes is waited for by the test.
_PATIENCE_MS = 60_000.0


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "there is no chromium; install it: apt-get install chromium"
    with sync_playwright() as driver:
        # Its own sandbox refuses root; containers have too little shared memory for it.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that reaches nothing but this machine; what else it asked for is asserted at the end.

    Prefect 3.8.8's V2 UI asks for the settings of its usage statistics even where they are off
    (`PREFECT_SERVER_ANALYTICS_ENABLED=false`); it works without an answer. The last sight of the
    page is kept in SCREENSHOTS, also of a test that failed.
    """
    outside: set[str] = set()
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(_PATIENCE_MS)
    expect.set_options(timeout=_PATIENCE_MS)

    def refuse(route: Route) -> None:
        outside.add(urlsplit(route.request.url).netloc)
        route.abort()

    context.route(re.compile(r"^(?!https?://127\.0\.0\.1[:/])(?!data:|blob:)"), refuse)
    shown = context.new_page()
    yield shown
    shown.screenshot(path=SCREENSHOTS / f"last-{request.node.name}.png", full_page=True)
    context.close()
    assert outside <= {"sr-client-cfg.amplitude.com"}
