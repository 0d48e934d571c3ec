"""The draw of end-to-end scenarios: a third, the same by the same seed, all of them in time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.draw import drawn, seed_in_force, seed_of_commit

POOL = [f"tests/e2e/test_x.py::test_{number}" for number in range(10)]


def test_a_third_is_drawn_and_the_same_by_the_same_seed() -> None:
    assert len(drawn(POOL, "a1")) == 4
    assert drawn(POOL, "a1") == drawn(list(reversed(POOL)), "a1")


def test_every_test_is_drawn_by_some_seed() -> None:
    assert set().union(*(drawn(POOL, str(seed)) for seed in range(30))) == set(POOL)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_small_pool_loses_no_more_than_it_must(size: int) -> None:
    assert len(drawn(POOL[:size], "1")) == min(size, 1)


def test_seed_is_that_of_the_commit(tmp_path: Path) -> None:
    assert seed_of_commit(tmp_path) == "1"
    for command in (
        ("init", "-q"),
        ("-c", "user.name=n", "-c", "user.email=e@x", "commit", "-qm", "m", "--allow-empty"),
    ):
        subprocess.run(("git", "-C", str(tmp_path), *command), check=True)
    head = subprocess.check_output(("git", "-C", str(tmp_path), "rev-parse", "HEAD"), text=True)
    assert seed_of_commit(tmp_path) == head[:12]


def test_long_form_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_DRAW", "5")
    monkeypatch.setenv("SLIPWAY_SOAK", "1")
    assert seed_in_force() is None
    monkeypatch.delenv("SLIPWAY_SOAK")
    assert seed_in_force() == "5"
