"""What the lock keeper needs of the module `threading`, on the engine's virtual time."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.simulation.engine import Engine, Strand

_LONG_S = 1e6


class Threads:
    """Stands in for the module; `engine` says whose."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        def thread(*, target: Callable[[], Any], name: str, daemon: bool) -> SimThread:
            return SimThread(engine(), target)

        self.Thread = thread
        self.Event = lambda: SimEvent(engine())
        self.Lock = lambda: SimLock(engine())


class SimThread:
    def __init__(self, engine: Engine, target: Callable[[], Any]) -> None:
        self._engine, self._target = engine, target
        self._strand: Strand | None = None

    def start(self) -> None:
        self._strand = self._engine.start_thread(self._target)

    def join(self) -> None:
        strand = self._strand
        if strand is not None and not strand.thread.dead:
            self._engine.wait(_LONG_S, until=lambda: strand.thread.dead)


class SimEvent:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._set = False

    def set(self) -> None:
        self._set = True

    def wait(self, timeout: float) -> bool:
        if not self._set:
            self._engine.wait(timeout, until=lambda: self._set)
        return self._set


class SimLock:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held = False

    def __enter__(self) -> None:
        while self._held:
            self._engine.wait(_LONG_S, until=lambda: not self._held)
        self._held = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held = False
