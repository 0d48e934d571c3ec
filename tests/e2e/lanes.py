"""Run the end-to-end tests in lanes: three side by side on one sandbox, then those that disturb it.

The tests wait more than they compute. In each lane the order is that of the files, so that a
failure can be repeated: `python -m pytest -p no:randomly FILES`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.conftest import ATTACHED, PROJECT, fresh_sandbox

LOGS = PROJECT / "build"
FOLDER = Path("tests/e2e")
_OPTIONS = ("-q", "-p", "no:randomly", "--durations=10")
LANES = {
    # Take GPUs or quota of the namespace `serving`.
    "releases": ("kubernetes_is_real", "prefect_deployment", "release_faults"),
    # Release under users, in services of their own without GPUs.
    "crowds": ("release_circle", "release_under_load", "release_weights_pvc"),
    # Disturb the whole sandbox: nothing else beside them.
    "alone": ("faults_ports", "sandbox_lifecycle"),
    # Too long for `make test` yet: in `make soak`, one after the other.
    "soak": ("kills", "release_outages", "release_port_faults", "side_by_side"),
}
"""Every other file of the folder is in the lane `rest`: it uses namespaces of its own."""


def files_of(lane: str) -> tuple[str, ...]:
    """Return the test files of a lane, sorted."""
    if lane in LANES:
        return tuple(str(FOLDER / f"test_{name}.py") for name in LANES[lane])
    listed = {file for other in LANES for file in files_of(other)}
    found = sorted(FOLDER / path.name for path in (PROJECT / FOLDER).glob("test_*.py"))
    return tuple(str(path) for path in found if str(path) not in listed)


def start(lane: str) -> subprocess.Popen[bytes]:
    """Start the tests of a lane; their output goes to a file."""
    with _log(lane).open("wb") as log:
        return subprocess.Popen(
            (sys.executable, "-m", "pytest", *_OPTIONS, *files_of(lane)),
            cwd=PROJECT,
            env={**os.environ, ATTACHED: "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(lane: str, process: subprocess.Popen[bytes], began_s: float) -> int:
    """Wait for a lane, show what it printed, and return its exit code."""
    code = process.wait()
    took_s = time.monotonic() - began_s
    print(f"tests/e2e, {lane} ({took_s:.0f} s):\n{_log(lane).read_text()}", flush=True)
    return code


def main() -> int:
    """Run every lane; the highest exit code of any."""
    LOGS.mkdir(exist_ok=True)
    codes = []
    turns = [("releases", "crowds", "rest"), ("alone",)]
    if os.environ.get("SLIPWAY_SOAK"):
        turns.append(("soak",))
    with fresh_sandbox():
        for together in turns:
            began_s = time.monotonic()
            running = [(lane, start(lane)) for lane in together]
            try:
                codes += [finish(lane, process, began_s) for lane, process in running]
            finally:
                for _, process in running:
                    process.kill()
    return max(codes)


def _log(lane: str) -> Path:
    return LOGS / f"test-e2e-{lane}.log"


if __name__ == "__main__":
    sys.exit(main())
