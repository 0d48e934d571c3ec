"""What the supervisor should do next: pure decisions over values, no process and no clock.

The loop in `supervisor.py` observes (a process died, a probe passed), writes it into a mapping of
states and asks `next_actions` what follows. A restart policy belongs here when it comes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from slipway.core.errors import InputError
from slipway.sandbox.part import Part


class PartState(enum.StrEnum):
    """Life of one part under one supervisor."""

    WAITING = "waiting"
    """Not started: a part it needs is not ready yet."""
    STARTING = "starting"
    """The process runs, its ready probe has not passed."""
    READY = "ready"
    FAILED = "failed"
    """It ended, or its time ran out, before it was ready."""
    EXITED = "exited"
    """It ended by itself after it had been ready."""
    STOPPING = "stopping"
    """It was asked to end."""
    STOPPED = "stopped"
    """It ended because it was asked to, or was never started."""


RUNNING = frozenset({PartState.STARTING, PartState.READY, PartState.STOPPING})
"""States in which a process of the part exists."""

BROKEN = frozenset({PartState.FAILED, PartState.EXITED})
"""States that need a person, or a restart."""


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do now, in the order of the parts.

    Args:
        start: parts to start.
        stop: parts to ask to end.
    """

    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()


def next_actions(
    parts: Sequence[Part], states: Mapping[str, PartState], *, stopping: bool
) -> Actions:
    """Decide which parts to start, or while stopping which to stop.

    Args:
        parts: all parts.
        states: the state of every part, by name.
        stopping: the sandbox as a whole was asked to end.
    """
    if not stopping:
        return Actions(start=tuple(part.name for part in parts if _may_start(part, states)))
    return Actions(stop=tuple(part.name for part in parts if _may_stop(part, states)))


def is_over(states: Mapping[str, PartState]) -> bool:
    """Return whether no process of any part exists any more."""
    return not any(state in RUNNING for state in states.values())


def overall(states: Mapping[str, PartState], *, stopping: bool) -> str:
    """Sum the parts up in one word: starting, ready, broken, stopping or stopped."""
    if stopping:
        return "stopped" if is_over(states) else "stopping"
    if any(state in BROKEN for state in states.values()):
        return "broken"
    if all(state is PartState.READY for state in states.values()):
        return "ready"
    return "starting"


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


def _may_start(part: Part, states: Mapping[str, PartState]) -> bool:
    return states[part.name] is PartState.WAITING and all(
        states[other] is PartState.READY for other in part.after
    )


def _may_stop(part: Part, states: Mapping[str, PartState]) -> bool:
    return states[part.name] in {PartState.STARTING, PartState.READY} and all(
        states[other] not in RUNNING for other in part.stop_after
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
