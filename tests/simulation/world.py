"""The world of the flow tests, reached by many processes at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from typing import Any

from slipway.bootstrap import Ports
from slipway.core.routing import Route, Slot
from slipway.settings import from_environment
from tests.fakes.cluster import FakeCluster, Fault
from tests.fakes.traffic import FakeTraffic
from tests.flow.world import SERVICE, World
from tests.simulation.wires import Wires

Judge = Callable[[Route, Route], None]
"""Told of a route before it is written: the one that stands, the one that comes."""


class JudgedTraffic(FakeTraffic):
    """Routes that the invariants judge, instead of the fake's own rule.

    The fake's rule knows what the pods do at the very moment; who writes knows what they did when
    it looked.
    """

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__(cluster)
        self.judge: Judge | None = None

    def _require_ready(self, route: Route) -> None:
        if self.judge is not None:
            self.judge(self._cluster.routes[route.service], route)


class SharedWorld(World):
    """The world of `tests/flow`, whose ports are reached through wires."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic: JudgedTraffic = JudgedTraffic(self.cluster)
        self.wires: Wires | None = None

    def connect(self, service: str, settings: Any) -> Ports:
        """Stand in for `slipway.bootstrap.connect`."""
        ports, wires = super()._connect(service, settings), self.wires
        if wires is None:
            return ports
        return Ports(
            settings=ports.settings,
            spec=ports.spec,
            releases=wires.wire("releases", ports.releases),
            orders=wires.wire("orders", ports.orders),
            workloads=wires.wire("workloads", ports.workloads),
            autoscalers=wires.wire("autoscalers", ports.autoscalers),
            traffic=wires.wire("traffic", ports.traffic),
            metrics=wires.wire("metrics", ports.metrics),
            registry=wires.wire("registry", ports.registry),
            images=wires.wire("images", ports.images),
            objects=wires.wire("objects", ports.objects),
        )

    def pods(self, slot: Slot, what: str) -> None:
        """Let something happen to the pods of a slot."""
        if what == "replaced":
            self.cluster.replace_pods(SERVICE, slot)
            return
        fault = Fault.NEVER_READY if what == "break" else Fault.NONE
        for pod in self.cluster.pods_of(SERVICE, slot):
            pod.fault = fault

    def frozen(self) -> bytes:
        """Return the world as bytes: ten times as fast to thaw as a deep copy is to make."""
        return pickle.dumps(self)


@cache
def settings() -> Any:
    """Return the settings of the one installation."""
    return from_environment(World().environment)


def thawed(frozen: bytes) -> SharedWorld:
    """Return a world of one's own from what `frozen` gave."""
    world: SharedWorld = pickle.loads(frozen)
    return world
