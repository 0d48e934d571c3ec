"""Replays one schedule with its trace, or runs new ones for as long as it is let.

python -m tests.simulation --seed 42
python -m tests.simulation --soak --schedules 100000
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.simulation.crowd import run_seeds
from tests.simulation.schedule import Result, simulation

_RESULTS = Path("build/simulation.jsonl")
_FIRST_SEED = 1_000_000
"""Of a soak: the seeds below are those of `make test`."""


def main(arguments: list[str]) -> int:
    """Return 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="show what happens in this schedule")
    parser.add_argument("--soak", action="store_true", help="go on after the last seed kept")
    parser.add_argument("--schedules", type=int, default=10_000, help="how many")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where a soak keeps them")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        return _replay(chosen.seed)
    results: Path = chosen.results
    first = _next_seed(results) if chosen.soak else 0
    return _run(range(first, first + chosen.schedules), results if chosen.soak else None)


def _replay(seed: int) -> int:
    with simulation() as simulated:
        result = simulated.run(seed, trace=True)
    sys.stdout.write("".join(f"{line}\n" for line in result.trace))
    return 1 if result.broken else 0


def _run(seeds: range, kept: Path | None) -> int:
    began, broken, count = time.monotonic(), 0, 0
    for result in run_seeds(seeds):
        count += 1
        if kept is not None:
            _keep(kept, result)
        if result.broken:
            broken += 1
            sys.stdout.write(f"seed {result.seed}: {result.broken}\n")
            sys.stdout.flush()
    took_s = time.monotonic() - began
    sys.stdout.write(
        f"{count} schedules from seed {seeds.start} in {took_s:.0f} s"
        f" ({count / took_s:.0f} a second), {broken} broke a promise\n"
    )
    return 1 if broken else 0


def _keep(kept: Path, result: Result) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    line = {name: value for name, value in asdict(result).items() if name != "trace"}
    with kept.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _next_seed(kept: Path) -> int:
    """Return the seed after the last one whose line is whole: a soak may be killed at any time."""
    last = _FIRST_SEED - 1
    if kept.exists():
        for line in kept.read_text().splitlines():
            try:
                last = max(last, int(json.loads(line)["seed"]))
            except ValueError:
                continue  # half a line
    return last + 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
