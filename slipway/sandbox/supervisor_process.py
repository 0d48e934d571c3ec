"""Facts about processes from /proc, and the end of the ones a sandbox left behind.

A process belongs to a sandbox when its environment holds the marker (`home.MARKER_VARIABLE`), or
when it lives in the session of a part that the supervisor reported: some servers write their title
over the memory that `/proc/PID/environ` shows: the marker alone would miss them. Format: proc(5).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from slipway.core.errors import PermanentError
from slipway.sandbox.home import MARKER_VARIABLE, SandboxHome
from slipway.sandbox.supervisor_plan import RUNNING, PartState
from slipway.sandbox.supervisor_status import PartStatus, ProcessId, SandboxStatus, read_status

_PROC = Path("/proc")
_KILL_DEADLINE_S = 10.0
_KILL_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What `/proc/PID/stat` says of one process.

    Args:
        identity: number and start.
        state: one letter, for example `S` or `Z` (ended, not yet collected by its parent).
        parent: number of the parent process.
        session: number of its session's leader.
    """

    identity: ProcessId
    state: str
    parent: int
    session: int


def facts(pid: int) -> ProcessFacts | None:
    """Return the facts of a process, None when there is none of that number."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in brackets and may itself hold blanks and brackets.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessFacts(
        identity=ProcessId(pid=pid, start_ticks=int(fields[19])),
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
    )


def identity(pid: int) -> ProcessId:
    """Return the identity of a process that was just started and not yet waited for."""
    found = facts(pid)
    return found.identity if found else ProcessId(pid=pid, start_ticks=0)


def is_alive(process: ProcessId) -> bool:
    """Return whether that very process runs (a zombie does not)."""
    found = facts(process.pid)
    return found is not None and found.identity == process and found.state not in "ZX"


def seen(status: SandboxStatus, *, supervised: bool) -> SandboxStatus:
    """Return a report corrected by a look at its processes, for what it does not know yet.

    Args:
        status: as the supervisor wrote it last.
        supervised: that supervisor lives, and starts again what ended.
    """
    parts = tuple(_seen_part(part, supervised=supervised) for part in status.parts)
    changed = supervised and any(part.state is PartState.RESTARTING for part in parts)
    settled = status.state in {"ready", "reduced"}
    return replace(status, parts=parts, state="recovering" if changed and settled else status.state)


def _seen_part(part: PartStatus, *, supervised: bool) -> PartStatus:
    if part.process is None or is_alive(part.process):
        return part
    if not supervised:
        if part.state is PartState.DOWN:
            return part
        return replace(part, state=PartState.EXITED, reason="ended while nobody watched")
    if part.state in RUNNING - {PartState.STOPPING}:
        return replace(part, state=PartState.RESTARTING, reason="ended just now")
    return part


def processes_of(home: SandboxHome) -> tuple[ProcessId, ...]:
    """Return the living processes of a sandbox, this process and its ancestors left out."""
    marker = f"{MARKER_VARIABLE}={home.root}".encode()
    status = read_status(home)
    leaders = (status.supervisor, *(part.process for part in status.parts)) if status else ()
    sessions = {leader.pid: leader for leader in leaders if leader}
    own = frozenset(_ancestors(os.getpid()))
    return tuple(
        found.identity
        for found in _all_processes()
        if found.identity.pid not in own
        and found.state not in "ZX"
        and (_has_marker(found.identity.pid, marker) or _in_session(found, sessions))
    )


def running_homes() -> tuple[SandboxHome, ...]:
    """Return this user's sandboxes that have processes, by the marker that these carry.

    An administrator sees everybody's processes; sandboxes of others are left out nevertheless.
    """
    marker = f"{MARKER_VARIABLE}=".encode()
    roots = {
        Path(os.fsdecode(entry.removeprefix(marker)))
        for found in _all_processes()
        for entry in _environment(found.identity.pid)
        if entry.startswith(marker)
    }
    mine = os.getuid()
    return tuple(
        SandboxHome(root) for root in sorted(roots) if root.is_dir() and root.stat().st_uid == mine
    )


def kill_processes_of(home: SandboxHome) -> int:
    """End every process of a sandbox with SIGKILL and wait until none is left.

    Returns:
        how many were killed.

    Raises:
        PermanentError: one survived, for example in an uninterruptible read.
    """
    killed: set[ProcessId] = set()
    deadline = time.monotonic() + _KILL_DEADLINE_S
    # Again until a look finds nothing: a process may start another while it is being killed.
    while left := processes_of(home):
        if time.monotonic() > deadline:
            numbers = ", ".join(str(process.pid) for process in left)
            raise PermanentError(
                f"processes of the sandbox {home.root} survive SIGKILL: {numbers}",
                code="process-left",
                hint="look at /proc/PID/stack; they wait inside the kernel and a reboot ends them",
            )
        for process in left:
            send(process, signal.SIGKILL)
        killed.update(left)
        time.sleep(_KILL_POLL_S)
    return len(killed)


def kill_below(home: SandboxHome, folder: Path) -> None:
    """End the sandbox's processes whose command line names a path below `folder`.

    Containers outlive their runtime; their keepers name the folder they keep, and die with them.
    Returns when a look finds none, or after 10 s: what survives SIGKILL waits inside the kernel.
    """
    marker = f"{MARKER_VARIABLE}={home.root}".encode()
    deadline = time.monotonic() + _KILL_DEADLINE_S
    while left := tuple(_running_below(folder, marker)):
        if time.monotonic() > deadline:
            return
        for process in left:
            send(process, signal.SIGKILL)
        time.sleep(_KILL_POLL_S)


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Signal exactly that process; return False when it is gone.

    A pidfd pins the process, so a number that was given to somebody else in between is never hit.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        found = facts(process.pid)
        if found is None or found.identity != process:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def memory_bytes(process: ProcessId) -> int | None:
    """Return the proportional set size of a process and its descendants, None when it is gone.

    Pages that processes share are divided among them, so the parts add up to the sandbox.
    """
    if not is_alive(process):
        return None
    children: dict[int, list[int]] = {}
    for found in _all_processes():
        children.setdefault(found.parent, []).append(found.identity.pid)
    total, pending = 0, [process.pid]
    while pending:
        pid = pending.pop()
        total += _pss_bytes(pid)
        pending.extend(children.get(pid, ()))
    return total


def _pss_bytes(pid: int) -> int:
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return 0


def _all_processes() -> Iterator[ProcessFacts]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (found := facts(int(entry.name))):
            yield found


def _running_below(folder: Path, marker: bytes) -> Iterator[ProcessId]:
    prefix = f"{folder}/".encode()
    for found in _all_processes():
        pid = found.identity.pid
        try:
            words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        named = any(word.startswith(prefix) for word in words)
        if named and found.state not in "ZX" and _has_marker(pid, marker):
            yield found.identity


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        found = facts(pid)
        pid = found.parent if found else 0


def _has_marker(pid: int, marker: bytes) -> bool:
    return marker in _environment(pid)


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def _in_session(found: ProcessFacts, sessions: dict[int, ProcessId]) -> bool:
    """Whether the process lives in a part's session: its leader is that part, or is gone.

    The kernel gives a number to nobody else while it still names a session. Younger than the part:
    guards against a number that was free in between.
    """
    leader = sessions.get(found.session)
    if leader is None or found.identity.start_ticks < leader.start_ticks:
        return False
    now = facts(leader.pid)
    return now is None or now.identity == leader
