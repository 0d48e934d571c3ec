"""Processes as greenlets under one virtual clock: the seed decides who runs next."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greenlet import getcurrent, greenlet

from slipway.core.errors import SlipwayError
from tests.fakes.clock import FakeClock
from tests.fakes.journal import ProcessDied

_NS_PER_S = 1_000_000_000
_MOST_STEPS = 40_000


class SimulationError(AssertionError):
    """A promise was broken, or the program under test did what none of its errors says."""


@dataclass(eq=False)
class Process:
    """One process of ours: its main thread, and the threads that it started.

    Attributes:
        kind: what it runs, for example `release 2`.
        dead: killed; no call of it reaches the world any more.
        stopped_until_ns: all its threads stand still until then.
        fence: number of the lock it took last.
        looked_ns: when it last looked at a slot, by slot.
    """

    kind: str
    number: int
    dead: bool = False
    stopped_until_ns: int = 0
    fence: int | None = None
    looked_ns: dict[str, int] = field(default_factory=dict)
    written_ns: dict[str, int] = field(default_factory=dict)
    strands: list[Strand] = field(default_factory=list)
    outcome: Any = None
    error: SlipwayError | None = None

    def __str__(self) -> str:
        return f"{self.kind} #{self.number}"

    @property
    def ended(self) -> bool:
        """Whether its main thread has ended."""
        return bool(self.strands[0].thread.dead)

    def require_alive(self) -> None:
        """Raise when it was killed."""
        if self.dead:
            raise ProcessDied(f"{self} is dead")


@dataclass(eq=False)
class Strand:
    """One thread of a process, and what it waits for."""

    process: Process
    thread: greenlet
    wake_ns: int = 0
    until: Callable[[], bool] | None = None

    def ready(self, now_ns: int) -> bool:
        """Return whether it could run now."""
        if self.process.dead:
            return True
        if self.process.stopped_until_ns > now_ns:
            return False
        return self.wake_ns <= now_ns or (self.until is not None and self.until())


class SimClock(FakeClock):
    """The module `time` of every process: who sleeps lets the others run."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def sleep(self, seconds: float) -> None:
        """Wait, while others run."""
        self._engine.wait(seconds)


class Engine:
    """Runs processes one at a time, from one port call to the next.

    Args:
        rng: of the seed.
        after_step: called when a process has let go.
        trace: keep what happened, in words.
    """

    def __init__(
        self, rng: random.Random, *, after_step: Callable[[], None], trace: bool = False
    ) -> None:
        self.rng = rng
        self.clock = SimClock(self)
        self.start_ns = self.clock.now_ns
        self.processes: list[Process] = []
        self.lines: list[str] = []
        self.passing: list[Callable[[float], None]] = []
        self.steps = 0
        self._after_step = after_step
        self._tracing = trace
        self._strands: list[Strand] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._root = getcurrent()
        self._current: Strand | None = None
        self._failure: BaseException | None = None

    @property
    def now_s(self) -> float:
        """Virtual seconds since the schedule began."""
        return (self.clock.now_ns - self.start_ns) / _NS_PER_S

    @property
    def process(self) -> Process | None:
        """The process that runs now; None outside of all."""
        return None if self._current is None else self._current.process

    def say(self, text: str) -> None:
        """Note a line of the trace."""
        if self._tracing:
            who = self.process or "world"
            self.lines.append(f"{self.now_s:8.2f} s  {who!s:16} {text}")

    def at(self, seconds: float, happening: Callable[[], None]) -> None:
        """Let something happen from outside, so many seconds after the beginning."""
        due_ns = self.start_ns + int(seconds * _NS_PER_S)
        self._events.append((due_ns, len(self._events), happening))
        self._events.sort(key=lambda event: event[:2])

    def start(self, kind: str, body: Callable[[], Any]) -> Process:
        """Start a process."""
        process = Process(kind=kind, number=len(self.processes) + 1)
        self.processes.append(process)

        def run() -> None:
            process.outcome = body()

        self._add(process, run)
        return process

    def start_thread(self, body: Callable[[], Any]) -> Strand:
        """Start one more thread of the process that runs now."""
        current = self._current
        if current is None:
            raise SimulationError("no process runs that could start a thread")
        return self._add(current.process, body)

    def _add(self, process: Process, body: Callable[[], Any]) -> Strand:
        def guarded() -> None:
            try:
                process.require_alive()
                body()
            except ProcessDied:
                return
            except SlipwayError as error:
                process.error = error
            # Whatever else ends a process is what this simulation looks for.
            except BaseException as error:  # noqa: BLE001
                self._failure = self._failure or error

        strand = Strand(process=process, thread=greenlet(guarded, parent=self._root))
        process.strands.append(strand)
        self._strands.append(strand)
        return strand

    def pause(self) -> None:
        """Let others run before the process that runs now goes on."""
        self.wait(0.0)

    def wait(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Let the process that runs now wait, for a time or until something holds."""
        current = self._current
        if current is None:
            raise SimulationError("nobody runs who could wait")
        current.process.require_alive()
        current.wake_ns = self.clock.now_ns + int(seconds * _NS_PER_S)
        current.until = until
        self._root.switch()
        current.process.require_alive()

    def stop(self, process: Process, seconds: float) -> None:
        """Let a whole process stand still, as under SIGSTOP."""
        process.stopped_until_ns = self.clock.now_ns + int(seconds * _NS_PER_S)

    def run(self, *, until: Callable[[], bool], limit_s: float) -> None:
        """Run until something holds.

        Raises:
            SimulationError: a promise was broken, or it did not hold in time.
        """
        while not until():
            self._step(limit_s)

    def _step(self, limit_s: float) -> None:
        now_ns = self.clock.now_ns
        ready = [strand for strand in self._strands if strand.ready(now_ns)]
        if not ready:
            self._pass_time()
            if self.now_s > limit_s:
                raise SimulationError(f"not at rest after {self.now_s:.0f} s")
            return
        chosen = ready[0] if len(ready) == 1 else self.rng.choice(ready)
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise SimulationError(f"not at rest after {self.steps} steps")
        self._resume(chosen)
        self._after_step()

    def _resume(self, strand: Strand) -> None:
        self._current = strand
        strand.until = None
        try:
            strand.thread.switch()
        finally:
            self._current = None
        if strand.thread.dead:
            self._strands.remove(strand)
        if self._failure is not None:
            raise self._failure

    def _pass_time(self) -> None:
        now_ns, wakes = self.clock.now_ns, [event[0] for event in self._events[:1]]
        for strand in self._strands:
            process = strand.process
            wakes.append(max(strand.wake_ns, process.stopped_until_ns))
        if not wakes:
            raise SimulationError("nobody is left who could do anything")
        # A process that stood still and has slept long enough goes on at once.
        next_ns = max(now_ns, min(wakes))
        for happening in self.passing:
            happening((next_ns - now_ns) / _NS_PER_S)
        self.clock.now_ns = next_ns
        while self._events and self._events[0][0] <= next_ns:
            self._events.pop(0)[2]()

    def close(self) -> None:
        """End every process, so that nothing of this schedule is left."""
        for process in self.processes:
            process.dead = True
        for strand in self._strands:
            self._current = strand
            if not strand.thread.dead:
                strand.thread.switch()
        self._strands.clear()
        self._current = None
