"""What the sandbox costs: a warm start, idle CPU and memory, one release without bake time.

Prints each figure beside its goal. Run by `make bench`, on a machine that does nothing else; the
control plane must have been built before (`make demo` does it).
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from _sandbox import installed_service, slipway

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.supervisor_process import memory_bytes, processes_of
from slipway.sandbox.supervisor_status import read_status

IDLE_WATCH_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
GOALS = {
    "warm up, everything ready": "≤ 30 s",
    "idle CPU": "≤ 0.3 cores",
    "idle memory": "≤ 3 GB",
    "release of `simulated`, first (no bake)": "≤ 25 s",
    "release of `simulated`, second (no bake)": "≤ 25 s",
}


def main() -> None:
    """Measure on a sandbox of its own and print the table."""
    figures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="slipway-speed-") as name:
        home = SandboxHome(Path(name) / "home")
        environment = {**os.environ, "SLIPWAY_HOME": str(home.root)}
        try:
            _up(environment)  # the first one of a folder makes databases and keys
            slipway(environment, "sandbox", "down")
            figures["warm up, everything ready"] = f"{_up(environment):.1f} s"
            _parts(home)
            time.sleep(15)  # controllers settle
            cores, used_bytes = _idle(home)
            figures["idle CPU"] = f"{cores:.2f} cores"
            figures["idle memory"] = f"{used_bytes / 1e9:.2f} GB"
            for which, seconds in zip(
                ("first", "second"), _releases(home, Path(name)), strict=True
            ):
                figures[f"release of `simulated`, {which} (no bake)"] = f"{seconds:.1f} s"
        finally:
            slipway(environment, "sandbox", "down")
    print("| what | measured | goal |\n|---|---|---|")
    for what, figure in figures.items():
        print(f"| {what} | {figure} | {GOALS[what]} |")


def _up(environment: dict[str, str]) -> float:
    began_s = time.monotonic()
    slipway(environment, "sandbox", "up")
    return time.monotonic() - began_s


def _parts(home: SandboxHome) -> None:
    status = read_status(home)
    assert status is not None
    print("part: started after s, ready after s")
    for part in sorted(status.parts, key=lambda part: part.since_ns):
        started_s = (part.started_ns - status.since_ns) / 1e9
        print(f"  {part.name:20} {started_s:5.1f} {(part.since_ns - status.since_ns) / 1e9:5.1f}")


def _idle(home: SandboxHome) -> tuple[float, int]:
    before = _cpu_ticks(home)
    time.sleep(IDLE_WATCH_S)
    cores = (_cpu_ticks(home) - before) / TICKS_PER_S / IDLE_WATCH_S
    status = read_status(home)
    assert status is not None
    leaders = [status.supervisor, *(part.process for part in status.parts)]
    # The supervisor's descendants are the parts: its figure is the whole sandbox's.
    return cores, max(memory_bytes(leader) or 0 for leader in leaders if leader)


def _cpu_ticks(home: SandboxHome) -> int:
    total = 0
    for process in processes_of(home):
        try:
            text = Path(f"/proc/{process.pid}/stat").read_text()
        except FileNotFoundError:
            continue
        fields = text[text.rindex(")") + 2 :].split()
        total += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
    return total


def _releases(home: SandboxHome, folder: Path) -> list[float]:
    service, seconds = installed_service(home, folder, "simulated", bake_s=0), []
    for ttft_ms in (20, 21):
        number = service.register(ttft_ms=ttft_ms, gap_ms=5)
        began_s = time.monotonic()
        service.release(number)
        seconds.append(time.monotonic() - began_s)
    return seconds


if __name__ == "__main__":
    main()
