"""One child of the supervisor: its environment, its log, its start and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import PermanentError
from slipway.sandbox import slices
from slipway.sandbox.home import MARKER_VARIABLE, SandboxHome
from slipway.sandbox.part import Part
from slipway.sandbox.supervisor_process import identity
from slipway.sandbox.supervisor_status import ProcessId

LARGEST_LOG_BYTES = 10_000_000
"""A log that is longer when its part starts is put aside as `NAME.log.1`."""

PACKAGES = Path(__file__).parents[2]
"""Folder that holds the package `slipway`: a checkout, or site-packages."""

_LAST_LINES = 20
_LAST_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class Child:
    """A started part.

    Args:
        part: what was started.
        process: the handle; only the thread that waits for its end touches it.
        identity: the process.
        log: where its output goes.
        log_offset_bytes: where the output of this start begins in the log.
    """

    part: Part
    process: subprocess.Popen[bytes]
    identity: ProcessId
    log: Path
    log_offset_bytes: int


def start(home: SandboxHome, part: Part) -> Child:
    """Start a part in a session of its own, its output appended to `logs/NAME.log`.

    Raises:
        PermanentError: the command cannot be executed.
    """
    log = log_path(home, part.name)
    _rotate(log)
    with log.open("ab") as output:
        offset_bytes = output.tell()
        try:
            process = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(home, part),
                cwd=home.data(part.name),
                start_new_session=True,
                pass_fds=slices.held(),
            )
        except OSError as error:
            raise PermanentError(
                f"part {part.name} cannot be started: {part.command[0]}: {error.strerror}",
                code="part-not-executable",
                hint="install the package that brings this program, or mend its part module",
            ) from error
    return Child(part, process, identity(process.pid), log, offset_bytes)


def environment(home: SandboxHome, part: Part) -> Mapping[str, str]:
    """Return the whole environment of a part: no proxy, no profile of the user leaks in."""
    programs = Path(sys.executable).parent
    return {
        "PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        # Nothing of a part reads or writes the dot files of the person who started the sandbox.
        "HOME": str(home.data(part.name)),
        # What one user's program leaves in /tmp, another's may not write to (Prefect: seen).
        "TMPDIR": str(home.temporary),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # A part that is a module of ours is this very version, installed or not.
        "PYTHONPATH": str(PACKAGES),
        **part.environment,
        MARKER_VARIABLE: str(home.root),
    }


def log_path(home: SandboxHome, name: str) -> Path:
    """Return the log file of a part."""
    return home.logs / f"{name}.log"


def last_lines(child: Child) -> tuple[str, ...]:
    """Return the last lines that this start of the part wrote."""
    with child.log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        begin = max(child.log_offset_bytes, end - _LAST_BYTES)
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    if begin > child.log_offset_bytes:
        lines = lines[1:]  # most likely only the end of a line
    return tuple(lines[-_LAST_LINES:])


def describe_exit(exit_code: int) -> str:
    """Say in words how a process ended; a negative code is the number of the signal."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def kill_group(child: Child) -> None:
    """Kill what is left of the part's process group.

    The group's number is given to nobody else while a member lives; without members this does
    nothing.
    """
    try:
        os.killpg(child.identity.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _rotate(log: Path) -> None:
    try:
        size_bytes = log.stat().st_size
    except FileNotFoundError:
        return
    if size_bytes > LARGEST_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
