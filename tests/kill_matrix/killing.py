"""One service under users whose commands are killed, and what must be true afterwards."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slipway.core.release.record import Phase
from tests.e2e.support import LONGEST_RELEASE_S, Users, World, users
from tests.kill_matrix.cells import Cell, Outcome, Round, Write
from tests.kill_matrix.killed import LOG, WHERE
from tests.kill_matrix.nursery import Nursery

_POLICIES: dict[str, dict[str, Any]] = {
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
_FEWEST_WRITES = 10
_ENDS = (-signal.SIGKILL, 0, 6)
"""How a command may end: killed, before its write, or refused for what the version is."""


class Killing:
    """One service under users whose commands are killed.

    Args:
        number: one of its own, where several work on a round.
    """

    def __init__(self, world: World, round_: Round, nursery: Nursery, number: int) -> None:
        self.world, self.round = world, round_
        self._nursery = nursery
        # One of its own: whatever is live already would make the first release a canary, too.
        name = f"killed-{round_.strategy}-{round_.direction}-{number}"
        name = name.replace("_", "-").replace(" ", "-")
        self.service = world.given_service(name, **_POLICIES[round_.strategy])
        self._good = [world.given_version(self.service, ttft_ms=20 + n) for n in (0, 1)]
        self._bad = world.given_version(self.service, ttft_ms=400)
        self._must("release", self.service, self._good[0])

    def run(self, *command: str, **variables: str) -> int:
        """Run `slipway COMMAND` and return its code."""
        output = self.world.folder / f"{self.service}.log"
        return self._nursery.run(*command, output=output, timeout_s=LONGEST_RELEASE_S, **variables)

    def _must(self, *command: str) -> None:
        code = self.run(*command)
        log = self.world.folder / f"{self.service}.log"
        assert code == 0, f"{command} ended with {code}: {log.read_text()[-2000:]}"

    def _begin(self) -> tuple[str, ...]:
        """Bring the service to where the round begins; returns the command that will be killed."""
        live = self.world.ports(self.service).registry.alias(self.service, "live")
        other = next(version for version in self._good if version != live)
        if self.round.direction == "take back":
            return ("release", self.service, self._bad)
        if self.round.direction == "promote":
            return ("release", self.service, other)
        self._must("release", self.service, other)
        return ("rollback", self.service)

    def writes(self) -> list[Write]:
        """Run the command once, unharmed; returns what it wrote, in order."""
        log = self.world.folder / f"writes-{time.time_ns()}"
        self.run(*self._begin(), **{WHERE: "count", LOG: str(log)})
        found = [Write(**json.loads(line)) for line in log.read_text().splitlines()]
        assert len(found) > _FEWEST_WRITES
        return found

    def outcome(self, cell: Cell, crowd: Users) -> Outcome:
        """Kill, reconcile, look."""
        began_s, rows_before = time.monotonic(), _rows(crowd)
        ended, problem = self._run(cell)
        rows = _rows(crowd)[len(rows_before) :]
        return Outcome(
            ended=ended,
            problem=problem,
            requests=len(rows),
            harmed=sum(row["status"] != "ok" for row in rows),
            took_s=round(time.monotonic() - began_s, 1),
        )

    def _run(self, cell: Cell) -> tuple[str, str]:
        world, service = self.world, self.service
        before, command = world.record(service).release_id, self._begin()
        if cell.round.direction == "roll back":
            before = world.record(service).release_id
        code = self.run(*command, **{WHERE: f"{cell.side}:{cell.write}"})
        if code not in _ENDS:
            return "", f"exit code {code}"
        reconciled = self.run("reconcile", service)
        if reconciled != 0:
            return "", f"reconcile: exit code {reconciled}"
        if not self._taken_up(command, before):
            self.run(*command)  # killed before anything was written: ask again
        return self._found(cell)

    def _taken_up(self, command: tuple[str, ...], before: str) -> bool:
        """Return whether the record is that of the command, whoever brought it to its end."""
        record = self.world.record(self.service)
        if command[0] == "rollback":
            return record.rollback
        return record.release_id != before and record.version == command[-1]

    def _found(self, cell: Cell) -> tuple[str, str]:
        world, record = self.world, self.world.record(self.service)
        expected = Phase.ROLLED_BACK if cell.round.direction == "take back" else Phase.DONE
        live = record.slot(record.live_slot).version if record.live_slot else ""
        alias = world.ports(self.service).registry.alias(self.service, "live")
        found = [f"{record.phase}: {record.reason}"] if record.phase is not expected else []
        found += [f"alias {alias}, live {live}"] if alias != live else []
        found += world.leftovers(self.service)
        return str(record.phase), "; ".join(found)


def _rows(crowd: Users) -> list[dict[str, Any]]:
    lines = crowd.ledger.read_text().split("\n")[:-1]  # the last one may be half written
    return [json.loads(line) for line in lines]


@contextmanager
def killing(
    world: World, round_: Round, *, rate: float, number: int = 0
) -> Iterator[tuple[Killing, Users]]:
    """Set a service up and let users ask meanwhile; at the end not one may have been harmed.

    Args:
        rate: streaming requests a second.
        number: one of its own, where several work on a round.
    """
    nursery = Nursery(world.process_environment)
    try:
        made = Killing(world, round_, nursery, number)
        with users(world, made.service, rate=rate) as crowd:
            yield made, crowd
            ledger = crowd.stop()
        harmed = [row for row in ledger if row["status"] != "ok"]
        assert harmed == []
    finally:
        nursery.close()
