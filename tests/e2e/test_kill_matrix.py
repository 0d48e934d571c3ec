"""A release killed at its writes, under users: whatever is left, reconcile brings it to an end.

`make test` runs a seeded sample. In the long form every cell of the matrix (strategy, direction,
write, side) is run; results are kept in `build/kill-matrix.jsonl`, so that a run can be resumed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slipway.core.release.record import Phase
from tests.e2e.conftest import PROJECT
from tests.e2e.killed import LOG, WHERE
from tests.e2e.support import LONGEST_RELEASE_S, Sandbox, World, said, users

SOAK = bool(os.environ.get("SLIPWAY_SOAK"))
SEED = int(os.environ.get("SLIPWAY_KILL_SEED", "20261127"))
RATE_PER_S = 50 if SOAK else 10
RESULTS = PROJECT / "build" / "kill-matrix.jsonl"
POLICIES: dict[str, dict[str, Any]] = {
    "canary": {
        "policy__strategy": "canary",
        "policy__ramp__steps": [
            {"weight_percent": 10, "bake_s": 1},
            {"weight_percent": 50, "bake_s": 1},
        ],
        "policy__ramp__requests_min": 5,
        "policy__ramp__ttft_ratio_max": 4,
    },
    "blue_green": {"slo__ttft_p95_ms": 300},
}
ROUNDS = (
    ("canary", "promote"),
    ("canary", "take back"),  # users were there
    ("blue_green", "promote"),
    ("blue_green", "take back"),  # no user was
    ("blue_green", "roll back"),  # `slipway rollback` after a release that went well
)
SAMPLE = (random.Random(SEED).choice(ROUNDS),)


@dataclass(frozen=True)
class Cell:
    """One kill."""

    strategy: str
    direction: str
    side: str
    write: int

    @property
    def name(self) -> str:
        return f"{self.strategy}, {self.direction}, {self.side} write {self.write}"


class Killing:
    """One service under users whose releases are killed.

    Attributes:
        good: two versions that take turns.
        bad: a version that is too slow: for the users of a canary, or for the benchmark.
    """

    def __init__(self, world: World, strategy: str, direction: str) -> None:
        self.world = world
        # One of its own: whatever is live already would make the first release a canary, too.
        name = f"killed-{strategy}-{direction}".replace("_", "-").replace(" ", "-")
        self.service = world.given_service(name, **POLICIES[strategy])
        self.good = [world.given_version(self.service, ttft_ms=20 + n) for n in (0, 1)]
        self.bad = world.given_version(self.service, ttft_ms=400)
        assert world.release(self.service, self.good[0]).returncode == 0

    def begin(self, direction: str) -> tuple[str, ...]:
        """Bring the service to where the round begins; returns the command that will be killed."""
        live = self.world.ports(self.service).registry.alias(self.service, "live")
        other = next(version for version in self.good if version != live)
        if direction == "take back":
            return ("release", self.service, self.bad)
        if direction == "promote":
            return ("release", self.service, other)
        released = self.world.release(self.service, other)
        assert released.returncode == 0, said(released)
        return ("rollback", self.service)

    def writes(self, direction: str) -> list[str]:
        """Run the command once, unharmed; returns what it wrote, in order."""
        log = self.world.folder / f"writes-{time.time_ns()}"
        self._run(self.begin(direction), "count", log)
        return log.read_text().splitlines()

    def kill(self, cell: Cell) -> tuple[int, tuple[str, ...]]:
        """Run the command and be killed; returns how its process ended, and the command."""
        command = self.begin(cell.direction)
        return self._run(command, f"{cell.side}:{cell.write}", None), command

    def _run(self, command: tuple[str, ...], where: str, log: Path | None) -> int:
        environment = {**self.world.process_environment, WHERE: where}
        if log is not None:
            environment[LOG] = str(log)
        return subprocess.run(
            (sys.executable, "-m", "tests.e2e.killed", *command),
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            check=False,
            timeout=LONGEST_RELEASE_S,
        ).returncode


def cells_of(killing: Killing, strategy: str, direction: str) -> Iterator[Cell]:
    """Yield the cells to run: all of them in the long form, else one, by seed."""
    count = len(killing.writes(direction))
    assert count > 10
    every = [
        Cell(strategy, direction, side, write)
        for write in range(1, count + 1)
        for side in ("before", "after")
    ]
    if not SOAK:
        yield random.Random(f"{SEED} {strategy} {direction}").choice(every)
        return
    known = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = {json.loads(line)["cell"] for line in known}
    yield from (cell for cell in every if cell.name not in done)


@pytest.mark.drawn("crash")
@pytest.mark.timeout(6 * 3600 if SOAK else 900)
@pytest.mark.parametrize(("strategy", "direction"), ROUNDS if SOAK else SAMPLE)
def test_release_killed_at_a_write_is_brought_to_an_end_and_users_notice_nothing(
    sandbox: Sandbox, tmp_path: Path, strategy: str, direction: str
) -> None:
    world = World(sandbox, tmp_path)
    killing = Killing(world, strategy, direction)
    wrong = []
    with users(world, killing.service, rate=RATE_PER_S) as crowd:
        for cell in cells_of(killing, strategy, direction):
            problem = run_cell(killing, cell)
            if problem:
                wrong.append(f"{cell.name}: {problem}")
            keep(cell, problem)
        ledger = crowd.stop()
    assert wrong == []
    assert Counter(row["status"] for row in ledger).keys() == {"ok"}


def run_cell(killing: Killing, cell: Cell) -> str:
    """Kill, reconcile, look; returns what is not as it should be, "" when all is."""
    world, service = killing.world, killing.service
    before = world.record(service).release_id
    code, command = killing.kill(cell)
    if code not in {-signal.SIGKILL, 0, 6}:
        return f"exit code {code}"
    reconciled = world.cli("reconcile", service)
    if reconciled.returncode != 0:
        return f"reconcile: {reconciled.stderr[-500:]}"
    if not taken_up(world, service, command, before):
        world.cli(*command)  # killed before anything was written: ask again
    record = world.record(service)
    expected = Phase.ROLLED_BACK if cell.direction == "take back" else Phase.DONE
    live = record.slot(record.live_slot).version if record.live_slot else ""
    alias = world.ports(service).registry.alias(service, "live")
    found = [f"phase {record.phase}: {record.reason}"] if record.phase is not expected else []
    found += [f"alias {alias}, live {live}"] if alias != live else []
    found += world.leftovers(service)
    return "; ".join(found)


def taken_up(world: World, service: str, command: tuple[str, ...], before: str) -> bool:
    """Return whether the record is that of the command, whoever brought it to its end."""
    record = world.record(service)
    if command[0] == "rollback":
        return record.rollback
    return record.release_id != before and record.version == command[-1]


def keep(cell: Cell, problem: str) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as results:
        results.write(json.dumps({"cell": cell.name, "problem": problem}) + "\n")
