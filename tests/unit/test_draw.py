"""The draw of end-to-end tests: a fifth, the same by the same seed, all of them in time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.draw import Scenario, drawn, left_out, seed_in_force, seed_of_commit

POOL = [f"tests/e2e/test_x.py::test_{number}" for number in range(10)]


def test_a_fifth_is_drawn_and_the_same_by_the_same_seed() -> None:
    assert len(drawn(POOL, "a1")) == 2
    assert drawn(POOL, "a1") == drawn(list(reversed(POOL)), "a1")


def test_every_test_is_drawn_by_some_seed() -> None:
    assert set().union(*(drawn(POOL, str(seed)) for seed in range(30))) == set(POOL)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_small_pool_loses_no_more_than_it_must(size: int) -> None:
    assert len(drawn(POOL[:size], "1")) == min(size, 1)


def run(scenarios: list[Scenario], seed: str) -> set[str]:
    return {each.test for each in scenarios} - left_out(scenarios, seed)


def test_test_without_a_marker_is_drawn_from_those_of_its_file() -> None:
    other = [name.replace("test_x", "test_y") for name in POOL[:3]]
    kept = run([Scenario(name) for name in (*POOL, *other)], "7")
    assert kept == drawn(POOL, "7") | drawn(other, "7")
    assert len(kept) == 3


def test_pool_is_drawn_over_files() -> None:
    scenarios = [Scenario(f"tests/e2e/test_{file}.py::test_1", pool="x") for file in "abcdefghij"]
    assert all(len(run(scenarios, str(seed))) == 2 for seed in range(5))


def test_file_is_drawn_with_all_its_tests_or_none() -> None:
    names = [f"tests/e2e/test_{file}.py::test_{number}" for file in "abc" for number in range(4)]
    scenarios = [Scenario(name, file_pool="long") for name in names]
    seen = set()
    for seed in map(str, range(30)):
        kept = run(scenarios, seed)
        assert len(kept) == 4
        (file,) = {Scenario(name).file for name in kept}
        seen.add(file)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("pool", "file_pool"), [(None, None), ("fault", None), (None, "long")], ids=str
)
def test_what_is_marked_always_is_in_every_run_and_in_no_pool(
    pool: str | None, file_pool: str | None
) -> None:
    def scenario(test: str, *, always: bool) -> Scenario:
        return Scenario(test, always=always, pool=pool, file_pool=file_pool)

    files = [name.replace("test_x", f"test_{file}") for file in "abc" for name in POOL]
    kept = [scenario(name, always=True) for name in files]
    assert left_out(kept, "3") == frozenset()
    others = [scenario(f"tests/e2e/test_d.py::test_{n}", always=False) for n in range(5)]
    drawn_of_them = 5 if file_pool else 1
    assert len(run([*kept, *others], "3")) == len(files) + drawn_of_them


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
