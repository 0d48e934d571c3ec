"""Mutants of the tasks: made from the source, told apart, and seen by the simulation."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.simulation.mutants_page import PAGE, page, reasons
from tests.simulation.mutation import mutants

PROJECT = Path(__file__).resolve().parents[2]

SEEN = (
    "skip benchmark._judged: if verdict is not Verdict.PASS",
    "drop rollback._move_alias_back: registry.set_alias",
    "late ramp._set_weight: traffic.apply",
)


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_mutants_have_a_name_each() -> None:
    made = [mutant.id for mutant in mutants()]
    assert len(made) > 500
    assert [name for name, times in Counter(made).items() if times > 1] == []


def test_reasons_stand_for_mutants_that_exist() -> None:
    assert reasons().keys() - {mutant.id for mutant in mutants()} == set()


@pytest.mark.parametrize("name", SEEN)
def test_mutant_that_harms_users_is_caught(tmp_path: Path, name: str) -> None:
    results = tmp_path / "results.jsonl"
    done = _run("tests.simulation.mutants", "--results", str(results), name)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(item["id"], item["outcome"]) for item in found] == [(name, "caught")]


def test_result_that_is_known_is_not_asked_for_again(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    for _ in range(2):
        _run("tests.simulation.mutants", "--results", str(results), SEEN[0])
    assert len(results.read_text().splitlines()) == 1


def test_mutant_that_pytest_is_told_of_fails_a_flow_test() -> None:
    named = "test_failure_during_the_bake_gives_users_and_alias_back"
    done = _run(
        *("pytest", "-q", "-x", "-p", "no:randomly", "-p", "tests.simulation.mutants"),
        f"tests/flow/test_release_failures.py::{named}",
        SLIPWAY_MUTANT="drop rollback._move_alias_back: registry.set_alias",
    )
    assert "1 failed" in done.stdout, done.stdout + done.stderr


def test_page_names_each_survivor_with_its_reason() -> None:
    survivor, why = next(iter(reasons().items()))
    text = page([_Found(survivor, "survived"), _Found("drop x.y: z", "caught")])
    assert f"- `{survivor}`" in text
    assert why.split()[0] in text
    assert "|  | together | 2 | 1 | 1 | 0 |" in text


def test_page_in_the_docs_gives_no_reason_that_does_not_stand() -> None:
    listed = re.findall(r"^- `(.+?)`", (PROJECT / PAGE).read_text(), flags=re.MULTILINE)
    assert set(listed) - reasons().keys() == set()


@dataclass
class _Found:
    id: str
    outcome: str
