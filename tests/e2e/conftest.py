"""One sandbox for all end-to-end tests of a session: started fresh, stopped at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from slipway.sandbox.environment import client_environment
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.parts import gateway
from tests.e2e.audit import read_audit
from tests.e2e.draw import Scenario, left_out, seed_in_force
from tests.e2e.orders import crowd_of, live_service
from tests.e2e.support import Users, World

PROJECT = Path(__file__).parents[2]
# Set by `lanes`: the sandbox of the test run is up, and somebody else stops it.
ATTACHED = "SLIPWAY_TEST_SANDBOX_IS_UP"
HOME = "SLIPWAY_TEST_HOME"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that the seed does not draw."""
    seed = seed_in_force()
    if seed is None:
        return
    out = left_out([_scenario(item) for item in items], seed)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in out])
    items[:] = [item for item in items if item.nodeid not in out]


def _scenario(item: pytest.Item) -> Scenario:
    def pool(marker: str) -> str | None:
        found = item.get_closest_marker(marker)
        return None if found is None else str(found.args[0])

    always = item.get_closest_marker("always") is not None
    return Scenario(item.nodeid, always, pool("drawn"), pool("drawn_file"))


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox, and the ways a person would use it.

    Args:
        home: its folder.
        environment: of a shell after `eval "$(slipway sandbox env)"`.
    """

    home: SandboxHome
    environment: dict[str, str] = field(repr=False)

    @property
    def gateway_url(self) -> str:
        return gateway.url(self.home)

    def run_cli(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `slipway ARGS`; the caller looks at the exit code."""
        return self._run((sys.executable, "-m", "slipway.cli", *args), stdin)

    def kubectl(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `kubectl ARGS` as the administrator; the caller looks at the exit code."""
        return self._run((str(Path(sys.executable).with_name("kubectl")), *args), stdin)

    def start_kubectl(self, *args: str, stdout: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start `kubectl ARGS` as the administrator; the caller waits for it."""
        return subprocess.Popen(
            (str(Path(sys.executable).with_name("kubectl")), *args),
            cwd=PROJECT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
        )

    def _run(self, command: tuple[str, ...], stdin: str | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=PROJECT,
            env=self.environment,
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
        )


def _environment(home: SandboxHome) -> dict[str, str]:
    settings = client_environment(home)
    path = f"{settings.pop('PATH')}:{os.environ['PATH']}"
    return {**os.environ, **settings, "PATH": path, "SLIPWAY_HOME": str(home.root)}


@contextmanager
def fresh_sandbox() -> Iterator[Sandbox]:
    """A fresh sandbox of its own folder (never the user's), ready; stopped at the end."""
    home = SandboxHome(sandbox_folder())
    home.create()
    running = Sandbox(home, _environment(home))
    assert running.run_cli("sandbox", "reset", "--yes").returncode == 0
    home.create()
    running = Sandbox(home, _environment(home))  # a reset forgets the ports
    try:
        started = running.run_cli("sandbox", "up")
        assert started.returncode == 0, started.stdout + started.stderr
        yield running
    finally:
        stopped = running.run_cli("sandbox", "down")
        assert stopped.returncode == 0, stopped.stderr


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """The sandbox of the test run: the one that `lanes` started, or one of this session."""
    if os.environ.get(ATTACHED):
        home = SandboxHome(sandbox_folder())
        yield Sandbox(home, _environment(home))
    else:
        with fresh_sandbox() as running:
            home = running.home
            yield running
    # Whatever the tests were about: the accounts of flows did nothing that no Role grants.
    assert read_audit([home]).faults() == []


def sandbox_folder() -> Path:
    """Return the folder of the sandbox of this test run."""
    default = Path(tempfile.gettempdir()) / f"slipway-test-{os.getuid()}"
    return Path(os.environ.get(HOME, default))


@pytest.fixture(scope="module")
def ordered(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> tuple[World, str]:
    """A service with a live version, whose requests supersede one another; one per test file."""
    service = request.module.SERVICE
    world = World(sandbox, tmp_path_factory.mktemp(service))
    live_service(world, service)
    return world, service


@pytest.fixture
def crowd(ordered: tuple[World, str]) -> Iterator[Users]:
    """Users of that service, some with streams that outlast a switch."""
    with crowd_of(*ordered) as some:
        yield some
