"""`slipway ARGS` in a process whose wall clock steps: `python -m tests.e2e.stepping_clock ARGS`.

Every two seconds the clock of Slipway's own code is an hour ahead, right, an hour behind, right, …
Libraries that read the clock in C (signatures of S3 requests, Prefect's states) keep the right
time: a server refuses a signature of another hour, which is no decision of ours.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time

_STEPS_S = (3600, 0, -3600, 0)
_EVERY_S = 2.0


def step() -> None:
    """Let this process's `time.time` and `time.time_ns` step from now on."""
    real_time, real_time_ns, offset_s = time.time, time.time_ns, [0]

    def run() -> None:
        for offset_s[0] in itertools.cycle(_STEPS_S):
            time.sleep(_EVERY_S)

    time.time = lambda: real_time() + offset_s[0]
    time.time_ns = lambda: real_time_ns() + offset_s[0] * 1_000_000_000
    threading.Thread(target=run, name="stepping-clock", daemon=True).start()


if __name__ == "__main__":
    step()
    from slipway.cli import main

    sys.argv[0] = "slipway"
    main()
