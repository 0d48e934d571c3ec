"""Starting a container's keeper (shim.py) and knowing when it ends; used from one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from slipway.core.errors import PermanentError
from slipway.sandbox import slices
from slipway.sandbox.runtime.bare import arguments

SHIM = str(Path(__file__).with_name("shim.py"))
_START_TIMEOUT_S = 30.0
_LARGEST_OUTPUT_BYTES = 16 << 20
"""Of each stream of an exec: a container must not fill the runtime's memory (CVE-2022-1708)."""
_CHUNK_BYTES = 65536
_END_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a container ended: what its keeper wrote; times in ns since 1970."""

    exit_code: int
    signal: int
    started_at_ns: int
    finished_at_ns: int
    error: str


@dataclass(frozen=True, slots=True)
class Executed:
    """What a command inside a container gave back."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def keeper_command(*arguments: str) -> list[str]:
    """Return the command line of shim.py, isolated from site-packages and environment."""
    return [sys.executable, "-I", "-S", SHIM, *arguments]


class Keeper:
    """A live keeper, ours or adopted from an earlier runtime.

    Args:
        pid: its process id.
        on_end: called once, in the loop, after it ended and was reaped.
    """

    def __init__(self, pid: int, on_end: Callable[[], None]) -> None:
        """Watch the process through a pidfd: no polling, and no confusion by reused ids."""
        self.pid = pid
        self.ended = asyncio.Event()
        self._on_end = on_end
        self._handle = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._handle, self._end)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the keeper; nothing happens when it has ended."""
        if self._handle >= 0:
            try:
                signal.pidfd_send_signal(self._handle, number)
            except ProcessLookupError:
                return

    def forget(self) -> None:
        """Stop watching; the keeper lives on."""
        if self._handle >= 0:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def _end(self) -> None:
        self.forget()
        with contextlib.suppress(ChildProcessError):  # adopted: its present parent reaps it
            os.waitpid(self.pid, os.WNOHANG)
        self.ended.set()
        self._on_end()


@dataclass(frozen=True, slots=True)
class Started:
    """A container that runs: its keeper's process id and that of its first process."""

    keeper: int
    init: int
    started_at_ns: int


async def start_keeper(folder: Path, environment: Mapping[str, str]) -> Started:
    """Start the keeper of the container in `folder` and wait until its process runs.

    Args:
        folder: holds `spec.json` and an empty folder `scratch`.
        environment: the keeper's own, not the container's.

    Raises:
        PermanentError: the process could not be started; code `start-failed`.
    """
    read, write = os.pipe()
    with (folder / "keeper.log").open("ab") as log:
        child = subprocess.Popen(
            keeper_command("run", str(folder), str(write)),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # The address of the container's pod is held for as long as the container lives.
            pass_fds=(write, *slices.held()),
            start_new_session=True,
        )
    os.close(write)
    child.returncode = 0  # reaped by the Keeper, through its pidfd: Popen must not warn or wait
    answer = await _read_to_end(read)
    message: dict[str, Any] = json.loads(answer or b"{}")
    if not message:
        message["error"] = f"its keeper failed, see {log.name}"
    if "error" in message:
        await asyncio.to_thread(_reap, child.pid)
        raise PermanentError(
            f"cannot start the container: {message['error']}",
            code="start-failed",
            hint="see the container's command, image and mounts",
        )
    return Started(child.pid, message["init"], message["started_at_ns"])


def _reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # not yet waited for, so the id cannot be another process's
    os.waitpid(pid, 0)


async def _read_to_end(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    data = bytearray()

    def more() -> None:
        chunk = os.read(descriptor, 4096)
        data.extend(chunk)
        if not chunk and not done.done():
            loop.remove_reader(descriptor)
            done.set_result(None)

    loop.add_reader(descriptor, more)
    try:
        await asyncio.wait_for(done, _START_TIMEOUT_S)
    except TimeoutError:
        return b""
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return bytes(data)


def start_ticks(pid: int) -> int:
    """Return when a process started (clock ticks since boot, `proc(5)`); 0 when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[19])


def find_started(folder: Path) -> Started | None:
    """Return the live keeper of the container in `folder`, from what it wrote; None without one.

    For a runtime that was killed before it could record its own start of the container.
    """
    try:
        fields = json.loads((folder / "started.json").read_text())
        command = Path(f"/proc/{fields['keeper']}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if str(folder).encode() not in command.split(b"\0"):
        return None
    return Started(fields["keeper"], fields["init"], fields["started_at_ns"])


def end_unstarted(folder: Path) -> bool:
    """End the keeper in `folder` that has not begun its container yet; return whether there is one.

    Its runtime was killed and nobody waits for the start: the kubelet asks for a new container, and
    this one must not come up beside it.
    """
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    seen = False
    while left := tuple(_keepers_of(folder)):
        seen = True
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.005)
    return seen


def _keepers_of(folder: Path) -> Iterator[int]:
    words = {SHIM.encode(), str(folder).encode()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            # A zombie's command line is empty.
            if words <= set((entry / "cmdline").read_bytes().split(b"\0")):
                yield int(entry.name)


def read_ending(folder: Path) -> Ending | None:
    """Return how the container in `folder` ended; None when its keeper was killed before."""
    try:
        fields = json.loads((folder / "exit.json").read_text())
    except FileNotFoundError:
        return None
    return Ending(
        fields["exit_code"],
        fields["signal"],
        fields["started_at_ns"],
        fields["finished_at_ns"],
        fields["error"],
    )


def execute(
    folder: Path, args: tuple[str, ...], keeper: int, init: int, timeout_s: float
) -> Executed:
    """Run one command inside a running container; blocks.

    Args:
        folder: the container's; its `spec.json` gives environment and working directory.
        args: the command.
        keeper: process id of the container's keeper.
        init: process id of its first process.
        timeout_s: 0 for none; the command is killed then.

    Raises:
        TimeoutError: it took longer.
    """
    spec = json.loads((folder / "spec.json").read_text())
    root = spec["bare"]
    order = {"init": init, "args": arguments(args, root) if root else args}
    order |= {name: spec[name] for name in ("env", "cwd", "bare")}
    with subprocess.Popen(
        keeper_command("exec", str(keeper)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = _collect(process, json.dumps(order).encode(), timeout_s)
        except TimeoutError as error:
            process.kill()
            raise TimeoutError(f"command {args[0]!r} timed out after {timeout_s:g} s") from error
    return Executed(process.returncode, stdout, stderr)


def _collect(
    process: subprocess.Popen[bytes], order: bytes, timeout_s: float
) -> tuple[bytes, bytes]:
    """Send `order` and return what comes out until both streams end; what is too much is dropped.

    Raises:
        TimeoutError: they did not end in time.
    """
    streams = (process.stdin, process.stdout, process.stderr)
    stdin, stdout, stderr = cast("tuple[IO[bytes], IO[bytes], IO[bytes]]", streams)
    deadline_s = time.monotonic() + timeout_s if timeout_s else None
    with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit code says why
        stdin.write(order)
        stdin.close()
    out, err = bytearray(), bytearray()
    kept = {stdout.fileno(): out, stderr.fileno(): err}
    with selectors.DefaultSelector() as selector:
        for descriptor in kept:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError
            for key, _ in selector.select(left_s):
                chunk = os.read(key.fd, _CHUNK_BYTES)
                kept[key.fd] += chunk[: _LARGEST_OUTPUT_BYTES - len(kept[key.fd])]
                if not chunk:
                    selector.unregister(key.fd)
    return bytes(out), bytes(err)


def probe(folder: Path) -> str:
    """Try what containers need of this machine.

    Args:
        folder: empty, for a short-lived mount.

    Returns:
        "" when all is well, else what is forbidden.
    """
    done = subprocess.run(
        keeper_command("probe", str(folder)),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit {done.returncode}")
