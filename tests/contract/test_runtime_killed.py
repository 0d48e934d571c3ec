"""A runtime killed at any of its writes: no container doubled, none lost, no exit code wrong.

The kubelet's rules stand in `kuberuntime_manager.go` (computePodActions): a container that the
runtime lists as running is left alone, any other is replaced by a new one with the next attempt.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from slipway.sandbox.runtime.keeper import SHIM
from tests.contract.runtime_toys import ToyNode, archive, toy_node, wait_for

RUNNING, EXITED = 1, 2
SERVES = "trap 'exit 6' TERM; echo up; while true; do sleep 0.05; done"
SHOWN = 4
"""Points of a quick run; the long one takes all."""


class Kubelet:
    """Brings a pod with one serving and one ending container up, and takes it away again."""

    def __init__(self, node: ToyNode, image: str) -> None:
        self.node = node
        self.image = image

    def sync(self) -> None:
        """Make what is missing, as a kubelet does on every look."""
        cri = self.node.cri
        pods = cri.call("ListPodSandbox", filter={"state": {"state": "SANDBOX_READY"}}).items
        pod = pods[0].id if pods else self.node.pod("kept")
        for name, script in (("serves", SERVES), ("ends", "exit 7")):
            found = self.containers(name)
            if any(one.state == RUNNING for one in found):
                continue
            if name == "ends" and 7 in self.codes(name):
                continue
            metadata = {"name": name, "attempt": len(found)}
            made = self.node.create(pod, self.image, script, metadata=metadata)
            cri.call("StartContainer", container_id=made)

    def remove(self) -> None:
        """Take everything away, as for a deleted pod."""
        cri = self.node.cri
        for one in cri.call("ListContainers").containers:
            cri.call("StopContainer", container_id=one.id, timeout=5)
            cri.call("RemoveContainer", container_id=one.id)
        for pod in cri.call("ListPodSandbox").items:
            cri.call("StopPodSandbox", pod_sandbox_id=pod.id)
            cri.call("RemovePodSandbox", pod_sandbox_id=pod.id)

    def containers(self, name: str) -> list[Any]:
        listed = self.node.cri.call("ListContainers").containers
        return [one for one in listed if one.metadata.name == name]

    def codes(self, name: str) -> list[int]:
        """Return the exit codes of the containers of that name that ended."""
        ended = [self.node.status(one.id) for one in self.containers(name) if one.state == EXITED]
        return [status.exit_code for status in ended]


def keepers(node: ToyNode) -> list[str]:
    """Return the folders of the containers whose keepers live."""
    found = []
    for pid in node.processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if "run" in words and parent not in node.processes():
            found.append(Path(words[words.index("run") + 1]).name)
    return sorted(found)


def settled(node: ToyNode) -> bool:
    """Whether every keeper keeps a running container, and every such container has one keeper."""
    listed = node.cri.call("ListContainers").containers
    folders = sorted(path.name for path in (node.root / "containers").iterdir())
    return keepers(node) == sorted(one.id for one in listed if one.state == RUNNING) and (
        folders == sorted(one.id for one in listed)
    )


def live(node: ToyNode, kubelet: Kubelet) -> None:
    """Be a kubelet for a pod's life; a runtime that is gone is started again, without a killer."""

    def runs() -> None:
        kubelet.sync()
        wait_for(lambda: settled(node), "the runtime to know its containers")
        assert [one.state for one in kubelet.containers("serves")].count(RUNNING) == 1
        wait_for(lambda: 7 in kubelet.codes("ends"), "the exit code")

    def is_removed() -> None:
        kubelet.remove()
        assert node.processes() == set()
        assert list((node.root / "containers").iterdir()) == []
        assert list((node.root / "pods").iterdir()) == []

    for goal in (runs, is_removed):
        node.cri.call("Version", version="0.1.0")
        node.cri.patient = False
        try:
            goal()
        except grpc.RpcError:
            assert node.process.wait(5) == -signal.SIGKILL
            node.restart()
            node.cri.call("Version", version="0.1.0")
            wait_for(lambda: settled(node), "the runtime to know its containers")
            goal()


def chosen(points: list[str]) -> list[str]:
    """Return the points to be killed at: all, or for a quick run some, begun by the day."""
    starts = [line.split()[0] for line in points if "Popen" in line]
    every = [line.split()[0] for line in points]
    late = [f"{starts[0]}+{delay_ms}" for delay_ms in (1, 20, 40, 60, 80, 120)]
    if os.environ.get("SLIPWAY_SOAK"):
        return [*every, *late]
    step = max(1, len(every) // (SHOWN - 1))
    return [*every[int(time.time() // 86_400) % step :: step], late[3]]


def test_keeper_that_has_not_begun_its_container_ends_when_its_runtime_was_killed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Else it would come up beside the container that the kubelet makes in its place."""
    with toy_node(tmp_path_factory.mktemp("n")) as node:
        image = node.registry.add("app", [archive({"x": b""})])
        container = node.create(node.pod(), image, SERVES)
        node.kill()
        folder = node.root / "containers" / container
        waits = ("-S", "-c", "import time; time.sleep(60)")
        with subprocess.Popen([sys.executable, *waits, SHIM, "run", str(folder)]) as slow:
            node.restart()
            assert (node.status(container).state, node.status(container).exit_code) == (2, 137)
            assert slow.wait(10) == -signal.SIGKILL


def test_half_removed_container_is_swept_away(tmp_path_factory: pytest.TempPathFactory) -> None:
    with toy_node(tmp_path_factory.mktemp("n")) as node:
        image = node.registry.add("app", [archive({"x": b""})])
        container = node.create(node.pod(), image, SERVES)
        node.kill()
        folder = node.root / "containers" / container
        (folder / "container.json").unlink()
        node.restart()
        assert not node.cri.call("ListContainers").containers
        assert not folder.exists()


@pytest.mark.timeout(3600 if os.environ.get("SLIPWAY_SOAK") else 600)
def test_runtime_killed_at_a_write_neither_doubles_nor_loses_a_container(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("n")
    killed = "tests.contract.runtime_killed"
    with toy_node(folder, module=killed) as node:
        image = node.registry.add("app", [archive({"x": b""})])
        node.cri.pull(image)
        live(node, Kubelet(node, image))
        points = (folder / "points").read_text().splitlines()
        assert len(points) > 40, points
        for at in chosen(points):
            node.process.terminate()
            node.process.wait(20)
            node.restart(module=killed, SLIPWAY_KILL_AT=at)
            live(node, Kubelet(node, image))
