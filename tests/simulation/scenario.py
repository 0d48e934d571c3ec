"""What a seed stands for: a policy, who asks for what and when, and what goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from slipway.core.service import RampStep, Strategy, WhenBusy
from tests.simulation.wires import Trouble

_CALM_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One process that somebody starts."""

    at_s: float
    what: str
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One schedule before it runs.

    Args:
        bad: what is wrong with each version under release: `answers`, `slow`, `users`, or nothing.
        pods: when which slot's pods do what.
        approvals_s: when somebody says yes to the steps that ask.
    """

    policy: dict[str, Any]
    strategy: Strategy
    steps: tuple[RampStep, ...]
    asked: tuple[Asked, ...]
    bad: str
    pods: tuple[tuple[float, str, str], ...]
    approvals_s: tuple[float, ...]
    streams: tuple[int, ...]
    trouble: Trouble


def scenario(rng: random.Random) -> Scenario:
    """Draw a schedule."""
    canary = rng.random() < 0.6
    approval = canary and rng.random() < 0.2
    weights = rng.choice(((50,), (20, 50), (50, 80)))
    steps = tuple(
        RampStep(weight_percent=weight, bake_s=2.0, approval=approval and weight == weights[-1])
        for weight in weights
    )
    return Scenario(
        policy={
            "when_busy": rng.choice(list(WhenBusy)),
            "bake_s": rng.choice((0.0, 3.0)),
            "rollback_window_s": rng.choice((0.0, 0.0, 20.0)),
            "queue_timeout_s": 120.0,
        },
        strategy=Strategy.CANARY if canary else Strategy.BLUE_GREEN,
        steps=steps,
        asked=_asked(rng),
        bad=rng.choice(("", "", "", "", "answers", "slow", "users")),
        pods=_pods(rng),
        approvals_s=tuple(rng.uniform(4, 20) for _ in range(2)) if approval else (),
        streams=rng.choice(((), (), (2, 1, 0))),
        trouble=_trouble(rng),
    )


def _asked(rng: random.Random) -> tuple[Asked, ...]:
    first = Asked(at_s=0.0, what="release", version="2")
    more = []
    for _ in range(rng.choice((0, 1, 1, 2))):
        what = rng.choice(("release", "release", "rollback", "abort", "reconcile"))
        version = rng.choice("23") if what == "release" else ""
        more.append(Asked(at_s=rng.choice((0.0, rng.uniform(0, 30))), what=what, version=version))
    return (first, *more)


def _pods(rng: random.Random) -> tuple[tuple[float, str, str], ...]:
    if rng.random() < 0.6:
        return ()
    events = []
    for _ in range(rng.choice((1, 1, 2))):
        begin_s, slot = rng.uniform(0, 20), rng.choice(("blue", "green", "green"))
        if rng.random() < 0.3:
            events.append((begin_s, slot, "replaced"))
            continue
        events.append((begin_s, slot, "break"))
        if rng.random() < 0.7:
            events.append((begin_s + rng.uniform(0.5, 15), slot, "come back"))
    return tuple(events)


def _trouble(rng: random.Random) -> Trouble:
    outages = []
    if rng.random() < 0.1:
        begin_s = rng.uniform(0, 15)
        outages.append((begin_s, begin_s + rng.choice((3.0, 10.0, 25.0))))
    return Trouble(
        rate=rng.choice((0.0, 0.005, 0.01, 0.02, 0.05)),
        left=rng.choice((1, 2, 4, 8)),
        until_s=_CALM_S,
        outages=tuple(outages),
    )
