"""The supervisor's report, `run/status.json`: values, and their way to disk and back.

The file is volatile state: replaced atomically, so a reader sees a whole report, but not synced,
since nobody needs it after a crash of the machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.supervisor_plan import BROKEN, PartState

_SCHEMA_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same number.

    Args:
        pid: its number.
        start_ticks: field 22 of `/proc/PID/stat` (proc(5)): clock ticks from boot to its start.
    """

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """One part as the supervisor sees it.

    Args:
        name: of the part.
        state: where it is in its life.
        since_ns: when it came into this state, Unix time.
        process: the process of the last start, also after its end; None before the first.
        started_ns: when that process was started, Unix time; 0 before the first.
        exit_code: of the process; negative is the number of the signal; None while it runs.
        reason: why it ended, in words, as long as it is not back.
        last_lines: end of its log, for parts that ended and are not back.
        timed_out: it failed because it was not ready in time.
        addresses: label → URL.
        waits_for: parts that are not ready and that it needs.
        restarts: how often it was started again.
        node: the simulated machine it belongs to, "" for none.
    """

    name: str
    state: PartState
    since_ns: int
    process: ProcessId | None = None
    started_ns: int = 0
    exit_code: int | None = None
    reason: str = ""
    last_lines: tuple[str, ...] = ()
    timed_out: bool = False
    addresses: Mapping[str, str] = field(default_factory=dict)
    waits_for: tuple[str, ...] = ()
    restarts: int = 0
    node: str = ""

    @property
    def broken(self) -> bool:
        """Whether it was given up, or ended while nobody watched."""
        return self.state in BROKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStatus:
    """The whole sandbox as its supervisor last reported it.

    Args:
        state: one of the words of `supervisor_plan.overall`.
        supervisor: its process.
        boot_id: `/proc/sys/kernel/random/boot_id`: process numbers of another boot mean nothing.
        since_ns: when the supervisor started, Unix time.
        parts: in the order of the supervisor.
    """

    state: str
    supervisor: ProcessId
    boot_id: str
    since_ns: int
    parts: tuple[PartStatus, ...]

    @property
    def broken(self) -> tuple[PartStatus, ...]:
        """The parts that need a person."""
        return tuple(part for part in self.parts if part.broken)

    def part(self, name: str) -> PartStatus | None:
        """Return the part of that name, None when there is none."""
        return next((part for part in self.parts if part.name == name), None)


def status_path(home: SandboxHome) -> Path:
    """Return where the supervisor of `home` writes its report."""
    return home.run / "status.json"


def boot_id() -> str:
    """Return the identity of the running boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_status(home: SandboxHome, status: SandboxStatus) -> None:
    """Replace the report of `home` atomically."""
    path = status_path(home)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    document = {"schema_version": _SCHEMA_VERSION, **dataclasses.asdict(status)}
    draft.write_text(json.dumps(document, indent=1))
    draft.replace(path)


def read_status(home: SandboxHome) -> SandboxStatus | None:
    """Return the last report of `home`'s supervisor, dead or alive.

    Returns None when there is none, or when it was written by another boot or another version of
    this program: in both cases it says nothing about processes that run now.
    """
    try:
        document = json.loads(status_path(home).read_text())
    except FileNotFoundError:
        return None
    if document.get("schema_version") != _SCHEMA_VERSION or document["boot_id"] != boot_id():
        return None
    return SandboxStatus(
        state=document["state"],
        supervisor=ProcessId(**document["supervisor"]),
        boot_id=document["boot_id"],
        since_ns=document["since_ns"],
        parts=tuple(_part(part) for part in document["parts"]),
    )


def _part(document: Mapping[str, Any]) -> PartStatus:
    process = document["process"]
    return PartStatus(
        name=document["name"],
        state=PartState(document["state"]),
        since_ns=document["since_ns"],
        process=ProcessId(**process) if process else None,
        started_ns=document["started_ns"],
        exit_code=document["exit_code"],
        reason=document["reason"],
        last_lines=tuple(document["last_lines"]),
        timed_out=document["timed_out"],
        addresses=document["addresses"],
        waits_for=tuple(document["waits_for"]),
        restarts=document["restarts"],
        node=document["node"],
    )
