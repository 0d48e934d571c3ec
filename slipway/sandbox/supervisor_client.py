"""Starting and stopping a supervisor from another process."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from slipway.core.errors import ConflictError, InputError, PermanentError, TransientError
from slipway.sandbox import slices
from slipway.sandbox.home import MARKER_VARIABLE, SandboxHome
from slipway.sandbox.nodes_down import nodes_down, write_nodes_down
from slipway.sandbox.supervisor import ALL_PARTS, NODES_CHANGED
from slipway.sandbox.supervisor_child import PACKAGES
from slipway.sandbox.supervisor_plan import PartState
from slipway.sandbox.supervisor_process import is_alive, kill_processes_of, send
from slipway.sandbox.supervisor_status import SandboxStatus, read_status, status_path

_POLL_S = 0.05
_START_DEADLINE_S = 20.0
_STOP_DEADLINE_S = 60.0
_NODE_DEADLINE_S = 90.0


def running(home: SandboxHome) -> SandboxStatus | None:
    """Return the report of `home`'s supervisor if that supervisor lives, else None."""
    status = read_status(home)
    return status if status and is_alive(status.supervisor) else None


def launch(home: SandboxHome, *, parts: str = ALL_PARTS) -> SandboxStatus:
    """Start a supervisor in the background and return its first report.

    It inherits the slices of addresses that this process holds.

    Args:
        home: the sandbox's folder, created.
        parts: `MODULE:FUNCTION` of (home) → parts, imported by the supervisor.

    Raises:
        ConflictError: a supervisor of this folder runs already.
        PermanentError: the supervisor could not start.
    """
    if running(home) is None:  # else this start is refused, and the report must stay
        status_path(home).unlink(missing_ok=True)
    answer = subprocess.run(
        (
            *(sys.executable, "-m", "slipway.sandbox.supervisor", "--home", str(home.root)),
            *("--parts", parts),
        ),
        pass_fds=slices.held(),
        env={**os.environ, MARKER_VARIABLE: str(home.root), "PYTHONPATH": str(PACKAGES)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise _refusal(answer)
    deadline_s = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < deadline_s:
        status = running(home)
        if status:
            return status
        time.sleep(_POLL_S)
    raise PermanentError(
        f"the supervisor of {home.root} did not report",
        code="supervisor-silent",
        hint=f"read {home.logs / 'supervisor.log'}",
    )


def stop(home: SandboxHome) -> int:
    """Stop the supervisor of `home` and its parts in order, then kill whatever is left.

    Returns:
        how many processes were left after the orderly stop, and killed.

    Raises:
        PermanentError: a process survives SIGKILL.
    """
    status = running(home)
    if status and send(status.supervisor, signal.SIGTERM):
        deadline_s = time.monotonic() + _STOP_DEADLINE_S
        while is_alive(status.supervisor) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
    killed = kill_processes_of(home)
    status_path(home).unlink(missing_ok=True)
    return killed


def kill_node(home: SandboxHome, node: str) -> None:
    """Take a node's power away: its parts and containers are killed, and stay down.

    Running twice equals once.

    Raises:
        InputError: no such node.
        TransientError: the sandbox does not run, or its supervisor did not obey in time.
    """
    _change_node(home, node, nodes_down(home) | {node}, PartState.DOWN)


def revive_node(home: SandboxHome, node: str) -> None:
    """Start a killed node again and wait until its parts are ready; running twice equals once.

    Raises:
        InputError: no such node.
        TransientError: the sandbox does not run, or the parts were not ready in time.
    """
    _change_node(home, node, nodes_down(home) - {node}, PartState.READY)


def _change_node(home: SandboxHome, node: str, down: frozenset[str], goal: PartState) -> None:
    status = running(home)
    if status is None:
        raise TransientError(
            f"the sandbox in {home.root} does not run",
            code="sandbox-not-running",
            hint="start it: slipway sandbox up",
        )
    nodes = sorted({part.node for part in status.parts} - {""})
    if node not in nodes:
        raise InputError(
            f"there is no node {node}", code="unknown-node", hint=f"nodes: {', '.join(nodes)}"
        )
    # The wish first: whatever dies from here on, the next supervisor finds it.
    write_nodes_down(home, down)
    send(status.supervisor, NODES_CHANGED)
    deadline_s = time.monotonic() + _NODE_DEADLINE_S
    while time.monotonic() < deadline_s:
        now = running(home)
        if now and all(part.state is goal for part in now.parts if part.node == node):
            return
        time.sleep(_POLL_S)
    raise TransientError(
        f"the parts of {node} are not {goal} after {_NODE_DEADLINE_S:g} s",
        code="node-not-changed",
        hint="slipway sandbox status says how far they are",
    )


@contextmanager
def only_one(home: SandboxHome) -> Iterator[None]:
    """Let one command at a time start, stop or delete the sandbox of `home`.

    Raises:
        ConflictError: another command is at it.
    """
    path = home.root / "command.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConflictError(
                f"another command ({file.read().strip() or 'just started'}) is starting or "
                f"stopping the sandbox in {home.root}",
                code="sandbox-busy",
                hint="wait for it; `slipway sandbox status` shows how far it is",
            ) from error
        _sign(file.fileno())
        yield
        with suppress(FileNotFoundError):  # `reset` deletes the folder
            file.truncate(0)


def _sign(lock: int) -> None:
    """Say in the lock file whose it is. Only for a message: a full disk must not stop `down`."""
    os.ftruncate(lock, 0)
    with suppress(OSError):
        os.write(lock, f"pid {os.getpid()}".encode())


def _refusal(answer: subprocess.CompletedProcess[str]) -> ConflictError | PermanentError:
    text = answer.stderr.strip() or f"exit code {answer.returncode}"
    message, _, hint = text.partition("\n  → ")
    if "[sandbox-already-running]" in message:
        return ConflictError(
            message.removesuffix(" [sandbox-already-running]"),
            code="sandbox-already-running",
            hint=hint,
        )
    return PermanentError(
        f"the supervisor could not start: {message.splitlines()[-1]}",
        code="supervisor-not-started",
        hint=hint or f"its whole output:\n{text}",
    )
