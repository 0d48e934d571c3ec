"""What all tests share: the count at the end, which CI and people read."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were collected and how many ran, the end-to-end ones apart."""
    session = terminalreporter._session  # the reporter offers no public way to it
    collected = {item.nodeid for item in session.items} if session else set()
    stats = terminalreporter.stats
    ran = {report.nodeid for key in ("passed", "failed") for report in stats.get(key, ())}
    end_to_end = sum("tests/e2e/" in node for node in ran)
    terminalreporter.write_line(
        f"collected {len(collected)}, ran {len(ran)}, of them end to end {end_to_end}"
    )
