"""What a container uses: CPU time and memory of its processes, read from `/proc`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over the processes of one container that live now."""

    cpu_ns: int
    resident_bytes: int
    processes: int


def usage_of(init: int) -> Usage:
    """Return what process `init` and its descendants use; zeros when it has ended.

    Fields: `proc_pid_stat(5)`, utime + stime of it and of the children it waited for, and rss.
    """
    cpu_ns = resident_bytes = processes = 0
    waiting = [init]
    while waiting:
        pid = waiting.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        cpu_ns += sum(int(fields[index]) for index in range(11, 15)) * _TICK_NS
        resident_bytes += int(fields[21]) * _PAGE_BYTES
        processes += 1
        waiting += [int(child) for child in children]
    return Usage(cpu_ns, resident_bytes, processes)
