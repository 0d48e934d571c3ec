"""The sandbox as a whole: asked twice, killed in parts, killed altogether."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import httpx
import pytest

from slipway.sandbox.supervisor_client import running
from slipway.sandbox.supervisor_plan import PartState
from slipway.sandbox.supervisor_process import is_alive, processes_of, send
from slipway.sandbox.supervisor_status import SandboxStatus
from tests.e2e.conftest import Sandbox
from tests.e2e.kills import patience

pytestmark = pytest.mark.drawn_file("disturbing")


@pytest.fixture
def note(sandbox: Sandbox) -> str:
    """Something in the cluster that must be there after every recovery."""
    text = f"written-{time.time_ns()}"
    done = sandbox.kubectl("create", "configmap", text)
    assert done.returncode == 0, done.stderr
    return text


def has(sandbox: Sandbox, note: str) -> bool:
    return sandbox.kubectl("get", "configmap", note).returncode == 0


def status_of(sandbox: Sandbox) -> SandboxStatus:
    status = running(sandbox.home)
    assert status is not None
    return status


def kill(sandbox: Sandbox, name: str) -> None:
    part = status_of(sandbox).part(name)
    assert part is not None
    assert part.process is not None
    assert send(part.process, signal.SIGKILL)


def start_up(sandbox: Sandbox) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-m", "slipway.cli", "sandbox", "up"),
        env=sandbox.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_second_up_returns_at_once(sandbox: Sandbox) -> None:
    began_s = time.monotonic()
    again = sandbox.run_cli("sandbox", "up")
    assert again.returncode == 0
    assert "already running" in again.stdout
    # A start takes 11 s on a quiet machine, and all of that longer on a busy one.
    assert time.monotonic() - began_s < 3 * patience()


def test_status_shows_every_part_ready_with_memory_and_address(sandbox: Sandbox) -> None:
    shown = sandbox.run_cli("sandbox", "status")
    assert shown.returncode == 0, shown.stdout
    for name in ("etcd", "apiserver", "kubelet-node-a", "gateway", "prefect-worker"):
        (line,) = [line for line in shown.stdout.splitlines() if line.startswith(f"{name} ")]
        assert " ready " in line
        assert " MB " in line
    assert sandbox.gateway_url in shown.stdout


def test_env_gives_a_shell_what_the_tools_need(sandbox: Sandbox) -> None:
    printed = sandbox.run_cli("sandbox", "env").stdout
    assert f"export KUBECONFIG={sandbox.home.kubeconfig}\n" in printed
    assert f"export SLIPWAY_GATEWAY_URL={sandbox.gateway_url}\n" in printed
    assert ":$PATH\n" in printed
    assert "SLIPWAY_SANDBOX_HOME" not in printed
    for url in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"):
        answer = httpx.get(sandbox.environment[url], trust_env=False)
        assert answer.status_code < 500


def test_log_of_a_part_is_printed_and_an_unknown_part_refused(sandbox: Sandbox) -> None:
    assert sandbox.run_cli("sandbox", "logs", "apiserver", "--lines", "1").stdout.count("\n") == 1
    unknown = sandbox.run_cli("sandbox", "logs", "../kubeconfig")
    assert unknown.returncode == 3
    assert "apiserver" in unknown.stderr


def test_killed_part_comes_back_by_itself(sandbox: Sandbox, note: str) -> None:
    before = status_of(sandbox).part("scheduler")
    assert before is not None
    kill(sandbox, "scheduler")
    deadline_s = time.monotonic() + 60
    while status_of(sandbox).state != "ready" or restarts(sandbox, "scheduler") == before.restarts:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert (
        "scheduler was killed by SIGKILL" in sandbox.run_cli("sandbox", "logs", "supervisor").stdout
    )
    shown = sandbox.run_cli("sandbox", "status")
    assert shown.returncode == 0
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("restarted since")]
    assert "scheduler 1×" in line
    assert has(sandbox, note)


def restarts(sandbox: Sandbox, name: str) -> int:
    part = status_of(sandbox).part(name)
    assert part is not None
    return part.restarts


def test_node_killed_on_purpose_stays_down_until_it_is_revived(sandbox: Sandbox) -> None:
    """A node that is revived before Kubernetes misses it (50 s) keeps its pods."""
    killed = sandbox.run_cli("sandbox", "node", "kill", "node-b")
    assert killed.returncode == 0, killed.stderr
    try:
        shown = sandbox.run_cli("sandbox", "status")
        assert shown.returncode == 1
        assert "node-b is down on purpose" in shown.stdout
        assert "slipway sandbox node revive node-b" in sandbox.run_cli("sandbox", "up").stdout
        down = {part.name for part in status_of(sandbox).parts if part.state is PartState.DOWN}
        assert down == {"cri-node-b", "kubelet-node-b"}
    finally:
        revived = sandbox.run_cli("sandbox", "node", "revive", "node-b")
    assert revived.returncode == 0, revived.stderr
    assert status_of(sandbox).state == "ready"
    unknown = sandbox.run_cli("sandbox", "node", "kill", "node-z")
    assert unknown.returncode == 3
    assert "nodes: node-a, node-b" in unknown.stderr


def test_killed_supervisor_is_recovered_by_up(sandbox: Sandbox, note: str) -> None:
    before = status_of(sandbox)
    send(before.supervisor, signal.SIGKILL)
    while is_alive(before.supervisor):
        time.sleep(0.02)
    shown = sandbox.run_cli("sandbox", "status")
    assert shown.returncode == 1
    assert "unsupervised" in shown.stdout
    again = sandbox.run_cli("sandbox", "up")
    assert again.returncode == 0, again.stderr
    assert "an earlier run had left" in again.stdout
    assert has(sandbox, note)


def test_everything_killed_leaves_the_data_and_up_recovers(sandbox: Sandbox, note: str) -> None:
    while left := processes_of(sandbox.home):
        for process in left:
            send(process, signal.SIGKILL)
    assert "does not run" in sandbox.run_cli("sandbox", "status").stdout
    again = sandbox.run_cli("sandbox", "up")
    assert again.returncode == 0, again.stderr
    assert has(sandbox, note)


def test_down_leaves_no_process_and_up_comes_back_with_the_data(
    sandbox: Sandbox, note: str
) -> None:
    fault = sandbox.run_cli("sandbox", "fault", "add", "mlflow", "latency", "--latency-ms", "9")
    assert fault.returncode == 0, fault.stderr
    down = sandbox.run_cli("sandbox", "down")
    assert down.returncode == 0, down.stderr
    assert processes_of(sandbox.home) == ()
    assert not list(sandbox.home.run.glob("*.sock"))
    ups = [start_up(sandbox), start_up(sandbox)]
    said = [(up.communicate()[1], up.returncode) for up in ups]
    (refusal,) = [text for text, code in said if code == 5]  # two at once: one wins
    assert "is starting or stopping the sandbox" in refusal
    assert [code for _, code in said if code != 5] == [0], said
    assert all(part.state is PartState.READY for part in status_of(sandbox).parts)
    assert has(sandbox, note)
    assert sandbox.run_cli("sandbox", "fault", "list").stdout == "no faults\n"
