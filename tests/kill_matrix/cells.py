"""The cells of the matrix, and what is kept of those that were run."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.jsonl")
SIDES = ("after", "before")

AT_ONCE_S = 0.1
"""Writes that follow each other sooner leave the world no time to change between them."""


@dataclass(frozen=True, slots=True)
class Round:
    """One command that is killed at each of its writes.

    Args:
        strategy: of the service.
        direction: `promote`, `take back` (the version is bad), or `roll back` (by command).
    """

    strategy: str
    direction: str

    def __str__(self) -> str:
        return f"{self.strategy}, {self.direction}"


ROUNDS = (
    Round("canary", "promote"),
    Round("canary", "take back"),  # users were there
    Round("blue_green", "promote"),
    Round("blue_green", "take back"),  # no user was
    Round("blue_green", "roll back"),  # `slipway rollback` after a release that went well
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One kill.

    Args:
        write: its number, from 1.
        what: the write, in words.
    """

    round: Round
    side: str
    write: int
    what: str = ""

    @property
    def name(self) -> str:
        """What it is called in results."""
        return f"{self.round}, {self.side} write {self.write}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a kill.

    Args:
        ended: phase of the record at the end.
        problem: what was not as it should be, "" when all was.
        requests: of users, meanwhile.
        harmed: of those, failed or cut short.
    """

    ended: str
    problem: str
    requests: int
    harmed: int
    took_s: float

    @property
    def right(self) -> bool:
        """Whether all was as it should be."""
        return not self.problem and not self.harmed


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a command that nobody killed.

    Args:
        idle_s: time since the write before it.
    """

    what: str
    idle_s: float


def every_cell(round_: Round, writes: Sequence[Write]) -> list[Cell]:
    """Return the cells of a round in the order in which they are run.

    A moment before a write that follows the one before at once is the moment after that one: the
    world has not changed. It is a cell of its own where time has passed, in which pods start,
    leases run and users ask.
    """
    numbered = list(enumerate(writes, start=1))
    after = [Cell(round_, "after", number, write.what) for number, write in numbered]
    before = [
        Cell(round_, "before", number, write.what)
        for number, write in numbered
        if number == 1 or write.idle_s >= AT_ONCE_S
    ]
    return after + before


def is_right(row: Mapping[str, Any]) -> bool:
    """Return whether all was as it should be, of a line of the results."""
    return not row["problem"] and not row["harmed"]


class Results:
    """Outcomes in a file, a line each; a run that was killed goes on behind the last whole one."""

    def __init__(self, path: Path = RESULTS) -> None:
        """Take what the file holds."""
        self._path, self._commit = path, _commit()
        self._lock = threading.Lock()
        found = [json.loads(line) for line in _whole_lines(path)]
        self.every = [line for line in found if "cell" in line]
        self.writes = {line["round"]: line["writes"] for line in found if "writes" in line}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The last outcome of each cell."""
        return list({row["cell"]: row for row in self.every}.values())

    def known(self) -> set[str]:
        """Return the names of the cells that went right; the others are run again."""
        return {row["cell"] for row in self.rows if is_right(row)}

    def keep(self, cell: Cell, outcome: Outcome) -> None:
        """Append an outcome."""
        row = {
            "cell": cell.name,
            "round": str(cell.round),
            "what": cell.what,
            "commit": self._commit,
            **asdict(outcome),
        }
        with self._lock:
            self.every.append(row)
            self._append(row)

    def count(self, round_: Round, writes: Sequence[Write]) -> None:
        """Append what a command of the round writes unharmed; the first count stands."""
        counted = [asdict(write) for write in writes]
        with self._lock:
            if str(round_) not in self.writes:
                self.writes[str(round_)] = counted
                self._append({"round": str(round_), "writes": counted})

    def due(self, round_: Round) -> list[Cell]:
        """Return every cell of a round; none before its writes were counted."""
        writes = [Write(**each) for each in self.writes.get(str(round_), ())]
        return every_cell(round_, writes)

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # killed in the middle of a line
        path.write_text(whole)
    return whole.splitlines()


def _commit() -> str:
    command = ("git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Board:
    """Which cells are left, for several who take them at once."""

    def __init__(self, rounds: Iterable[Round], known: set[str], *, few: int = 4) -> None:
        """Begin.

        Args:
            rounds: in the order in which they are opened.
            known: names of cells that are not run again.
            few: with fewer cells left, nobody joins a round: to begin costs two releases.
        """
        self._unopened = deque(rounds)
        self._left: dict[Round, deque[Cell]] = {}
        self._known, self._few = known, few
        self._lock = threading.Lock()

    def join(self) -> Round | None:
        """Return a round to work on: one that nobody has begun, else the one with most to do."""
        with self._lock:
            if self._unopened:
                return self._unopened.popleft()
            most = max(self._left, key=lambda item: len(self._left[item]), default=None)
            return most if most is not None and len(self._left[most]) >= self._few else None

    def leave(self, round_: Round) -> None:
        """Give a round back that has not been opened."""
        with self._lock:
            if round_ not in self._left and round_ not in self._unopened:
                self._unopened.append(round_)

    def open(self, round_: Round, cells: list[Cell]) -> None:
        """Say which cells a round has; the first who says it counts."""
        with self._lock:
            left = deque(cell for cell in cells if cell.name not in self._known)
            self._left.setdefault(round_, left)

    def take(self, round_: Round) -> Cell | None:
        """Return a cell of a round that nobody has taken."""
        with self._lock:
            left = self._left[round_]
            return left.popleft() if left else None
