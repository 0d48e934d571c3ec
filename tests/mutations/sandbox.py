"""Mutations of a running sandbox: its runtimes or its proxy are killed and started mutated."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slipway.sandbox.home import MARKER_VARIABLE, SandboxHome
from tests.e2e.conftest import ATTACHED
from tests.mutations.model import NETWORK, Rule
from tests.mutations.runner import Finding, copied_project, mutated, pytest, run_tests

_SUPERVISOR_RESTARTS_WITHIN_S = 5.0
_READY_WITHIN_S = 60.0
_PATIENCE_S = 60  # what a mutation keeps from happening is waited for in vain
_STARTS = 3  # on a busy machine a part may be late, and the next `up` goes on from there
_PROXY = "slipway.sandbox.network.egress"
_RUNTIME = "slipway.sandbox.runtime"


@dataclass(frozen=True, slots=True)
class Running:
    """One process of a part."""

    pid: int
    command: tuple[str, ...]
    environment: dict[str, str]
    folder: str


def run_on_sandbox(rules: list[Rule]) -> Iterator[Finding]:
    """Yield what became of each mutation, one after the other on one sandbox of a copy."""
    with copied_project() as project, _sandbox(project) as home:
        environment = {
            ATTACHED: "1",
            "SLIPWAY_TEST_HOME": str(home.root),
            "SLIPWAY_TEST_PATIENCE_S": f"{_PATIENCE_S}",
        }
        _check_without_mutation(project, rules, environment)
        for rule in rules:
            module = _PROXY if rule.mutation.file.startswith(NETWORK) else _RUNTIME
            with mutated(project, rule.mutation):
                restart(home, module)
                finding = run_tests(project, rule, environment)
            restart(home, module)  # so that what the test left is cleared away as it should be
            yield finding


def _check_without_mutation(project: Path, rules: list[Rule], environment: dict[str, str]) -> None:
    """See every test pass on the unchanged code: else a slow machine would look like a catch."""
    code, output = pytest(project, [node for rule in rules for node in rule.nodes], environment)
    assert code == 0, f"the tests fail without a mutation:\n{output}"


@contextmanager
def _sandbox(project: Path) -> Iterator[SandboxHome]:
    """Run a sandbox of the copied project, whose code its parts are started from."""
    root = Path(tempfile.mkdtemp(prefix="slm-"))  # short: Unix sockets lie below it
    home = SandboxHome(root)
    environment = {**os.environ, "SLIPWAY_HOME": str(root), "PYTHONPATH": str(project)}

    def slipway(verb: str) -> bool:
        command = (sys.executable, "-m", "slipway.cli", "sandbox", verb)
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            sys.stderr.write(done.stdout + done.stderr)
        return done.returncode == 0

    try:
        # Kubernetes is all that the rules need: a part beside it that is late does not matter.
        up = any(slipway("up") or _has_nodes(home) for _ in range(_STARTS))
        assert up, "the sandbox does not start"
        yield home
    finally:
        slipway("down")
        shutil.rmtree(root, ignore_errors=True)


def _has_nodes(home: SandboxHome) -> bool:
    """Say whether Kubernetes is set up and its nodes are ready."""
    kubectl = (str(Path(sys.executable).with_name("kubectl")), f"--kubeconfig={home.kubeconfig}")
    questions = (
        ("wait", "nodes", "--all", "--for=condition=Ready", "--timeout=30s"),
        ("get", "namespace", "serving"),
    )
    return all(
        subprocess.run((*kubectl, *words), capture_output=True, check=False).returncode == 0
        for words in questions
    )


def restart(home: SandboxHome, module: str) -> None:
    """Kill every process of a part and see it started again from what the files say now.

    The supervisor starts it, or this function does where it does not.
    """
    before = _running(home, module)
    assert before, f"{module} does not run"
    for process in before:
        os.kill(process.pid, signal.SIGKILL)
    old = {process.pid for process in before}
    deadline_s = time.monotonic() + _SUPERVISOR_RESTARTS_WITHIN_S
    while time.monotonic() < deadline_s and _missing(home, module, before, old):
        time.sleep(0.1)
    for process in _missing(home, module, before, old):
        with (home.logs / "mutations.log").open("ab") as log:
            subprocess.Popen(
                process.command,
                cwd=process.folder,
                env=process.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    _wait_until_it_serves(home, module, before, old)


def _missing(home: SandboxHome, module: str, before: list[Running], old: set[int]) -> list[Running]:
    now = {one.command for one in _running(home, module) if one.pid not in old}
    return [process for process in before if process.command not in now]


def _wait_until_it_serves(
    home: SandboxHome, module: str, before: list[Running], old: set[int]
) -> None:
    """Wait until every socket is served by a process that was not there before."""
    deadline_s = time.monotonic() + _READY_WITHIN_S
    paths = [one.command[one.command.index("--socket") + 1] for one in before]
    while _missing(home, module, before, old) or not all(_serves(path) for path in paths):
        assert time.monotonic() < deadline_s, f"{module} did not come back"
        time.sleep(0.1)


def _serves(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
        except OSError:
            return False
    return True


def _running(home: SandboxHome, module: str) -> list[Running]:
    """Return the processes of a module in a sandbox, zombies not counted."""
    mark = f"{MARKER_VARIABLE}={home.root}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().decode().split("\0")[:-1]
            folder = str((entry / "cwd").readlink())
        except OSError:
            continue
        if mark in environ and module in command[:4]:
            settings = dict(line.decode().split("=", 1) for line in environ if b"=" in line)
            found.append(Running(int(entry.name), tuple(command), settings, folder))
    return found
