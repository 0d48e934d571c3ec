"""What the supervisor should do next: pure decisions over values, no process and no clock.

The loop in `supervisor.py` observes (a process ended, a probe passed, the clock), turns the `Life`
of the part it is about, and asks `next_actions` what follows.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from slipway.core.errors import InputError
from slipway.sandbox.part import Part, Restart


class PartState(enum.StrEnum):
    """Life of one part under one supervisor."""

    WAITING = "waiting"
    """Not started: a part it needs is not ready yet."""
    STARTING = "starting"
    """The process runs, its ready probe has not passed."""
    READY = "ready"
    RESTARTING = "restarting"
    """It ended by itself and is started again when its time comes and what it needs is ready."""
    DOWN = "down"
    """It is held down on purpose: its node was killed."""
    FAILED = "failed"
    """Given up: start after start ended, or its time ran out, before it was ready."""
    EXITED = "exited"
    """It ended while no supervisor watched."""
    STOPPING = "stopping"
    """It was asked to end."""
    STOPPED = "stopped"
    """It ended because it was asked to, or was never started."""


RUNNING = frozenset({PartState.STARTING, PartState.READY, PartState.STOPPING})
"""States in which a process of the part exists."""

BROKEN = frozenset({PartState.FAILED, PartState.EXITED})
"""States that need a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What is remembered of one part from start to start; times of a monotonic clock.

    Args:
        state: where it is.
        ready_at_s: when it got ready last.
        due_at_s: when it is started again at the earliest, in state RESTARTING.
        restarts: how often it was started again.
        falls: ends in a row, each before it had been ready for a while: sets the next delay.
        misses: starts in a row that did not get ready.
        was_ready: it got ready once.
    """

    state: PartState = PartState.WAITING
    ready_at_s: float = 0.0
    due_at_s: float = 0.0
    restarts: int = 0
    falls: int = 0
    misses: int = 0
    was_ready: bool = False


Lives = Mapping[str, Life]


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do now, in the order of the parts.

    Args:
        start: parts to start.
        stop: parts to ask to end.
        kill: parts to end at once: they are to be held down.
        settle: parts without a process whose state becomes another one.
        wake_at_s: when to ask again although nothing happened; None for never.
    """

    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    kill: tuple[str, ...] = ()
    settle: tuple[tuple[str, PartState], ...] = ()
    wake_at_s: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is something to do now."""
        return bool(self.start or self.stop or self.kill or self.settle)


def next_actions(
    parts: Sequence[Part],
    lives: Lives,
    *,
    now_s: float,
    stopping: bool = False,
    held: Collection[str] = (),
) -> Actions:
    """Decide which parts to start, to kill, or while stopping which to stop.

    Args:
        parts: all parts.
        lives: of every part, by name.
        now_s: the clock.
        stopping: the sandbox as a whole was asked to end.
        held: names of the parts to be held down.
    """
    if stopping:
        return Actions(stop=tuple(part.name for part in parts if _may_stop(part, lives)))
    free = [part for part in parts if part.name not in held]
    running = {PartState.STARTING, PartState.READY}
    kept = [lives[name] for name in (part.name for part in free)]
    due_s = [life.due_at_s for life in kept if life.state is PartState.RESTARTING]
    return Actions(
        start=tuple(part.name for part in free if _may_start(part, lives, now_s)),
        kill=tuple(
            part.name for part in parts if part.name in held and lives[part.name].state in running
        ),
        settle=tuple(
            (part.name, PartState.DOWN if part.name in held else PartState.WAITING)
            for part in parts
            if _settles(lives[part.name].state, held=part.name in held)
        ),
        wake_at_s=min((at_s for at_s in due_s if at_s > now_s), default=None),
    )


def became_ready(life: Life, now_s: float) -> Life:
    """Return the life of a part whose probe passed."""
    return replace(life, state=PartState.READY, ready_at_s=now_s, misses=0, was_ready=True)


def after_end(
    life: Life,
    restart: Restart,
    *,
    now_s: float,
    by_signal: bool,
    stopping: bool = False,
    held: bool = False,
) -> Life:
    """Return the life of a part whose process ended, or could not be started.

    Args:
        life: in a state of RUNNING.
        restart: the part's policy.
        now_s: the clock.
        by_signal: somebody killed it; it did not end by itself, nor run out of its time.
        stopping: the sandbox as a whole was asked to end.
        held: the part is to be held down.
    """
    if stopping:
        return replace(life, state=PartState.STOPPED)
    if held:
        return replace(life, state=PartState.DOWN, falls=0, misses=0)
    if life.state is PartState.STOPPING:  # killed to be held down, and called back meanwhile
        return replace(life, state=PartState.WAITING, falls=0, misses=0)
    lasted = life.state is PartState.READY and now_s - life.ready_at_s >= restart.healthy_after_s
    falls = 1 if lasted else life.falls + 1
    misses = life.misses if life.state is PartState.READY else life.misses + 1
    hopeless = not life.was_ready and not by_signal
    if hopeless or misses >= restart.attempts:
        return replace(life, state=PartState.FAILED, falls=falls, misses=misses)
    return replace(
        life,
        state=PartState.RESTARTING,
        due_at_s=now_s + delay_s(restart, falls),
        restarts=life.restarts + 1,
        falls=falls,
        misses=misses,
    )


def delay_s(restart: Restart, falls: int) -> float:
    """Return how long to wait after the `falls`-th end in a row: exponential, capped."""
    # The exponent is capped too: 2.0 ** 1,100 overflows.
    return min(restart.longest_s, restart.first_s * 2.0 ** min(falls - 1, 60))


def is_over(lives: Lives) -> bool:
    """Return whether no process of any part exists any more."""
    return not any(life.state in RUNNING for life in lives.values())


def overall(lives: Lives, *, stopping: bool) -> str:
    """Sum the parts up in one word.

    Returns:
        `stopping` or `stopped`; `broken`: a part was given up; `recovering`: one ended and comes
        back; `starting`; `reduced`: all are ready but those held down on purpose; `ready`.
    """
    if stopping:
        return "stopped" if is_over(lives) else "stopping"
    states = {life.state for life in lives.values()}
    if states & BROKEN:
        return "broken"
    if states <= {PartState.READY, PartState.DOWN}:
        return "reduced" if PartState.DOWN in states else "ready"
    unready = [life for life in lives.values() if life.state is not PartState.READY]
    return "recovering" if any(life.restarts for life in unready) else "starting"


def check_parts(parts: Sequence[Part]) -> None:
    """Refuse parts that could never start or never stop.

    Raises:
        InputError: two parts share a name, an edge names no part, or the edges form a ring.
    """
    names = [part.name for part in parts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _wrong(f"two parts of the sandbox are called {', '.join(twice)}")
    for part in parts:
        for other in (*part.after, *part.stop_after):
            if other not in names:
                raise _wrong(f"part {part.name} names {other}, which is no part")
    for kind, edges in (
        ("after", {part.name: part.after for part in parts}),
        ("stop_after", {part.name: part.stop_after for part in parts}),
    ):
        ring = _ring(edges)
        if ring:
            raise _wrong(f"the {kind} edges of {', '.join(ring)} form a ring")


def waits_for(part: Part, lives: Lives) -> tuple[str, ...]:
    """Return what a part without a process needs and is not ready."""
    if lives[part.name].state not in {PartState.WAITING, PartState.RESTARTING}:
        return ()
    return tuple(other for other in part.after if lives[other].state is not PartState.READY)


def _may_start(part: Part, lives: Lives, now_s: float) -> bool:
    life = lives[part.name]
    due = life.state is PartState.RESTARTING and life.due_at_s <= now_s
    return (due or life.state is PartState.WAITING) and not waits_for(part, lives)


def _settles(state: PartState, *, held: bool) -> bool:
    if held:
        return state not in RUNNING and state is not PartState.DOWN
    return state is PartState.DOWN


def _may_stop(part: Part, lives: Lives) -> bool:
    return lives[part.name].state in {PartState.STARTING, PartState.READY} and all(
        lives[other].state not in RUNNING for other in part.stop_after
    )


def _ring(edges: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return the names that are left when everything without open edges is taken away."""
    left = {name: set(others) for name, others in edges.items()}
    while True:
        free = {name for name, others in left.items() if not others & left.keys()}
        if not free:
            return tuple(sorted(left))
        left = {name: others for name, others in left.items() if name not in free}


def _wrong(message: str) -> InputError:
    return InputError(
        message, code="sandbox-parts-invalid", hint="mend the module in slipway/sandbox/parts"
    )
