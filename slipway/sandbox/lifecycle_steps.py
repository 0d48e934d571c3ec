"""Runs the one-time steps of a start beside the parts, each as soon as what it needs is there."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slipway.core.errors import PermanentError, TransientError
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.supervisor_child import log_path
from slipway.sandbox.supervisor_client import running
from slipway.sandbox.supervisor_plan import PartState
from slipway.sandbox.supervisor_status import PartStatus, SandboxStatus

_POLL_S = 0.1
_REMIND_AFTER_S = 10.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do once the parts run: idempotent, since an interrupted start is repeated.

    Args:
        name: shown while it runs, for example `base images`; differs from the names of the parts.
        run: does it, its result is dropped; raises a SlipwayError when it cannot.
        needs: names of parts that must be ready and of steps that must be done before.
    """

    name: str
    run: Callable[[], object]
    needs: tuple[str, ...] = ()


@dataclass(slots=True)
class _Run:
    """The steps under way; a result is None or what the step raised."""

    results: queue.SimpleQueue[tuple[str, BaseException | None]] = field(
        default_factory=queue.SimpleQueue
    )
    begun: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)

    def begin(self, step: Step) -> None:
        self.begun.add(step.name)

        def work() -> None:
            try:
                step.run()
            except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
                self.results.put((step.name, error))
            else:
                self.results.put((step.name, None))

        # A daemon: when another step fails, the command ends without waiting for this one.
        threading.Thread(target=work, name=f"step-{step.name}", daemon=True).start()


def finish_start(home: SandboxHome, steps: Sequence[Step], progress: Progress) -> SandboxStatus:
    """Wait until all parts are ready and all steps are done.

    Args:
        home: a sandbox whose supervisor was launched.
        steps: what to do beside.
        progress: gets one line for every part and step that is through, and reminders of what is
            waited for.

    Raises:
        PermanentError: a part failed or exited, or the supervisor is gone; names it and its log.
        SlipwayError: as raised by a step.
    """
    run, seen = _Run(), set[str]()
    last_news_s = time.monotonic()
    while True:
        status = _healthy(home)
        ready = {part.name for part in status.parts if part.state is PartState.READY}
        down = {part.name for part in status.parts if part.state is PartState.DOWN}
        news = [f"{name} ready" for name in _new(status, ready - seen)]
        seen |= ready
        news += [f"{name} done" for name in _collect(run)]
        for line in news:
            progress(line)
        if len(run.done) == len(steps) and len(ready | down) == len(status.parts):
            return status
        for step in steps:
            if step.name not in run.begun and {*step.needs} <= ready | run.done:
                run.begin(step)
        now_s = time.monotonic()
        if news:
            last_news_s = now_s
        elif now_s - last_news_s > _REMIND_AFTER_S:
            last_news_s = now_s
            progress(f"waiting for {_waited_for(status, steps, run)}")
        time.sleep(_POLL_S)


def part_error(home: SandboxHome, part: PartStatus) -> PermanentError | TransientError:
    """Return the error that tells why a part does not run, with the end of its log.

    A part that ran out of time may make it on a quieter machine; one that ended by itself will not.
    """
    lines = "\n".join(f"    {line}" for line in part.last_lines) or "    (it wrote nothing)"
    message = f"part {part.name} {part.reason}"
    hint = f"`slipway sandbox logs {part.name}` ({log_path(home, part.name)}) ends with:\n{lines}"
    if part.timed_out:
        return TransientError(message, code="sandbox-part-not-ready", hint=hint)
    return PermanentError(message, code="sandbox-part-failed", hint=hint)


def _healthy(home: SandboxHome) -> SandboxStatus:
    status = running(home)
    if status is None or status.state in {"stopping", "stopped"}:
        raise PermanentError(
            f"the supervisor of {home.root} ended during the start",
            code="supervisor-ended",
            hint=f"read {home.logs / 'supervisor.log'}",
        )
    if status.broken:
        raise part_error(home, status.broken[0])
    return status


def _new(status: SandboxStatus, names: set[str]) -> list[str]:
    found = [part for part in status.parts if part.name in names]
    return [part.name for part in sorted(found, key=lambda part: part.since_ns)]


def _collect(run: _Run) -> list[str]:
    """Return the steps that came through since the last look; raise what one of them raised."""
    names: list[str] = []
    while True:
        try:
            name, error = run.results.get_nowait()
        except queue.Empty:
            return names
        if error is not None:
            raise error
        run.done.add(name)
        names.append(name)


def _waited_for(status: SandboxStatus, steps: Sequence[Step], run: _Run) -> str:
    coming = {PartState.STARTING, PartState.RESTARTING}
    parts = [part.name for part in status.parts if part.state in coming]
    return ", ".join(parts + [step.name for step in steps if step.name in run.begun - run.done])
