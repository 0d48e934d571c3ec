"""Every call of a process to a port: others run before it, and things go wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from slipway.core.errors import TransientError
from slipway.ports.records import Lease
from tests.fakes.journal import ProcessDied
from tests.simulation.engine import Engine, Process

_NS_PER_S = 1_000_000_000
_STALE_NS = 5 * _NS_PER_S
_STOPS_S = (1.0, 4.0, 8.0, 13.0, 20.0, 40.0)
_LONG_STOP_S = 60.0
"""Until another process has taken the lock over, and is at work."""
_OUTAGES_S = (3.0, 10.0, 25.0)
_OUTAGE_ANSWER_S = 1.0
"""How long an adapter's own retries last, before it gives up in an outage."""

CLUSTER = frozenset({"releases", "orders", "workloads", "autoscalers", "traffic", "preflight"})
WRITES = frozenset(
    {
        *("apply", "stamp", "scale", "delete", "event", "save", "take", "renew", "release"),
        *("post", "remove", "set_alias", "set_floor", "append", "put"),
    }
)
STALE = frozenset({("workloads", "observe"), ("traffic", "read")})


class Fault(StrEnum):
    """What goes wrong with one call."""

    KILL_BEFORE = "killed before"
    KILL_AFTER = "killed after"
    LOST = "answer lost of"
    REFUSED = "not answered:"
    STALE = "stale answer of"
    STOP = "stopped before"
    OUTAGE = "outage from"


_OF_WRITES = (
    Fault.KILL_BEFORE,
    Fault.KILL_AFTER,
    Fault.LOST,
    Fault.REFUSED,
    Fault.STOP,
    Fault.OUTAGE,
)
_OF_READS = (Fault.KILL_BEFORE, Fault.REFUSED, Fault.STOP, Fault.OUTAGE)
_OF_LOOKS = (*_OF_READS, Fault.STALE, Fault.STALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """One fault where a release is about to write.

    Args:
        nth: of its writes, from 1; renewals of its lock are left out.
        of: only these writes count, as `PORT.VERB`; all when empty.
        intent: only writes of a record count whose intent says this; all when empty.
    """

    nth: int
    fault: Fault
    of: str = ""
    intent: str = ""

    def counts(self, made: Call) -> bool:
        """Return whether a call is one of those that count."""
        ours = made.process.kind.startswith("release") and made.writes and made.verb != "renew"
        if not ours or self.of not in {"", f"{made.name}.{made.verb}"}:
            return False
        return not self.intent or self.intent in getattr(made.args[0], "intent", "")


@dataclass
class Trouble:
    """How much goes wrong in a schedule.

    Args:
        rate: chance of a fault, per call.
        left: faults at most.
        until_s: no more afterwards.
        outages: begin and end of the times in which the cluster answers nobody.
        trap: a fault that waits for one write.
        excused_until_ns: a fault, or what it led to, lasts until then.
        benchmarked_ns: when the last benchmark ended, which no order breaks off.
    """

    rate: float
    left: int
    until_s: float
    outages: tuple[tuple[float, float], ...] = ()
    trap: Trap | None = None
    excused_until_ns: int = 0
    benchmarked_ns: int = 0
    counted: int = 0

    def excuse(self, until_ns: int) -> None:
        """Note that nobody can be expected to act in time before then."""
        self.excused_until_ns = max(self.excused_until_ns, until_ns)


@dataclass(slots=True)
class Call:
    """One call of a process to a port."""

    process: Process
    name: str
    verb: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return self.verb in WRITES and not self.named.get("dry_run")

    @property
    def looks(self) -> bool:
        """Whether its answer may be some seconds old."""
        return (self.name, self.verb) in STALE

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for the same question."""
        return (self.name, self.verb, *self.args)


class Wires:
    """The calls of all processes.

    Args:
        looked: told of each look at a slot's pods.
        sprung: told when the trap has sprung.
        taken: told of each lock before it is taken.
    """

    def __init__(
        self,
        engine: Engine,
        trouble: Trouble,
        *,
        looked: Callable[[], None],
        sprung: Callable[[], None] = lambda: None,
        taken: Callable[[Lease], None] = lambda _lease: None,
    ) -> None:
        self.engine = engine
        self.trouble = trouble
        self._looked = looked
        self._sprung = sprung
        self._taken = taken
        self._answers: dict[tuple[Any, ...], tuple[int, Any]] = {}

    def wire(self, name: str, port: object) -> Any:
        """Return a port as the process that runs now reaches it."""
        process = self.engine.process
        if process is None:
            return port
        return _Wire(self, process, name, port)

    def call(self, made: Call) -> Any:
        """Make one call."""
        process, name = made.process, made.name
        process.require_alive()
        self.engine.pause()
        if name in CLUSTER:
            self._require_no_outage(name, made.verb)
        trapped = self._springs(made)
        fault = trapped or self._fault(made)
        if fault is not None:
            self._before(fault, made, stop_s=_LONG_STOP_S if trapped else None)
        if fault is Fault.STALE:
            known = self._answers.get(made.key)
            if known is not None and self._fresh_enough(process, name, known[0]):
                self._note_look(made, known[0])
                return known[1]
        if made.verb == "take":
            self._taken(made.args[0])
        answer = made.function(*made.args, **made.named)
        self._note(made, answer)
        if fault is not None:
            self._after(fault, made)
        return answer

    def _note(self, made: Call, answer: Any) -> None:
        now_ns = self.engine.clock.now_ns
        if made.looks:
            self._answers[made.key] = (now_ns, answer)
            self._note_look(made, now_ns)
        if made.writes:
            made.process.written_ns[made.name] = now_ns
            if made.verb == "take":
                made.process.fence = answer.fence

    def _springs(self, made: Call) -> Fault | None:
        trouble, trap = self.trouble, self.trouble.trap
        if trap is None or not trap.counts(made):
            return None
        trouble.counted += 1
        if trouble.counted != trap.nth:
            return None
        self._sprung()
        return trap.fault

    def _fault(self, made: Call) -> Fault | None:
        trouble, rng = self.trouble, self.engine.rng
        if not trouble.left or rng.random() >= trouble.rate:
            return None
        if self.engine.now_s > trouble.until_s:
            return None
        trouble.left -= 1
        return rng.choice(_OF_WRITES if made.writes else _OF_LOOKS if made.looks else _OF_READS)

    def _before(self, fault: Fault, made: Call, *, stop_s: float | None) -> None:
        engine, process, name, verb = self.engine, made.process, made.name, made.verb
        engine.say(f"!! {fault} {name}.{verb}")
        self.trouble.excuse(engine.clock.now_ns + _NS_PER_S)
        if fault is Fault.KILL_BEFORE:
            process.dead = True
            raise ProcessDied(f"{process} was killed")
        if fault is Fault.REFUSED:
            raise _unanswered(name, verb)
        if fault is Fault.OUTAGE:
            end_s = engine.now_s + engine.rng.choice(_OUTAGES_S)
            self.trouble.outages += ((engine.now_s, end_s),)
            if name in CLUSTER:
                self._require_no_outage(name, verb)
        if fault is Fault.STOP:
            engine.stop(process, stop_s or engine.rng.choice(_STOPS_S))
            if stop_s is None:  # else it is a release, and the watcher lives
                self.trouble.excuse(process.stopped_until_ns + _NS_PER_S)
            engine.pause()

    def _after(self, fault: Fault, made: Call) -> None:
        if fault is Fault.KILL_AFTER:
            made.process.dead = True
            raise ProcessDied(f"{made.process} was killed")
        if fault is Fault.LOST:
            raise _unanswered(made.name, made.verb)

    def _require_no_outage(self, name: str, verb: str) -> None:
        now_s = self.engine.now_s
        for begin_s, end_s in self.trouble.outages:
            if begin_s <= now_s < end_s:
                self.engine.say(f"!! outage: {name}.{verb}")
                end_ns = self.engine.start_ns + int((end_s + 2) * _NS_PER_S)
                self.trouble.excuse(end_ns)
                self.engine.wait(_OUTAGE_ANSWER_S)
                raise _unanswered(name, verb)

    def _fresh_enough(self, process: Process, name: str, taken_ns: int) -> bool:
        # Whoever wrote an object reads at least what it wrote: its resourceVersion says so.
        written_ns = process.written_ns.get(name, -1)
        return self.engine.clock.now_ns - taken_ns <= _STALE_NS and taken_ns > written_ns

    def _note_look(self, made: Call, taken_ns: int) -> None:
        if made.verb == "observe":
            slot = str(made.args[1]).rpartition("-")[2]
            made.process.looked_ns[slot] = taken_ns
            self._looked()


class _Wire:
    """One port in the hands of one process."""

    def __init__(self, wires: Wires, process: Process, name: str, port: object) -> None:
        self._wires, self._process, self._name, self._port = wires, process, name, port

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        function = getattr(self._port, verb)
        call, process, name = self._wires.call, self._process, self._name

        def calling(*args: Any, **named: Any) -> Any:
            return call(Call(process, name, verb, function, args, named))

        setattr(self, verb, calling)
        return calling


def _unanswered(name: str, verb: str) -> TransientError:
    return TransientError(
        f"{name}.{verb} was not answered", code="api-unreachable", hint="repeat the call"
    )
