"""The demo's canary: users move in steps, a newer version takes over, and a process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slipway.bootstrap.releases import connect
from slipway.core.errors import PermanentError
from slipway.core.release.record import ReleaseRecord
from slipway.settings import from_environment

SERVICE = "canary"

_LONGEST_S = 300.0
_LOOK_EVERY_S = 0.1
_KILLED_AT_PERCENT = 25


def is_live() -> bool:
    """Return whether a version serves already, from an earlier run of the demo."""
    stored = connect(SERVICE, from_environment()).releases.load(SERVICE)
    return stored is not None and stored.record.live_slot is not None


def superseded_and_killed(
    older: str, newer: str, *, say: Callable[[str], None]
) -> tuple[int, ReleaseRecord]:
    """Release `older`, have `newer` take its place, and kill that one; the watcher finishes it.

    Returns:
        how the process that released `older` ended, and the record at the end of `newer`.
    """
    with _releasing(older) as giving_way:
        _await(lambda record: record.version == older and record.weight_percent > 0)
        say(f"\nversion {older} has its first users: version {newer} is asked for")
        with _releasing(newer) as process:
            code = giving_way.wait(timeout=_LONGEST_S)
            _await(lambda record: record.weight_percent >= _KILLED_AT_PERCENT)
            process.send_signal(signal.SIGKILL)
            say(
                f"the process that releases version {newer} is killed at {_KILLED_AT_PERCENT} %;"
                " its lock runs out, the watcher starts reconcile"
            )
    return code, _await(lambda record: record.version == newer and record.terminal)


@contextmanager
def _releasing(version: str) -> Iterator[subprocess.Popen[bytes]]:
    """Release in a process of its own meanwhile; its lines are on the terminal."""
    command = (sys.executable, "-m", "slipway.cli", "release", SERVICE, version)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ)) as process:
        try:
            yield process
        finally:
            process.kill()


def _await(reached: Callable[[ReleaseRecord], bool]) -> ReleaseRecord:
    """Wait until the service's record is as wanted.

    Raises:
        PermanentError: it is not within five minutes.
    """
    releases = connect(SERVICE, from_environment()).releases
    until_s = time.monotonic() + _LONGEST_S
    record = None
    while time.monotonic() < until_s:
        stored = releases.load(SERVICE)
        record = stored.record if stored else None
        if record is not None and reached(record):
            return record
        time.sleep(_LOOK_EVERY_S)  # between two looks; the limit above decides
    raise PermanentError(
        f"the canary did not get on: {record and f'{record.phase}: {record.reason}'}",
        code="demo-stuck",
        hint=f"look at: slipway status {SERVICE}, then run the demo again",
    )
