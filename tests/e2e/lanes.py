"""Run the end-to-end tests in lanes: three side by side on one sandbox, then those that disturb it.

The tests wait more than they compute. `releases` take GPUs and quota of the namespace `serving`;
`crowds` release under users; tests without a mark use namespaces of their own; `alone` kill parts
of the sandbox.
In each lane the order is that of the files, so that a failure can be repeated with
`pytest -p no:randomly -m LANE tests/e2e`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.conftest import ATTACHED, PROJECT, fresh_sandbox

LOGS = PROJECT / "build"
REST = "not releases and not crowds and not alone"


def start(lane: str) -> subprocess.Popen[bytes]:
    """Start the tests of a lane, a mark expression; their output goes to a file."""
    with _log(lane).open("wb") as log:
        return subprocess.Popen(
            (sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-m", lane, "tests/e2e"),
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
    with fresh_sandbox():
        for together in (("releases", "crowds", REST), ("alone",)):
            began_s = time.monotonic()
            running = [(lane, start(lane)) for lane in together]
            try:
                codes += [finish(lane, process, began_s) for lane, process in running]
            finally:
                for _, process in running:
                    process.kill()
    return max(codes)


def _log(lane: str) -> Path:
    return LOGS / f"test-e2e-{lane.replace(' ', '-')}.log"


if __name__ == "__main__":
    sys.exit(main())
