"""Forks `slipway` from a process that has imported everything already.

A release spends most of its processor time on imports. Here they are paid once: each command is a
process of its own all the same, that can be killed like any other. It reads a line of JSON a
command from its input (arguments, variables, a file for what is printed, seconds it may take), and
answers each with a line, the return code as `subprocess` has it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from slipway.cli import application
from tests.kill_matrix import killed

_PROJECT = Path(__file__).resolve().parents[2]
_POLL_S = 0.02
_SLOW = (
    "anyio._backends._asyncio",
    "boto3",
    "fastapi.encoders",
    "flows.reconcile",
    "flows.release",
    "flows.rollback",
    "great_expectations",
    "mlflow.tracking.client",
    "mlflow.tracking.request_header.registry",
    "prefect.flow_engine",
    "prefect.task_engine",
    "pyarrow.parquet",
)
"""What a release imports on its way."""


class Nursery:
    """The client's side: starts commands, one at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start it.

        Args:
            environment: of every command.
        """
        self._process = subprocess.Popen(
            (sys.executable, "-m", "tests.kill_matrix.nursery"),
            cwd=_PROJECT,
            # A thread of a numeric library would not live in a forked process.
            env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, *arguments: str, output: Path, timeout_s: float, **variables: str) -> int:
        """Run `slipway ARGUMENTS`; return its code, negative for the signal that ended it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "arguments": arguments,
            "variables": variables,
            "output": str(output),
            "timeout_s": timeout_s,
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery has died"
        return int(answer)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def main() -> None:
    """Serve until the input ends."""
    _import_everything()
    assert threading.active_count() == 1, "a fork would lose the other threads"
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            _become(asked)
        sys.stdout.write(f"{_wait(child, asked['timeout_s'])}\n")
        sys.stdout.flush()


def _import_everything() -> None:
    for name in _SLOW:
        importlib.import_module(name)
    application()


def _become(asked: dict[str, Any]) -> None:
    """Be the command, in the forked process; never returns."""
    code = 70  # of an error that nothing below expects
    try:
        with Path(asked["output"]).open("ab", buffering=0) as output:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
        os.environ.update(asked["variables"])
        sys.argv = ["slipway", *asked["arguments"]]
        killed.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    finally:
        # Not `sys.exit`: what the parent would do at its end is not this process's to do.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, timeout_s: float) -> int:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_POLL_S)  # `waitpid` knows no time limit
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"a command took longer than {timeout_s:g} s")


if __name__ == "__main__":
    main()
