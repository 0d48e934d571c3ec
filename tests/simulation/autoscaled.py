"""Services whose slots are scaled by their load: the controller, and what it must never do."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from slipway.core.release.record import ReleaseRecord
from slipway.core.release.scaling import replicas_for, within
from slipway.core.routing import Route, Slot
from slipway.core.service import AutoscalerKind
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT
from tests.flow.world import SERVICE
from tests.simulation.engine import Engine, SimulationError
from tests.simulation.world import SharedWorld

KINDS = frozenset({HPA, SCALED_OBJECT})
"""Of objects that scale a slot."""

_LOOK_NS = 5_000_000_000
"""How old a look may be when it is acted upon."""

USERS_NEED = 4
"""Pods that all users need when a schedule begins."""


class Scaled(StrEnum):
    """Who decides how many pods a slot has: in the release before, and in those of a schedule."""

    NEVER = "the service file, always"
    ALWAYS = "an autoscaler, always"
    FROM_NOW = "an autoscaler, from now on"
    NO_MORE = "the service file, from now on"

    @property
    def before(self) -> bool:
        """Whether an autoscaler decided before."""
        return self in {Scaled.ALWAYS, Scaled.NO_MORE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a schedule's users need.

    Args:
        kind: of the autoscalers.
        changes: when all users need how many pods.
    """

    scaled: Scaled = Scaled.NEVER
    kind: AutoscalerKind = AutoscalerKind.HPA
    changes: tuple[tuple[float, int], ...] = ()

    @property
    def least(self) -> int:
        """Pods that all users need at any time, 1 at least."""
        return min((USERS_NEED, *(need for _, need in self.changes)))


FIXED = Load()
"""The service file decides."""


def draw_load(rng: random.Random) -> Load:
    """Draw a load: four schedules of five know no autoscaler."""
    if rng.random() < 0.8:
        return FIXED
    scaled = rng.choice((Scaled.ALWAYS, Scaled.ALWAYS, Scaled.FROM_NOW, Scaled.NO_MORE))
    changes = [(rng.uniform(0, 40), rng.randint(1, 9)) for _ in range(rng.choice((0, 1, 2, 2)))]
    return Load(scaled=scaled, kind=rng.choice(list(AutoscalerKind)), changes=tuple(changes))


def first_autoscaled(world: SharedWorld) -> None:
    """Let the load scale what a first release has left."""
    for item in world.cluster.slot_deployments(SERVICE, Slot.BLUE):
        world.controller.load[item.name] = USERS_NEED
    world.controller.sync()


class Autoscaled:
    """The controller of a schedule, and the judge of what it does."""

    def __init__(self, engine: Engine, world: SharedWorld, load: Load) -> None:
        self._engine, self._world, self._load = engine, world, load
        self._asked: list[tuple[int, dict[Slot, int]]] = []
        self._at_rise = 0

    def prepare(self) -> None:
        """Set the service up as it is released in this schedule."""
        world, load = self._world, self._load
        world.controller.users_need = USERS_NEED
        if load.scaled is Scaled.NEVER:
            return
        if load.scaled is Scaled.NO_MORE:
            world.spec = replace(world.spec, autoscaling=None, replicas=USERS_NEED)
        else:
            world.set_autoscaling(load.kind)
        for at_s, need in load.changes:
            self._engine.at(at_s, partial(self._need, need))

    def _need(self, pods: int) -> None:
        self._engine.say(f"** all users need {pods} pods")
        self._world.controller.users_need = pods

    @property
    def pods_needed(self) -> int:
        """Pods without which all users cannot be on one slot."""
        settings = self._world.spec.autoscaling
        if settings is None or self._load.scaled is not Scaled.ALWAYS:
            return self._world.spec.replicas
        return within(settings, self._load.least)

    def judge_route(self, before: Route, route: Route) -> None:
        """Note what a slot had when users began to leave it: they may have to come back."""
        for slot in Slot:
            if 0 < before.percent(slot.other) > route.percent(slot.other) and route.names(slot):
                self._at_rise = self._least_asked(slot.other)

    def _least_asked(self, slot: Slot) -> int:
        """Return the least number of pods that a slot was to have within the last seconds."""
        since_ns = self._engine.clock.now_ns - _LOOK_NS
        least = self._world.replicas(slot)
        for until_ns, asked in self._asked:
            if until_ns >= since_ns:
                least = min(least, asked[slot])
        return least

    def act(self, record: ReleaseRecord | None) -> bool:
        """Scale each slot by its share of the users, and judge it; returns whether any was scaled.

        Args:
            record: as it stands.
        """
        controller, cluster = self._world.controller, self._world.cluster
        if not cluster.autoscalers:
            return False
        route, seen = cluster.gateway_routes[SERVICE], len(controller.scaled)
        names = {}
        for slot in Slot:
            for item in cluster.slot_deployments(SERVICE, slot):
                names[item.name] = slot
                share = replicas_for(route.percent(slot), controller.users_need)
                controller.load[item.name] = share
        asked = {slot: self._world.replicas(slot) for slot in Slot}
        controller.sync()
        if len(controller.scaled) > seen:
            self._asked.append((self._engine.clock.now_ns, asked))
        for name, before, after in controller.scaled[seen:]:
            self._engine.say(f"** {name} is scaled from {before} to {after}")
            self._judge(record, names[name], before, after)
        return len(controller.scaled) > seen

    def _judge(self, record: ReleaseRecord | None, slot: Slot, before: int, after: int) -> None:
        if before == 0:
            raise SimulationError(f"scaling: slot {slot} was emptied and grows to {after} again")
        if record is None or record.terminal or after > before:
            return
        share = self._world.cluster.routes[SERVICE].percent(record.candidate)
        if slot is record.stable and share > 0 and after < self._at_rise:
            raise SimulationError(f"scaling: slot {slot} shrinks, users may have to come back")
        if slot is record.candidate and after < replicas_for(share, self.pods_needed):
            raise SimulationError(f"R2: slot {slot} has {share} % of the users, {after} pods")

    def require_tidy(self, live: Slot) -> None:
        """Judge the world at rest: the slot that serves is scaled as the service file says."""
        self.act(None)
        spec, scaled, world = self._world.spec, self._load.scaled, self._world
        names = [item.name for item in world.cluster.slot_deployments(SERVICE, live)]
        every = world.autoscalers.find(spec.namespace, tuple(self._names()))
        left = [found.name for found in every if found.target not in names]
        if left:
            raise SimulationError(f"R7: {left} scale a slot that serves nobody")
        if scaled is Scaled.NEVER or (scaled is not Scaled.ALWAYS and live is Slot.BLUE):
            return  # or it serves as it did before
        settings = spec.autoscaling
        floors = [found.min_replicas for found in every]
        if floors != ([] if settings is None else [settings.min_replicas]):
            raise SimulationError(f"R7: the autoscalers of slot {live} keep {floors} pods")
        if settings is None:
            return
        due = within(settings, world.controller.users_need)
        if world.replicas(live) != due:
            raise SimulationError(f"scaling: {due} pods are due, there are {world.replicas(live)}")

    def _names(self) -> list[str]:
        return [item.name for item in self._world.cluster.deployments.values()]
