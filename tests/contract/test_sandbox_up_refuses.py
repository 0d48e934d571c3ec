"""What `slipway sandbox up` says when it cannot start, before it has started anything."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.supervisor_client import only_one
from slipway.sandbox.supervisor_process import processes_of

MAY_PASS, CONFLICT = 4, 5  # docs/reference/command-line.md, exit codes


@pytest.fixture
def home() -> Iterator[SandboxHome]:
    # Not tmp_path: it is longer than what a kubelet's socket leaves for the folder.
    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as folder:  # short
        home = SandboxHome(Path(folder) / "home")
        home.create()
        yield home
        assert processes_of(home) == ()


def up(home: SandboxHome) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "slipway.cli", "sandbox", "up"),
        env={**os.environ, "SLIPWAY_HOME": str(home.root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_port_that_somebody_else_holds_is_named_with_what_to_do(home: SandboxHome) -> None:
    port = home.port("apiserver")
    with socket.create_server(("127.0.0.1", port)):
        refused = up(home)
    assert refused.returncode == MAY_PASS
    assert f"port {port} of the sandbox (apiserver) is taken by another process" in refused.stderr
    assert f"ss -ltnp 'sport = :{port}'" in refused.stderr
    assert "[port-taken]" in refused.stderr


def test_second_command_at_once_says_who_is_at_it(home: SandboxHome) -> None:
    with only_one(home):
        refused = up(home)
    assert refused.returncode == CONFLICT
    assert f"another command (pid {os.getpid()}) is starting or stopping" in refused.stderr
    assert "[sandbox-busy]" in refused.stderr
