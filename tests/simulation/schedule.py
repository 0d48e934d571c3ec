"""One schedule: everything that a seed decides, from the first request until all is at rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from slipway.core.routing import Slot
from tasks.approve import approve_step
from tasks.session import connected
from tasks.watch import Watcher
from tests.flow.world import SERVICE
from tests.simulation.autoscaled import FIXED, Autoscaled, Load, first_autoscaled
from tests.simulation.duties import Duties
from tests.simulation.engine import Engine, Process
from tests.simulation.install import FLOWS, Stage, installed
from tests.simulation.invariants import Invariants
from tests.simulation.scenario import Scenario, scenario
from tests.simulation.wires import Trouble, Wires
from tests.simulation.world import FrozenWorld, SharedWorld

_LIMIT_S = 900.0
_LOOK_EVERY_S = 1.0
_RECONCILE_STARTS_S = 2.0
_CALM_S = 46.0
_REQUESTS_MIN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a schedule went.

    Args:
        broken: the promise that was broken, empty when all were kept.
        ended: phase of the record at the end.
        trace: what happened, when it was asked for.
    """

    seed: int
    broken: str
    ended: str
    virtual_s: float
    steps: int
    faults: int
    trace: tuple[str, ...] = ()


class Simulation:
    """Runs schedules, one after another, in one world each."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def run(self, seed: int, *, trace: bool = False) -> Result:
        """Run the schedule of a seed until all is at rest."""
        rng = random.Random(seed)
        return _Run(self._stage, seed, scenario(rng), rng, trace=trace).result()


@contextmanager
def simulation() -> Iterator[Simulation]:
    """Take Prefect out of the way meanwhile."""
    stage = Stage()
    with installed(stage):
        yield Simulation(stage)


class _Run:
    def __init__(
        self, stage: Stage, seed: int, asked: Scenario, rng: random.Random, *, trace: bool
    ) -> None:
        self._seed, self._asked, self._trace = seed, asked, trace
        load = asked.load
        self.world = _released(
            stage, replace(load, changes=()) if load.scaled.before else FIXED
        ).thawed()
        self._faults = asked.trouble.left
        self.trouble = asked.trouble
        self.engine = Engine(rng, after_step=self._after_step, trace=trace)
        self._scaled = Autoscaled(self.engine, self.world, load)
        self._invariants = Invariants(
            self.engine, self.world, asked, self.trouble, scaled=self._scaled
        )
        self._duties = Duties(self.engine, self.world, asked, self.trouble)
        self._set_up(stage)
        self._watcher: Process | None = None
        self._running: list[Process] = []
        self._started: list[Process] = []
        self._last_asked_s = max(item.at_s for item in asked.asked)
        self._prepare()

    def _set_up(self, stage: Stage) -> None:
        world, judge, duties = self.world, self._invariants, self._duties
        world.cluster.clock = self.engine.clock
        world.wires = Wires(
            self.engine,
            self.trouble,
            looked=judge.note_pods,
            sprung=self._sprung,
            taken=judge.judge_taking,
        )
        world.traffic.judges = [judge.judge_route, duties.judge_route, self._scaled.judge_route]
        world.journal.checks = [judge.wrote, duties.wrote]
        stage.set(self.engine, world)

    def _prepare(self) -> None:
        world, asked, engine = self.world, self._asked, self.engine
        world.set_policy(**asked.policy)
        self._scaled.prepare()
        if asked.steps and asked.strategy == "canary":
            hold_s = asked.hold_timeout_s
            world.set_canary(*asked.steps, data_timeout_s=20.0, hold_timeout_s=hold_s)
            world.set_policy(ramp=replace(world.spec.policy.ramp, requests_min=_REQUESTS_MIN))
        world.cluster.gateway_looks_behind = asked.gateway_looks_behind
        world.cluster.looks_until_ready = asked.looks_until_ready
        world.benchmark_s = asked.benchmark_s
        _spoil(world, asked.bad)
        world.model.invalid_tables = asked.invalid_tables
        if asked.streams:
            world.cluster.streams = {slot: list(asked.streams) for slot in Slot}
        engine.passing.append(self._invariants.pass_time)
        for one in asked.asked:
            arguments = (one.version,) if one.version else ()
            body = partial(FLOWS[one.what], *arguments)
            name = f"{one.what} {one.version}".strip()
            engine.at(one.at_s, partial(self._start, name, body))
        for at_s, slot, what in asked.pods:
            engine.at(at_s, partial(self._pods, Slot(slot), what))
        for at_s in asked.approvals_s:
            engine.at(at_s, self._approve)
        engine.at(_CALM_S, self._calm)
        engine.at(asked.watched_from_s, self._watch)

    def _start(self, name: str, body: Callable[[], Any]) -> None:
        process = self.engine.start(name, body)
        self._running.append(process)
        self._started.append(process)

    def _pods(self, slot: Slot, what: str) -> None:
        self.engine.say(f"** pods of slot {slot}: {what}")
        self._invariants.note_pods()
        self.world.pods(slot, what)
        self._invariants.note_pods()

    def _calm(self) -> None:
        for slot in Slot:
            self._pods(slot, "come back")

    def _sprung(self) -> None:
        if self._asked.dies_then:
            slot, soon_s = Slot(self._asked.dies_then), self.engine.rng.uniform(0, 3)
            dead_s = max(_CALM_S, self.engine.now_s + 30.0)
            self.engine.at(self.engine.now_s + soon_s, partial(self._pods, slot, "break"))
            self.engine.at(dead_s, partial(self._pods, slot, "come back"))

    def _approve(self) -> None:
        for step in self._asked.steps:
            if step.approval:
                body = partial(approve_step, SERVICE, step.weight_percent)
                self._start("approve", body)

    def _watch(self) -> None:
        self._watcher = self.engine.start("watcher", self._watch_on)

    def _watch_on(self) -> None:
        watcher = Watcher(start=self._reconcile, report=self.engine.say)
        ports = connected(SERVICE)
        while True:
            watcher.look([ports])
            self.engine.wait(_LOOK_EVERY_S)

    def _reconcile(self, service: str, key: str) -> None:
        start = partial(self._start, "reconcile", FLOWS["reconcile"])
        self.engine.at(self.engine.now_s + _RECONCILE_STARTS_S, start)

    def _after_step(self) -> None:
        self._invariants.after_step()
        if self._watcher is not None and self._watcher.ended:
            self._watch()  # a Deployment starts it again

    def _at_rest(self) -> bool:
        while self._running:  # asked before every step: one look is nearly always enough
            if not self._running[-1].ended:
                return False
            self._running.pop()
        return self.engine.now_s > self._last_asked_s and self._invariants.at_rest()

    def result(self) -> Result:
        broken = ""
        try:
            self.engine.run(until=self._at_rest, limit_s=_LIMIT_S)
            self._invariants.require_tidy()
            self._duties.require_done(self._started)
        except AssertionError as error:
            broken = str(error)
        # A bug of the tasks may be any error at all: it belongs to its seed.
        except Exception as error:  # noqa: BLE001
            broken = f"{type(error).__name__}: {error}"
        self.engine.say(broken or "all promises were kept")
        lines = tuple(self.engine.lines)
        self.engine.close()
        stored = self.world.cluster.records.get(SERVICE)
        return Result(
            seed=self._seed,
            broken=broken,
            ended=str(self.world.record.phase) if stored else "",
            virtual_s=self.engine.now_s,
            steps=self.engine.steps,
            faults=self._faults - self.trouble.left,
            trace=lines,
        )


def _spoil(world: SharedWorld, bad: str) -> None:
    if bad == "answers":
        world.model.answer = "nonsense"
    elif bad == "slow":
        world.model.ttft_ms = 9000.0
    elif bad == "users":
        world.gateway.fails_every[Slot.GREEN] = 2


@cache
def _released(stage: Stage, load: Load) -> FrozenWorld:
    """Return the world after a first release, version 1 in slot blue.

    Args:
        load: with the changes left out, which come later.
    """
    world = SharedWorld()
    if load.scaled.before:
        world.set_autoscaling(load.kind)
    engine = Engine(random.Random(0), after_step=lambda: None)
    clock = world.cluster.clock
    stage.set(engine, world)
    world.cluster.clock = engine.clock
    world.wires = Wires(engine, Trouble(rate=0, left=0, until_s=0), looked=lambda: None)
    process = engine.start("release 1", partial(FLOWS["release"], "1"))
    engine.run(until=lambda: process.ended, limit_s=_LIMIT_S)
    if process.error is not None:
        raise process.error
    world.wires, world.cluster.clock = None, clock
    stage.keep_records()
    world.journal.next_process()
    world.cluster.rows.clear()  # nobody looks back at the first release's users
    if load.scaled.before:
        first_autoscaled(world)
    return world.frozen()
