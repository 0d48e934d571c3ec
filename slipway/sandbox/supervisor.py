"""The sandbox's supervisor: starts the parts, watches them, reports, and stops them in order.

    python -m slipway.sandbox.supervisor --home FOLDER

puts itself into the background once it owns its folder: its exit code says whether it did. What it
holds of the machine, the slices of its nodes' addresses, it inherits and passes on to its parts.
One thread decides (`supervisor_plan`); a thread per child waits for its end and a short-lived one
per starting part asks its ready probe every 100 ms. Everything else blocks: an idle supervisor uses
no CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import ConflictError, PermanentError, SlipwayError
from slipway.sandbox import supervisor_child as children
from slipway.sandbox.home import MARKER_VARIABLE, SandboxHome
from slipway.sandbox.nodes_down import nodes_down
from slipway.sandbox.part import Part
from slipway.sandbox.supervisor_child import Child
from slipway.sandbox.supervisor_lock import own_folder
from slipway.sandbox.supervisor_plan import (
    Actions,
    Life,
    PartState,
    after_end,
    became_ready,
    check_parts,
    is_over,
    next_actions,
    overall,
    waits_for,
)
from slipway.sandbox.supervisor_process import identity, kill_below, send
from slipway.sandbox.supervisor_ready import forget_old, probe
from slipway.sandbox.supervisor_status import (
    PartStatus,
    ProcessId,
    SandboxStatus,
    boot_id,
    write_status,
)

ALL_PARTS = "slipway.sandbox.lifecycle:all_parts"

NODES_CHANGED = signal.SIGHUP
"""Tells the supervisor that `nodes_down` is to be read again."""

_PROBE_INTERVAL_S = 0.1
_ALREADY_RUNNING_EXIT = 5


@dataclass(frozen=True, slots=True)
class _Ended:
    process: ProcessId
    name: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class _Probed:
    process: ProcessId
    name: str
    in_time: bool


@dataclass(frozen=True, slots=True)
class _StopAsked:
    pass


@dataclass(frozen=True, slots=True)
class _NodesChanged:
    pass


_Event = _Ended | _Probed | _StopAsked | _NodesChanged


class Supervisor:
    """Runs a set of parts until it is asked to stop.

    Args:
        home: the sandbox's folder, created.
        parts: what to run.

    Raises:
        InputError: the parts contradict each other.
    """

    def __init__(self, home: SandboxHome, parts: Sequence[Part]) -> None:
        check_parts(parts)
        now_ns = time.time_ns()
        self._home = home
        self._parts = tuple(parts)
        self._status = {
            part.name: PartStatus(
                name=part.name,
                state=PartState.WAITING,
                since_ns=now_ns,
                addresses=dict(part.addresses),
                node=part.node,
            )
            for part in parts
        }
        self._lives = {part.name: Life() for part in parts}
        self._children: dict[str, Child] = {}
        self._kill_at_s: dict[str, float] = {}
        self._wake_at_s: float | None = None
        self._held = self._parts_down()
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._stopping = False
        self._since_ns = now_ns
        self._self = identity(os.getpid())

    def ask_to_stop(self) -> None:
        """Stop all parts in order; `run` then returns. Safe in any thread."""
        self._events.put(_StopAsked())

    def look_at_nodes(self) -> None:
        """Read again which nodes are held down. Safe in any thread."""
        self._events.put(_NodesChanged())

    def run(self) -> None:
        """Run the parts until `ask_to_stop`; returns when every process has ended."""
        while True:
            self._act()
            self._report()
            if self._stopping and is_over(self._lives):
                return
            self._observe()

    def _parts_down(self) -> frozenset[str]:
        nodes = nodes_down(self._home)
        return frozenset(part.name for part in self._parts if part.node and part.node in nodes)

    def _act(self) -> None:
        # A part that cannot be executed changes the states, so decide until nothing is left to do.
        while True:
            actions = next_actions(
                self._parts,
                self._lives,
                now_s=time.monotonic(),
                stopping=self._stopping,
                held=self._held,
            )
            self._wake_at_s = actions.wake_at_s
            if not actions.any:
                return
            self._carry_out(actions)

    def _carry_out(self, actions: Actions) -> None:
        for name in actions.start:
            self._start(self._part(name))
        for name in actions.stop:
            self._stop(name)
        for name in actions.kill:
            self._turn(name, dataclasses.replace(self._lives[name], state=PartState.STOPPING))
            children.kill_group(self._children[name])
        for name, state in actions.settle:
            self._turn(name, Life(state=state, restarts=self._lives[name].restarts))

    def _part(self, name: str) -> Part:
        return next(part for part in self._parts if part.name == name)

    def _observe(self) -> None:
        """Wait for an event, the next kill or the next restart, then take all that has come."""
        timeout_s = None
        times_s = [*self._kill_at_s.values(), *([self._wake_at_s] if self._wake_at_s else [])]
        if times_s:
            timeout_s = max(0.0, min(times_s) - time.monotonic())
        try:
            event = self._events.get(timeout=timeout_s)
            while True:
                self._apply(event)
                event = self._events.get_nowait()
        except queue.Empty:
            self._kill_overdue()

    def _apply(self, event: _Event) -> None:
        match event:
            case _StopAsked():
                self._stopping = True
            case _NodesChanged():
                self._held = self._parts_down()
            case _Ended(process, name, exit_code) if self._is_current(name, process):
                self._ended(self._status[name], exit_code)
            case _Probed(process, name, in_time) if self._is_current(name, process):
                self._probed(self._status[name], in_time=in_time)
            case _:
                pass  # news of a process that has been replaced

    def _is_current(self, name: str, process: ProcessId) -> bool:
        return self._status[name].process == process

    def _start(self, part: Part) -> None:
        forget_old(part.ready)
        life = dataclasses.replace(self._lives[part.name], state=PartState.STARTING)
        try:
            child = children.start(self._home, part)
        except PermanentError as error:
            self._fell(part, life, reason=error.message)
            return
        self._children[part.name] = child
        self._turn(part.name, life)
        self._status[part.name] = dataclasses.replace(
            self._status[part.name],
            process=child.identity,
            started_ns=time.time_ns(),
            timed_out=False,
        )
        self._thread(f"wait-{part.name}", lambda: self._wait(child))
        self._thread(f"probe-{part.name}", lambda: self._probe(child))

    def _stop(self, name: str) -> None:
        child = self._children[name]
        self._turn(name, dataclasses.replace(self._lives[name], state=PartState.STOPPING))
        self._kill_at_s[name] = time.monotonic() + child.part.stop_grace_s
        send(child.identity, child.part.stop_signal)

    def _kill_overdue(self) -> None:
        now_s = time.monotonic()
        for name in [name for name, at_s in self._kill_at_s.items() if at_s <= now_s]:
            del self._kill_at_s[name]
            children.kill_group(self._children[name])

    def _ended(self, status: PartStatus, exit_code: int) -> None:
        child, life = self._children[status.name], self._lives[status.name]
        # Children of its own that it left in its group would hold its ports and its files.
        children.kill_group(child)
        self._kill_at_s.pop(status.name, None)
        reason = children.describe_exit(exit_code)
        if life.state is PartState.STARTING:
            reason = status.reason if status.timed_out else f"{reason} before it was ready"
        self._fell(child.part, life, exit_code=exit_code, reason=reason)

    def _fell(self, part: Part, life: Life, *, reason: str, exit_code: int | None = None) -> None:
        """Decide what becomes of a part that has no process any more."""
        killed = exit_code is not None and exit_code < 0
        now = after_end(
            life,
            part.restart,
            now_s=time.monotonic(),
            by_signal=killed and not self._status[part.name].timed_out,
            stopping=self._stopping,
            held=part.name in self._held,
        )
        asked = now.state in {PartState.STOPPED, PartState.DOWN, PartState.WAITING}
        self._turn(part.name, now, exit_code=exit_code, reason="" if asked else reason)
        if now.state is not PartState.STOPPED:
            # On its standard output, `logs/supervisor.log`: the status keeps the last end only.
            sys.stdout.write(f"{part.name} {reason}: {now.state}\n")
            sys.stdout.flush()

    def _probed(self, status: PartStatus, *, in_time: bool) -> None:
        life = self._lives[status.name]
        if life.state is not PartState.STARTING:
            return
        if in_time:
            self._turn(status.name, became_ready(life, time.monotonic()))
            return
        child = self._children[status.name]
        self._status[status.name] = dataclasses.replace(
            status, reason=f"was not ready after {child.part.start_timeout_s:g} s", timed_out=True
        )
        children.kill_group(child)

    def _turn(
        self, name: str, life: Life, *, exit_code: int | None = None, reason: str = ""
    ) -> None:
        """Give a part its new life, and say so in its status."""
        before, self._lives[name] = self._status[name], life
        ended = life.state in {PartState.FAILED, PartState.RESTARTING}
        self._status[name] = dataclasses.replace(
            before,
            state=life.state,
            since_ns=before.since_ns if before.state is life.state else time.time_ns(),
            exit_code=exit_code,
            reason=reason,
            restarts=life.restarts,
            last_lines=self._last_lines(name) if ended else (),
        )
        keeps = self._part(name).keeps
        if life.state is PartState.DOWN and keeps is not None:
            kill_below(self._home, keeps)

    def _last_lines(self, name: str) -> tuple[str, ...]:
        return children.last_lines(self._children[name]) if name in self._children else ()

    def _report(self) -> None:
        parts = tuple(
            dataclasses.replace(self._status[part.name], waits_for=waits_for(part, self._lives))
            for part in self._parts
        )
        status = SandboxStatus(
            state=overall(self._lives, stopping=self._stopping),
            supervisor=self._self,
            boot_id=boot_id(),
            since_ns=self._since_ns,
            parts=parts,
        )
        write_status(self._home, status)

    def _wait(self, child: Child) -> None:
        exit_code = child.process.wait()
        self._events.put(_Ended(child.identity, child.part.name, exit_code))

    def _probe(self, child: Child) -> None:
        passes = probe(child.part.ready)
        deadline_s = time.monotonic() + child.part.start_timeout_s
        while child.process.returncode is None:
            if passes():
                self._events.put(_Probed(child.identity, child.part.name, in_time=True))
                return
            if time.monotonic() > deadline_s:
                self._events.put(_Probed(child.identity, child.part.name, in_time=False))
                return
            time.sleep(_PROBE_INTERVAL_S)

    @staticmethod
    def _thread(name: str, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the supervisor as a program; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m slipway.sandbox.supervisor")
    parser.add_argument("--home", type=Path, required=True, help="the sandbox's folder")
    parser.add_argument("--parts", default=ALL_PARTS, help="MODULE:FUNCTION of (home) → parts")
    parser.add_argument("--foreground", action="store_true", help="stay attached to the terminal")
    options = parser.parse_args(arguments)
    home = SandboxHome(options.home.resolve())
    home.create()
    os.environ[MARKER_VARIABLE] = str(home.root)
    try:
        module, function = options.parts.split(":")
        parts = getattr(importlib.import_module(module), function)(home)
        check_parts(parts)
        lock = own_folder(home)
    except SlipwayError as error:
        sys.stderr.write(f"{error}\n")
        return _ALREADY_RUNNING_EXIT if isinstance(error, ConflictError) else 1
    with lock:
        if not options.foreground:
            _into_background(home)
        _supervise(home, parts)
    return 0


def _supervise(home: SandboxHome, parts: Sequence[Part]) -> None:
    supervisor = Supervisor(home, parts)
    asked = {
        signal.SIGTERM: supervisor.ask_to_stop,
        signal.SIGINT: supervisor.ask_to_stop,
        NODES_CHANGED: supervisor.look_at_nodes,
    }
    # Of two signals at once the kernel gives one to any thread, and a handler runs in the main one,
    # which sleeps on until something else wakes it. What C writes into a pipe is heard at once.
    heard, said = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(said, False)
    for number in asked:
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(said, warn_on_full_buffer=False)

    def listen() -> None:
        while True:
            for number in os.read(heard, len(asked)):
                asked[signal.Signals(number)]()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    supervisor.run()


def _into_background(home: SandboxHome) -> None:
    """Leave the starter's session and streams; the parent ends with code 0 at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    with (home.logs / "supervisor.log").open("ab") as log, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


if __name__ == "__main__":
    sys.exit(main())
