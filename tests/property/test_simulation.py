"""Schedules of the simulation: processes interleaved, stopped, killed; every promise kept.

`python -m tests.simulation --seed N` shows what happened in one of them.
"""

from __future__ import annotations

import os
import sys
import time

from tests.simulation.crowd import run_seeds
from tests.simulation.schedule import simulation

SCHEDULES = int(os.environ.get("SLIPWAY_SCHEDULES", "10000"))
"""Which seeds: those below."""

FEWEST, LONGEST_S = min(SCHEDULES, 2000), 150.0
"""So many are run on any machine; the others as long as there is time: `make test` has an end."""


def test_every_schedule_keeps_every_promise() -> None:
    began_s, broken, count = time.monotonic(), [], 0
    for result in run_seeds(range(SCHEDULES)):
        count += 1
        broken += [result] if result.broken else []
        if count >= FEWEST and time.monotonic() - began_s > LONGEST_S:
            break
    sys.stderr.write(f"{count} schedules in {time.monotonic() - began_s:.0f} s\n")
    with simulation() as simulated:
        for result in broken[:3]:
            trace = simulated.run(result.seed, trace=True).trace
            told = [f"seed {result.seed}: {result.broken}", *trace[-40:]]
            sys.stdout.write("".join(f"{line}\n" for line in told))
    assert [(result.seed, result.broken) for result in broken] == []


def test_schedule_of_a_seed_is_the_same_each_time() -> None:
    with simulation() as simulated:
        for seed in range(20):
            first = simulated.run(seed, trace=True)
            assert simulated.run(seed, trace=True) == first


def test_schedules_reach_every_end_and_fault() -> None:
    with simulation() as simulated:
        results = [simulated.run(seed, trace=True) for seed in range(300)]
    told = "\n".join(line for result in results for line in result.trace)
    for happening in (
        *("killed before", "killed after", "stopped before", "answer lost of", "not answered"),
        *("stale answer of", "outage", "pods of slot green: break", "chat is locked by"),
        *("reconcile is started", "record held", "order abort", "gave way to"),
        *("users are back on slot blue", "allows the step", "still ready", "stays warm"),
    ):
        assert happening in told, happening
    assert {result.ended for result in results} == {"done", "rolled_back"}
