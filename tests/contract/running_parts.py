"""Starts parts of the sandbox for a test and ends them, without the supervisor."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slipway.sandbox.home import MARKER_VARIABLE, SandboxHome
from slipway.sandbox.part import Part
from slipway.sandbox.parts import s3
from slipway.sandbox.supervisor_ready import probe

_POLL_S = 0.05


@contextmanager
def running(home: SandboxHome, parts: Sequence[Part]) -> Iterator[None]:
    """Run `parts` (all at once) until the block ends; the block begins when all are ready."""
    with ExitStack() as stack:
        processes = [stack.enter_context(_started(home, part)) for part in parts]
        for part, process in zip(parts, processes, strict=True):
            _wait(home, part, process)
        yield
    s3.clear(home)  # as `down` does


@contextmanager
def object_store(folder: Path) -> Iterator[SandboxHome]:
    """Run the object store alone, dialled without a door; gives the sandbox it would belong to."""
    home = SandboxHome(folder)
    home.create()
    without_doors(home, "s3")
    s3.prepare(home)
    with running(home, s3.parts(home)):
        s3.set_up(home)
        yield home


def without_doors(home: SandboxHome, *names: str) -> None:
    """Let servers listen on the very ports that clients dial: no process for faults between."""
    ports = {f"{name}-inner": home.port(name) for name in names}
    (home.root / "ports.json").write_text(json.dumps({**home.remembered_ports(), **ports}))


@contextmanager
def _started(home: SandboxHome, part: Part) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home.root),
        "LANG": "C.UTF-8",
        MARKER_VARIABLE: str(home.root),
        **part.environment,
    }
    with (
        (home.logs / f"{part.name}.log").open("wb") as log,
        subprocess.Popen(
            part.command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(part.stop_signal)
            try:
                process.wait(part.stop_grace_s)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(home: SandboxHome, part: Part, process: subprocess.Popen[bytes]) -> None:
    look = probe(part.ready)
    deadline = time.monotonic() + part.start_timeout_s
    while not look():
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            log = (home.logs / f"{part.name}.log").read_text()[-2000:]
            raise AssertionError(f"{part.name} {'ended' if ended else 'is not ready'}:\n{log}")
        time.sleep(_POLL_S)
