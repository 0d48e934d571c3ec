"""Every rule of the sandbox's contracts has a source, tests, and a mutation that fits the code."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.mutations.model import PROJECT, SOURCES, SUITES, Mutation, Rule
from tests.mutations.page import PAGE, render
from tests.mutations.rules import RULES
from tests.mutations.runner import copied_project, judge


def functions_of(suite: str) -> set[str]:
    tree = ast.parse((PROJECT / suite).read_text())
    functions = (item for item in tree.body if isinstance(item, ast.FunctionDef))
    return {item.name for item in functions if item.name.startswith("test_")}


def named(rule: Rule) -> str:
    return rule.id


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_rule_has_a_source_and_tests_that_exist(rule: Rule) -> None:
    assert rule.says.endswith(".")
    assert rule.source.partition(", ")[0] in SOURCES
    assert rule.suite in SUITES
    assert rule.tests
    assert set(rule.tests) <= functions_of(rule.suite)


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_mutation_fits_the_code_and_leaves_it_readable(rule: Rule) -> None:
    original = (PROJECT / rule.mutation.file).read_text()
    mutated = rule.mutation.applied(original)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(original))


@pytest.mark.parametrize("suite", SUITES)
def test_every_test_of_a_suite_holds_a_rule(suite: str) -> None:
    held = {name for rule in RULES if rule.suite == suite for name in rule.tests}
    assert functions_of(suite) - held == set()


def test_names_of_rules_are_unique() -> None:
    assert [name for name, count in Counter(rule.id for rule in RULES).items() if count > 1] == []


def test_every_source_is_used() -> None:
    assert {rule.source.partition(", ")[0] for rule in RULES} == set(SOURCES)


def test_page_says_what_the_rules_say() -> None:
    assert PAGE.read_text() == render(), "run: .venv/bin/python -m tests.mutations.page"


@pytest.mark.parametrize("text", ["nothing of it", "twice twice"])
def test_mutation_that_does_not_fit_exactly_once_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="instead of once"):
        Mutation("file.py", "twice", "once").applied(text)


@pytest.mark.parametrize(
    ("cases", "outcome"),
    [
        ("<testcase><failure/></testcase>", "caught"),
        ("<testcase/><testcase><failure/></testcase>", "caught"),
        ("<testcase/>", "SURVIVED"),
        ("<testcase><error/></testcase>", "BROKEN"),
        ("", "BROKEN"),
    ],
)
def test_only_a_test_that_failed_counts_as_caught(tmp_path: Path, cases: str, outcome: str) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert judge(report) == outcome
    assert judge(tmp_path / "missing.xml") == "BROKEN"


def test_processes_that_a_mutation_leaves_end_with_the_copy() -> None:
    # It lives far longer than the test, like the loops in the containers of a broken runtime.
    program = "import time; print('up', flush=True); time.sleep(600)"
    with copied_project() as folder:
        left = subprocess.Popen(
            (sys.executable, "-c", program, str(folder)),
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert left.stdout is not None
        assert left.stdout.readline() == b"up\n"
    try:
        assert left.wait(timeout=20) == -signal.SIGKILL
    finally:
        left.kill()
        left.communicate()
