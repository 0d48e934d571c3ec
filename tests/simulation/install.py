"""The real tasks and flows without Prefect, without waiting, in the schedule that runs now."""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import ModuleType
from typing import Any

import httpx
import pytest
from prefect import Task

import flows
import tasks
from flows.abort import abort
from flows.reconcile import reconcile
from flows.release import release
from flows.rollback import rollback
from slipway.core.errors import TransientError
from slipway.core.release.record import ReleaseRecord
from tasks.lock import LockKeeper
from tasks.progress import Progress
from tests.flow.world import SERVICE
from tests.simulation.engine import Engine
from tests.simulation.threads import Threads
from tests.simulation.world import SharedWorld, settings

FLOWS: dict[str, Callable[..., Any]] = {
    "release": partial(release.fn, SERVICE),
    "rollback": partial(rollback.fn, SERVICE),
    "abort": partial(abort.fn, SERVICE),
    "reconcile": partial(reconcile.fn, SERVICE, here=True),
}
"""What a person, or the watcher, can start."""


class Stage:
    """Where the tasks find themselves: the engine and the world of the schedule that runs now."""

    def __init__(self) -> None:
        self._set: tuple[Engine, SharedWorld] | None = None
        self._numbers = 0
        self._records: dict[str, ReleaseRecord] = {}
        self._common: dict[str, ReleaseRecord] = {}

    def set(self, engine: Engine, world: SharedWorld) -> None:
        """Begin a schedule."""
        self._set = engine, world
        self._numbers = 0
        self._records = dict(self._common)

    def keep_records(self) -> None:
        """Let every later schedule know the records of this one, as it begins with its world."""
        self._common = dict(self._records)

    def to_storage(self, record: ReleaseRecord) -> str:
        """Stand in for the record's JSON, which takes a millisecond and has tests of its own."""
        text = f"record {len(self._records)}"
        self._records[text] = record
        return text

    def from_storage(self, text: str) -> ReleaseRecord:
        """Return the record that a text stands for."""
        return self._records[text]

    @property
    def engine(self) -> Engine:
        """The engine that runs now."""
        return self._now()[0]

    @property
    def world(self) -> SharedWorld:
        """The world of the engine that runs now."""
        return self._now()[1]

    def _now(self) -> tuple[Engine, SharedWorld]:
        if self._set is None:
            raise RuntimeError("no schedule runs")
        return self._set

    def token_hex(self, count: int) -> str:
        """Stand in for `secrets.token_hex`: unique, and the same for the same seed."""
        self._numbers += 1
        drawn = self.engine.rng.getrandbits(16)
        return f"{drawn:04x}{self._numbers:0{2 * count - 4}x}"

    # The module `time`, as far as the tasks use it.

    def sleep(self, seconds: float) -> None:
        """Wait, while others run."""
        self.engine.clock.sleep(seconds)

    def monotonic(self) -> float:
        """Return seconds that never step."""
        return self.engine.clock.monotonic()

    def time_ns(self) -> int:
        """Return Unix nanoseconds."""
        return self.engine.clock.time_ns()


@contextmanager
def installed(stage: Stage) -> Iterator[None]:
    """Let every task and flow of this process run on `stage`."""
    with (
        tempfile.TemporaryDirectory(prefix="slipway-simulation-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("model", "image"):
            patch.setattr(f"tasks.{name}.tempfile", _Folders(folder))
        modules = [*_modules(tasks), *_modules(flows)]
        for module in modules:
            _strip(patch, module, stage)
        patch.setattr("flows.reconcile.release", release.fn)
        patch.setattr("flows.reconcile.rollback", rollback.fn)
        threads = Threads(lambda: stage.engine)
        patch.setattr("tasks.lock.threading", threads)
        patch.setattr("tasks.model.threading", threads)
        clock = {"monotonic": stage.monotonic, "sleep": stage.sleep}
        defaults = {**(LockKeeper.__init__.__kwdefaults__ or {}), **clock}
        patch.setattr(LockKeeper.__init__, "__kwdefaults__", defaults)
        _stand_in(patch, stage)
        yield


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def _strip(patch: pytest.MonkeyPatch, module: ModuleType, stage: Stage) -> None:
    for name, item in list(vars(module).items()):
        if isinstance(item, Task):
            patch.setattr(module, name, _plain(item, stage))
        elif isinstance(item, ModuleType) and item.__name__ in {"time", "secrets"}:
            patch.setattr(module, name, stage)


def _plain(item: Task[..., Any], stage: Stage) -> Callable[..., Any]:
    """Return a task's body, repeated after a TransientError as Prefect repeats it."""
    body, delays = item.fn, item.retry_delay_seconds
    pauses = delays if isinstance(delays, list) else [float(delays or 0)] * item.retries

    @wraps(body)
    def run(*args: Any, **named: Any) -> Any:
        for pause_s in pauses:
            try:
                return body(*args, **named)
            except TransientError as error:
                stage.engine.say(f"{item.name}: {error.message}: again in {pause_s:g} s")
                stage.sleep(pause_s)
        return body(*args, **named)

    return run


def _stand_in(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    for module in ("tests.fakes.releases", "tests.flow.world", "tasks.reporting"):
        patch.setattr(f"{module}.from_storage", stage.from_storage)
    for module in ("tests.fakes.releases", "tasks.reporting"):
        patch.setattr(f"{module}.to_storage", stage.to_storage)
    patch.setattr("tasks.session.current_settings", settings)
    patch.setattr("tasks.session.connect", _late(stage, "connect"))
    patch.setattr("tasks.traffic.httpx", _Gateway(stage))
    patch.setattr("tasks.model.HttpChatEndpoint", _late(stage, "_endpoint"))
    patch.setattr("tasks.model.preload", lambda: None)
    patch.setattr("tasks.benchmark.run", _late(stage, "_benchmark"))
    patch.setattr("tasks.warm_up.run", _late(stage, "_ask_a_pod"))
    patch.setattr("tasks.benchmark.validate", _late(stage, "_validate"))
    patch.setattr("tasks.benchmark.to_parquet", lambda table: repr(len(table.rows)).encode())
    patch.setattr("tasks.benchmark.markdown", lambda *_, **__: "")
    patch.setattr("tasks.reporting.create_markdown_artifact", lambda **_: None)
    patch.setattr("tasks.reporting.release_markdown", lambda *_, **__: "")
    patch.setattr("flows.reconcile.mark_dead_runs", lambda: "none")
    patch.setattr("tasks.reconcile.why_not_again", lambda _record: "")

    def write(progress: Progress, mark: str, at: str, text: str) -> None:
        stage.engine.say(f"{mark} {at}: {text}")

    patch.setattr(Progress, "_write", write)


def _late(stage: Stage, name: str) -> Callable[..., Any]:
    """Return a method of whatever world the stage holds when it is called."""

    def call(*args: Any, **named: Any) -> Any:
        return getattr(stage.world, name)(*args, **named)

    return call


class _Folders:
    """The module `tempfile`: one folder for all, as nobody else runs while its files are read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @contextmanager
    def TemporaryDirectory(self, *, prefix: str) -> Iterator[str]:  # noqa: N802 (tempfile's name)
        yield self._folder


class _Gateway:
    """The module `httpx` as the smoke test uses it."""

    HTTPError = httpx.HTTPError

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def post(self, *args: Any, **named: Any) -> httpx.Response:
        return self._stage.world.gateway.post(*args, **named)
