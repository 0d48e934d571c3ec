"""What a seed stands for: a policy, who asks for what and when, and what goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from slipway.core.service import RampStep, Strategy, WhenBusy
from tests.simulation.autoscaled import FIXED, Load, draw_load
from tests.simulation.wires import Fault, Trap, Trouble

_CALM_S = 45.0
_LONG_HOLD_S = 60.0
_LATE_S = 300.0  # every calm release has ended by then
_TRAPPED = (
    *(("", 60), ("", 60), ("traffic.apply", 5)),
    *(("workloads.scale", 2), ("registry.set_alias", 1)),
)
"""Which writes, and how many of them there are at most."""
_TRAPS = (
    *(Fault.STOP, Fault.STOP, Fault.KILL_BEFORE),
    *(Fault.KILL_AFTER, Fault.KILL_AFTER, Fault.OUTAGE),
)


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
        hold_timeout_s: how long a canary waits for a person or for data.
        gateway_looks_behind: how often the gateway is asked before it serves by a new route.
        watched_from_s: the watcher begins then.
        looks_until_ready: looks that a new pod needs until it is ready.
        benchmark_s: how long a benchmark takes.
        dies_then: the slot whose pods die when the trap has sprung; none when empty.
        invalid_tables: so many of the benchmark's tables break the rules of a table.
        load: who decides how many pods a slot has, and what the users need.
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
    hold_timeout_s: float = 15.0
    gateway_looks_behind: int = 0
    watched_from_s: float = 0.0
    looks_until_ready: int = 0
    benchmark_s: float = 0.0
    dies_then: str = ""
    invalid_tables: int = 0
    load: Load = FIXED

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong but what the version under release does."""
        trouble = self.trouble
        quiet = not trouble.rate and not trouble.outages and trouble.trap is None
        return quiet and not self.pods

    @property
    def pods_die(self) -> bool:
        """Whether pods are hurt from outside."""
        return bool(self.pods) or bool(self.dies_then)


def scenario(rng: random.Random) -> Scenario:
    """Draw a schedule: half of them anything at all, the others aimed at something rare."""
    made = replace(_anything(rng), load=draw_load(rng))
    return rng.choice(_AIMS)(rng, made)


def _as_it_is(rng: random.Random, made: Scenario) -> Scenario:
    return made


def _calm(rng: random.Random, made: Scenario) -> Scenario:
    """Nothing goes wrong: what was asked for comes to pass."""
    calm = replace(
        made,
        asked=made.asked[:1],
        pods=(),
        trouble=Trouble(rate=0.0, left=0, until_s=0.0),
        bad=rng.choice(("", "", "answers", "slow", "users", "users")),
        invalid_tables=rng.choice((0, 1)),
    )
    if rng.random() < 0.4:
        return calm
    what = rng.choice(("abort", "rollback", "rollback", "release"))
    version = rng.choice("233") if what == "release" else ""
    # Before a release can have ended, or long after.
    at_s = rng.choice((rng.uniform(0.5, 2.0), _LATE_S))
    return replace(
        calm,
        asked=(*calm.asked, Asked(at_s=at_s, what=what, version=version)),
        bad="",
        policy={
            **made.policy,
            "bake_s": 3.0,
            "rollback_window_s": rng.choice((0.0, 400.0, 400.0)),
            "queue_timeout_s": _LATE_S,
        },
        steps=tuple(replace(step, approval=False) for step in made.steps),
        approvals_s=(),
    )


def _trapped(rng: random.Random, made: Scenario) -> Scenario:
    """One write of the first process goes wrong, any of them; a stop outlives its lock.

    Somebody takes the release back afterwards, now and then.
    """
    of, last = rng.choice(_TRAPPED)
    trap = Trap(nth=rng.randint(1, last), of=of, fault=rng.choice(_TRAPS))
    asked = made.asked[:1]
    if rng.random() < 0.5:
        what, version = rng.choice((("abort", ""), ("rollback", ""), ("release", "3")))
        at_s = rng.uniform(1, rng.choice((5, 30)))
        asked = (*asked, Asked(at_s=at_s, what=what, version=version))
    if trap.fault is Fault.STOP and rng.random() < 0.5:
        # Whatever the zombie still moved is put right.
        asked = (*asked, Asked(at_s=70.0, what="release", version=rng.choice("23")))
    return replace(
        made,
        asked=asked,
        bad=rng.choice((made.bad, "users")) if of == "traffic.apply" else made.bad,
        pods=made.pods if trap.fault is Fault.OUTAGE else (),
        streams=(2, 1, 0),
        trouble=Trouble(rate=0.0, left=0, until_s=_CALM_S, trap=trap),
    )


def _orphaned(rng: random.Random, made: Scenario) -> Scenario:
    """The only process dies when it has given the candidate users, and so does the candidate."""
    # The first route of a release is the preview.
    trap = Trap(nth=rng.randint(2, 4), fault=Fault.KILL_AFTER, of="traffic.apply")
    return replace(
        made,
        asked=made.asked[:1],
        bad="",
        pods=(),
        trouble=Trouble(rate=0.0, left=0, until_s=_CALM_S, trap=trap),
        dies_then="green",
    )


def _slow(rng: random.Random, made: Scenario) -> Scenario:
    """The cluster is away just when users are about to move, and pods die meanwhile."""
    trap = Trap(nth=rng.randint(1, 3), fault=Fault.OUTAGE, of="releases.save", intent="users")
    return replace(
        made,
        asked=made.asked[:1],
        bad=rng.choice(("", "users")),
        pods=(),
        trouble=Trouble(rate=0.0, left=0, until_s=_CALM_S, trap=trap),
        dies_then=rng.choice(("green", "green", "blue")),
    )


def _unwatched(rng: random.Random, made: Scenario) -> Scenario:
    """There is no watcher: a release that lives looks after its candidate by itself."""
    begin_s = rng.uniform(0, 8)
    return replace(
        made,
        asked=made.asked[:1],
        policy={**made.policy, "bake_s": 10.0, "rollback_window_s": 0.0},
        steps=tuple(replace(step, bake_s=6.0) for step in made.steps),
        bad="",
        pods=((begin_s, "green", "break"), (begin_s + 12.0, "green", "come back")),
        trouble=Trouble(rate=0.0, left=0, until_s=0.0),
        watched_from_s=_CALM_S,
    )


def _anything(rng: random.Random) -> Scenario:
    canary = rng.random() < 0.6
    approval = canary and rng.random() < 0.3
    weights = rng.choice(((50,), (20, 50), (50, 80)))
    steps = tuple(
        RampStep(weight_percent=weight, bake_s=2.0, approval=approval and weight == weights[-1])
        for weight in weights
    )
    latest_s = rng.choice((20.0, 50.0))
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
        approvals_s=tuple(rng.uniform(4, latest_s) for _ in range(2)) if approval else (),
        streams=rng.choice(((), (), (2, 1, 0))),
        trouble=_trouble(rng),
        hold_timeout_s=_LONG_HOLD_S if latest_s > _CALM_S else 15.0,
        gateway_looks_behind=rng.choice((0, 0, 2)),
        looks_until_ready=rng.choice((0, 0, 0, 30)),
        benchmark_s=rng.choice((0.0, 0.0, 3.0, 3.0, 8.0, 40.0)),
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


_AIMS = (*([_as_it_is] * 6), *([_calm] * 3), *([_trapped] * 3), _orphaned, _unwatched, _slow)
