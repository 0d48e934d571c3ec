"""Runs schedules against each mutant of the tasks, until a promise is broken or its time is up.

python -m tests.simulation.mutants                 every mutant that has no result yet
python -m tests.simulation.mutants 'drop ramp'     those whose name holds one of these words
python -m tests.simulation.mutants --further       go on with those that were not caught
python -m tests.simulation.mutants --verify        run the other tests that are said to see them
python -m tests.simulation.mutants --page          write docs/design/0006-mutants.md anew

A survivor whose reason stands nowhere (`survivors.toml`) makes it fail. To see what flow tests make
of one: SLIPWAY_MUTANT='NAME' python -m pytest -p tests.simulation.mutants -x tests/flow
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.simulation import mutation
from tests.simulation.mutants_page import PAGE, page, reasons, whys
from tests.simulation.mutation import TASKS, Mutant, mutants, put_in
from tests.simulation.schedule import Simulation, simulation

RESULTS = Path("build/mutants.jsonl")

_BUDGET_S = 10.0
_HANGS_S = 10  # beyond the budget: a task that waits for nothing that the clock could bring
_UNREACHED = 120
"""Schedules after which a call that none has made is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one mutant.

    Args:
        id: of the mutant.
        outcome: `caught`, `survived`, or `unreached`: no schedule came by the changed call.
        broken: the promise that was broken.
        seed: of the schedule that broke it, or of the last one.
        seconds: of processor time.
        source: digest of the file that was changed.
    """

    id: str
    outcome: str
    broken: str
    seed: int
    seconds: float
    source: str


def hunt(chosen: Iterable[tuple[Mutant, int]], *, budget_s: float, jobs: int) -> Iterator[Finding]:
    """Yield what became of each mutant; each has a process of its own, forked from this one.

    Args:
        chosen: mutants, each with the seed to begin with.
        budget_s: processor time for each.
        jobs: processes side by side.
    """
    context = multiprocessing.get_context("fork")
    running: dict[Connection, tuple[Mutant, Any]] = {}
    left = iter(chosen)
    with simulation() as simulated:
        simulated.run(0)  # the first release is that of the tasks as they are
        while True:
            while len(running) < jobs and (one := next(left, None)) is not None:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_hunt, args=(simulated, *one, budget_s, theirs))
                process.start()
                theirs.close()
                running[ours] = one[0], process
            if not running:
                return
            for ready in wait(list(running)):
                ours = ready  # type: ignore[assignment]  # only ours were waited for
                mutant, process = running.pop(ours)
                yield _told(ours, mutant, budget_s)
                process.join()


def _told(ours: Connection, mutant: Mutant, budget_s: float) -> Finding:
    try:
        found: Finding = ours.recv()
    except EOFError:  # killed by its own alarm
        found = _finding(mutant, "caught", "it hangs", 0, budget_s)
    return found


def _hunt(
    simulated: Simulation, mutant: Mutant, first: int, budget_s: float, theirs: Connection
) -> None:
    signal.setitimer(signal.ITIMER_PROF, budget_s + _HANGS_S)
    began = time.process_time()  # a machine with other work must not decide
    put_in(mutant)
    for seed in count(first):
        broken = simulated.run(seed).broken
        seconds = time.process_time() - began
        unreached = mutant.tells and not mutation.reached
        if broken:
            outcome = "caught"
        elif seconds > budget_s or (unreached and seed - first >= _UNREACHED):
            outcome = "unreached" if unreached else "survived"
        else:
            continue
        theirs.send(_finding(mutant, outcome, broken, seed, seconds))
        return


def _finding(mutant: Mutant, outcome: str, broken: str, seed: int, seconds: float) -> Finding:
    return Finding(
        id=mutant.id,
        outcome=outcome,
        broken=broken,
        seed=seed,
        seconds=round(seconds, 2),
        source=digest_of(mutant.module),
    )


@cache
def digest_of(module: str) -> str:
    """Return what tells results of one source from those of another."""
    return hashlib.sha256((TASKS / f"{module}.py").read_bytes()).hexdigest()[:12]


def kept(results: Path) -> dict[str, Finding]:
    """Return what is known of the tasks as they are; a soak may be killed at any time."""
    found: dict[str, Finding] = {}
    if not results.exists():
        return found
    source = {mutant.id: digest_of(mutant.module) for mutant in mutants()}
    for line in results.read_text().splitlines():
        try:
            finding = Finding(**json.loads(line))
        except ValueError:
            continue  # half a line
        before = found.get(finding.id)
        if finding.source == source.get(finding.id) and (not before or before.outcome != "caught"):
            found[finding.id] = finding
    return found


def main(arguments: list[str]) -> int:
    """Return 0 when each mutant was caught, or its survival has a reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="of the names of mutants; all without")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--further", action="store_true", help="those not caught, by new seeds")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE} from the results")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side")
    parser.add_argument("--budget-s", type=float, default=_BUDGET_S, help="for each mutant")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they are kept")
    parser.add_argument("--verify", action="store_true", help="the tests that reasons name")
    chosen = parser.parse_args(arguments)
    known = kept(chosen.results)
    if chosen.verify:
        return _verify(chosen.words)
    if not chosen.page:
        asked = [
            (mutant, _first_seed(known.get(mutant.id), chosen.further))
            for mutant in mutants()
            if _is_asked(mutant, known.get(mutant.id), chosen)
        ]
        chosen.results.parent.mkdir(parents=True, exist_ok=True)
        for found in hunt(asked, budget_s=chosen.budget_s, jobs=chosen.jobs):
            known[found.id] = found
            with chosen.results.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
    every = [known[mutant.id] for mutant in mutants() if mutant.id in known]
    if chosen.page:
        PAGE.write_text(page(every))
    return _summed_up(every)


def _is_asked(mutant: Mutant, known: Finding | None, chosen: argparse.Namespace) -> bool:
    if chosen.words and not any(word in mutant.id for word in chosen.words):
        return False
    further = chosen.further and known is not None and known.outcome != "caught"
    return known is None or chosen.again or further


def _first_seed(known: Finding | None, further: bool) -> int:
    return known.seed + 1 if further and known is not None else 0


def _summed_up(findings: list[Finding]) -> int:
    told, lived = reasons(), [item for item in findings if item.outcome != "caught"]
    unexplained = [item for item in lived if item.id not in told]
    for item in unexplained:
        sys.stdout.write(f"{item.outcome}, and nobody says why: {item.id}\n")
    sys.stdout.write(
        f"{len(findings)} mutants, {len(findings) - len(lived)} caught, "
        f"{len(lived)} not, {len(unexplained)} of them without a reason\n"
    )
    return 1 if unexplained else 0


def _verify(words: list[str]) -> int:
    """Run the tests that are said to see a mutant against it; return 1 when they pass."""
    blind = 0
    for why in whys():
        for name in why.mutants if why.tests else ():
            if words and not any(word in name for word in words):
                continue
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", "-p", __spec__.name, *why.tests],
                env={**os.environ, "SLIPWAY_MUTANT": name},
                capture_output=True,
                text=True,
                check=False,
            )
            seen = done.returncode == 1
            blind += not seen
            sys.stdout.write(f"{'seen' if seen else 'NOT SEEN'}: {name}\n")
            sys.stdout.flush()
    return 1 if blind else 0


def pytest_configure() -> None:
    """Let the tests of this session run against the mutant that SLIPWAY_MUTANT names."""
    put_in({mutant.id: mutant for mutant in mutants()}[os.environ["SLIPWAY_MUTANT"]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
