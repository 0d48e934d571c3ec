"""A second sandbox beside the one of the test run: both release, and nothing is shared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.parts.kubernetes import NODES
from slipway.sandbox.supervisor_process import processes_of
from tests.contract.runtime_toys import WITHOUT_NAMESPACES
from tests.e2e import support
from tests.e2e.conftest import PROJECT, Sandbox
from tests.e2e.support import World

NAME = "second"
MAY_BE_REPEATED = (4, 5)  # docs/reference/command-line.md, exit codes
GOLDEN = {"ping": "pong", "marco": "polo", "knock knock": "who's there"}
# In the long form the second one is also tried as on a machine that forbids namespaces.
WRAPPERS = [(), WITHOUT_NAMESPACES] if os.environ.get("SLIPWAY_SOAK") else [()]


def settings(home: SandboxHome, state: Path) -> dict[str, str]:
    """Return the environment of a person who says `--name`, and has nothing else set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLIPWAY_")}
    return {**kept, "XDG_STATE_HOME": str(state), "SLIPWAY_SANDBOX": home.name}


@pytest.fixture(scope="module", params=WRAPPERS, ids=lambda words: "bare" if words else "plain")
def second(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A named sandbox in a state folder of its own, up while the other one is."""
    # Not tmp_path: it is longer than what a kubelet's socket leaves for the folder.
    state = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))  # short
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SLIPWAY_HOME", raising=False)
        patch.setenv("XDG_STATE_HOME", str(state))
        home = SandboxHome.named(NAME)
        environment = settings(home, state)
        started = Sandbox(home, environment)
        try:
            up = subprocess.run(
                (
                    *request.param,
                    sys.executable,
                    "-m",
                    "slipway.cli",
                    "sandbox",
                    "up",
                    "--name",
                    NAME,
                ),
                cwd=PROJECT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert up.returncode == 0, up.stdout + up.stderr
            assert f"slipway sandbox status --name {NAME}" in up.stdout
            assert ("containers run without namespaces" in up.stdout) == bool(request.param)
            yield Sandbox(home, {**environment, "KUBECONFIG": str(home.kubeconfig)})
        finally:
            started.run_cli("sandbox", "reset", "--yes", "--name", NAME)
            left = processes_of(home)
            shutil.rmtree(state, ignore_errors=True)
        assert left == ()


def slices_of(home: SandboxHome) -> set[int]:
    return {home.slice_of(node.name) for node in NODES}


def pod_addresses(sandbox: support.Sandbox) -> dict[str, str]:
    listed = sandbox.kubectl("-n", "serving", "get", "pods", "-o", "json")
    pods = json.loads(listed.stdout)["items"]
    return {pod["status"]["podIP"]: pod["spec"]["nodeName"] for pod in pods if "status" in pod}


def release(world: World, service: str, version: str) -> subprocess.CompletedProcess[str]:
    """Release, going on where it was when this machine was too busy to keep the lock."""
    for _ in range(3):
        done = world.release(service, version)
        if done.returncode not in MAY_BE_REPEATED:
            break
    return done


def test_both_release_and_their_pods_have_addresses_of_their_own(
    sandbox: support.Sandbox, second: support.Sandbox, tmp_path: Path
) -> None:
    assert not slices_of(sandbox.home) & slices_of(second.home)
    assert not set(sandbox.home.remembered_ports().values()) & set(
        second.home.remembered_ports().values()
    )
    for number, one in enumerate((sandbox, second)):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(one, folder)
        service = world.given_service(f"beside-{os.getpid()}", replicas=1)
        version = world.given_version(service, answers={**GOLDEN, "where": f"in {number}"})
        released = release(world, service, version)
        assert released.returncode == 0, released.stdout + released.stderr
        answer = world.ask(service, "where")
        assert answer.json()["choices"][0]["message"]["content"] == f"in {number}"
        for address, node in pod_addresses(one).items():
            assert address.startswith(f"100.100.{one.home.slice_of(node)}.")


def test_list_shows_the_second_by_its_name_and_the_first_by_its_folder(
    sandbox: Sandbox, second: Sandbox
) -> None:
    rows = [line.split() for line in second.run_cli("sandbox", "list").stdout.splitlines()]
    assert [NAME, "ready"] in [row[:2] for row in rows]
    assert ["-", "ready", str(sandbox.home.root)] in rows


def test_end_of_the_second_leaves_the_first_alone(sandbox: Sandbox, second: Sandbox) -> None:
    down = second.run_cli("sandbox", "down", "--name", NAME)
    assert down.returncode == 0, down.stderr
    assert processes_of(second.home) == ()
    shown = sandbox.run_cli("sandbox", "status")
    assert shown.returncode == 0, shown.stdout
    assert sandbox.kubectl("get", "--raw", "/readyz").stdout == "ok"
