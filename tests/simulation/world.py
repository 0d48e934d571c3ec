"""The world of the flow tests, reached by many processes at once."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from slipway.bench.values import RequestTable
from slipway.bootstrap.releases import Ports
from slipway.core.routing import Route, Slot
from slipway.ports.models import ModelVersion
from slipway.settings import from_environment
from tests.fakes.cluster import FakeCluster, Fault
from tests.fakes.journal import Journal
from tests.fakes.stores import FakeRegistry
from tests.fakes.traffic import FakeTraffic
from tests.flow.model import FakeEndpoint, FakeModel
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
        self.judges: list[Judge] = []

    def _require_ready(self, route: Route) -> None:
        for judge in self.judges:
            judge(self._cluster.routes[route.service], route)


class KeptFiles(FakeRegistry):
    """A registry that writes each version's files once: no schedule changes them."""

    def __init__(self, like: FakeRegistry, journal: Journal) -> None:
        super().__init__(journal)
        vars(self).update(vars(like))

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Return a folder with the version's files, each checked when it was written."""
        kept = folder / version.version
        if kept not in _fetched:
            super().fetch(version, kept)
            _fetched.add(kept)
        self._journal.reach()
        return kept


_fetched: set[Path] = set()


class SharedWorld(World):
    """The world of `tests/flow`, whose ports are reached through wires."""

    def __init__(self) -> None:
        super().__init__()
        self.registry: FakeRegistry = KeptFiles(self.registry, self.journal)
        self.traffic: JudgedTraffic = JudgedTraffic(self.cluster)
        self.wires: Wires | None = None
        self.benchmark_s = 0.0

    def connect(self, service: str, settings: Any) -> Ports:
        """Stand in for `slipway.bootstrap.releases.connect`."""
        ports, wires = super()._connect(service, settings), self.wires
        if wires is None:
            return ports
        return Ports(
            settings=ports.settings,
            spec=ports.spec,
            preflight=wires.wire("preflight", ports.preflight),
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

    def _benchmark(self, *args: Any, **named: Any) -> RequestTable:
        if self.benchmark_s and self.wires is not None:
            self.cluster.clock.sleep(self.benchmark_s)
            self.wires.trouble.benchmarked_ns = self.cluster.clock.now_ns
        return super()._benchmark(*args, **named)

    def _endpoint(self, base_url: str, **_: Any) -> FakeEndpoint:
        ready = any(pod.ready and pod.address in base_url for pod in self.cluster.pods.values())
        return FakeEndpoint(self.model if ready else FakeModel(answer=""))

    def pods(self, slot: Slot, what: str) -> None:
        """Let something happen to the pods of a slot."""
        if what == "replaced":
            self.cluster.replace_pods(SERVICE, slot)
            return
        fault = Fault.NEVER_READY if what == "break" else Fault.NONE
        for pod in self.cluster.pods_of(SERVICE, slot):
            pod.fault = fault

    def frozen(self) -> FrozenWorld:
        """Return the world as it is now, for many to begin with."""
        return FrozenWorld(self)


@cache
def settings() -> Any:
    """Return the settings of the one installation."""
    return from_environment(World().environment)


class FrozenWorld:
    """A world as bytes: twenty times as fast to thaw as a deep copy is to make.

    Values that cannot change are shared by all who thaw it.
    """

    def __init__(self, world: SharedWorld) -> None:
        self._shared: list[object] = []
        written = io.BytesIO()
        _Freezer(written, self._shared).dump(world)
        self._bytes = written.getvalue()

    def thawed(self) -> SharedWorld:
        """Return a world of one's own."""
        world: SharedWorld = _Thawer(self._bytes, self._shared).load()
        return world


class _Freezer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: list[object]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._shared = shared

    def persistent_id(self, value: object) -> int | None:
        made_by = getattr(type(value), "__dataclass_params__", None)
        if made_by is None or not made_by.frozen:
            return None
        self._shared.append(value)
        return len(self._shared) - 1


class _Thawer(pickle.Unpickler):
    def __init__(self, frozen: bytes, shared: list[object]) -> None:
        super().__init__(io.BytesIO(frozen))
        self._shared = shared

    def persistent_load(self, number: int) -> object:
        return self._shared[number]
