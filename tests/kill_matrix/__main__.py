"""Runs what is left of the kill matrix on a sandbox of its own, and keeps each outcome.

    python -m tests.kill_matrix --minutes 60
    python -m tests.kill_matrix --page

A run that is killed, or whose time is over, goes on where it was. `--anew` forgets what is kept.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.e2e.conftest import Sandbox, fresh_sandbox
from tests.e2e.orchestrator import Orchestrator
from tests.e2e.support import World
from tests.kill_matrix.cells import RESULTS, ROUNDS, Board, Results, Round, is_right
from tests.kill_matrix.killing import killing
from tests.kill_matrix.page import PAGE, page

_RATE_PER_S = 50.0
_MOST_BROKEN = 10


class _Run:
    def __init__(
        self,
        sandbox: Sandbox,
        results: Results,
        folder: Path,
        rounds: Sequence[Round],
        until_s: float,
    ) -> None:
        self._sandbox, self._results = sandbox, results
        self._folder, self._until_s = folder, until_s
        self._board = Board(rounds, results.known())
        self._numbers = itertools.count(1)
        self.broken = 0

    def work(self) -> None:
        """Run cells until none is left, or the time is over."""
        while time.monotonic() < self._until_s:
            round_ = self._board.join()
            if round_ is None:
                return
            try:
                self._work_on(round_)
            # Whatever it was, the others go on, and so does this one, with a service anew.
            except Exception:
                traceback.print_exc()
                self.broken += 1
                if self.broken > _MOST_BROKEN:
                    raise
                self._board.leave(round_)

    def _work_on(self, round_: Round) -> None:
        number = next(self._numbers)
        folder = self._folder / str(number)
        folder.mkdir()
        world = World(self._sandbox, folder)
        with killing(world, round_, rate=_RATE_PER_S, number=number) as (service, crowd):
            self._results.count(round_, service.writes())
            self._board.open(round_, self._results.due(round_))
            while time.monotonic() < self._until_s:
                cell = self._board.take(round_)
                if cell is None:
                    return
                outcome = service.outcome(cell, crowd)
                self._results.keep(cell, outcome)
                said = "right" if outcome.right else f"WRONG: {outcome.problem}"
                sys.stdout.write(f"{outcome.took_s:6.1f} s  {cell.name}: {said}\n")
                sys.stdout.flush()


def _pause_worker(world: World) -> None:
    """Have no run started beside ours: each dead run, once it is found, would start a reconcile."""
    api = Orchestrator(world.environment["PREFECT_API_URL"])
    api.pause_workers()
    api.close()


def main(arguments: list[str]) -> int:
    """Return 0 when every cell that is known went right."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill_matrix", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no cell afterwards")
    parser.add_argument("--at-once", type=int, default=6, help="services that are killed at once")
    parser.add_argument("--round", type=int, help="only this one, from 1")
    parser.add_argument("--anew", action="store_true", help="forget what is kept")
    parser.add_argument("--page", action="store_true", help="write the table, run nothing")
    chosen = parser.parse_args(arguments)
    if chosen.anew:
        RESULTS.unlink(missing_ok=True)
    results = Results()
    if not chosen.page:
        rounds = ROUNDS if chosen.round is None else (ROUNDS[chosen.round - 1],)
        until_s = time.monotonic() + 60 * chosen.minutes
        with fresh_sandbox() as sandbox, tempfile.TemporaryDirectory() as folder:
            _pause_worker(World(sandbox, Path(folder)))
            run = _Run(sandbox, results, Path(folder), rounds, until_s)
            with ThreadPoolExecutor(chosen.at_once) as pool:
                works = [pool.submit(run.work) for _ in range(chosen.at_once)]
                for work in as_completed(works):
                    work.result()
        sys.stdout.write(f"{run.broken} services broke down on the way\n")
    PAGE.write_text(page(results))
    wrong = [row["cell"] for row in results.rows if not is_right(row)]
    sys.stdout.write(f"{len(results.rows)} cells are known, {len(wrong)} went wrong {wrong}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
