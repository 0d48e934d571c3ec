"""Runs the tests of a rule on a copy of the project that carries the rule's mutation."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.mutations.model import PROJECT, Mutation, Rule

Outcome = Literal["caught", "SURVIVED", "BROKEN"]

_NOT_COPIED = (".git", ".venv", ".uv", "build", ".mypy_cache", ".ruff_cache", ".pytest_cache")
_TEST_TIMEOUT_S = 400
_PYTEST = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # saves more than half of its start


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one mutation.

    Args:
        rule: whose mutation it is.
        outcome: caught when a test of the rule failed; BROKEN when none ran to its end.
        took_s: of the tests.
        output: of pytest.
    """

    rule: Rule
    outcome: Outcome
    took_s: float
    output: str


@contextmanager
def copied_project() -> Iterator[Path]:
    """Give a copy of the project, compiled files included, and remove it at the end.

    What a broken runtime left running ends with it.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-mutation-") as name:
        folder = Path(name) / "p"
        shutil.copytree(PROJECT, folder, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        try:
            yield folder
        finally:
            _end_processes_of(folder)


def _end_processes_of(folder: Path) -> None:
    """Kill every process whose command line names the copy; a container ends with its keeper."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if os.fsencode(folder) in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)


@contextmanager
def mutated(folder: Path, mutation: Mutation) -> Iterator[None]:
    """Apply a mutation to a copy of the project, and take it back at the end."""
    path = folder / mutation.file
    original = path.read_text()
    path.write_text(mutation.applied(original))
    try:
        yield
    finally:
        path.write_text(original)


def run_tests(folder: Path, rule: Rule, environment: dict[str, str]) -> Finding:
    """Run the tests of a rule in a copy of the project, and judge.

    Args:
        folder: the copy.
        rule: whose tests.
        environment: further variables.
    """
    report = folder.parent / f"{rule.id}.xml"
    begin_s = time.monotonic()
    _, output = pytest(folder, [*rule.nodes, f"--junitxml={report}"], environment)
    return Finding(rule, judge(report), time.monotonic() - begin_s, output)


def pytest(folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run pytest in a copy of the project; return its exit code and what it said."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "pytest_timeout"),
        *("-p", "no:cacheprovider", f"--timeout={_TEST_TIMEOUT_S}"),
        *(f"--basetemp={folder.parent / 'tests'}", *arguments),
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment, **_PYTEST, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def judge(report: Path) -> Outcome:
    """Return what a JUnit report says of the mutation.

    A test that failed has seen it. One that could not even begin proves nothing of the rule.
    """
    if not report.exists():
        return "BROKEN"
    cases = list(ET.parse(report).iter("testcase"))
    if any(case.find("failure") is not None for case in cases):
        return "caught"
    if not cases or any(case.find("error") is not None for case in cases):
        return "BROKEN"
    return "SURVIVED"


def run_rule(rule: Rule) -> Finding:
    """Run a rule that needs no sandbox."""
    with copied_project() as folder, mutated(folder, rule.mutation):
        return run_tests(folder, rule, {})
