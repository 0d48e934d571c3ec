"""Containers on a machine that forbids namespaces: what still holds, and that all of it ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.sandbox.runtime.keeper import keeper_command
from tests.contract.runtime_toys import (
    WITHOUT_NAMESPACES,
    Executable,
    ToyNode,
    archive,
    toy_node,
    wait_for,
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyNode]:
    with toy_node(tmp_path_factory.mktemp("n"), WITHOUT_NAMESPACES) as started:
        yield started


@pytest.fixture(scope="module")
def image(node: ToyNode) -> str:
    files = archive(
        {
            "app/data.txt": b"from the image\n",
            "app/hello": Executable(b"#!/bin/sh\necho hello $@\n"),
            "lib-of-app/greet.py": b"print('greetings')\n",
        }
    )
    config = {
        "Env": ["PATH=/app:/usr/bin:/bin", "PYTHONPATH=/lib-of-app", "URL=http://127.0.0.1:1/app"],
        "Entrypoint": ["hello"],
        "WorkingDir": "/app",
    }
    return node.registry.add("app", [files], config)


def test_namespaces_are_forbidden_there(tmp_path: Path) -> None:
    """Else this file would test nothing."""
    command = (*WITHOUT_NAMESPACES, *keeper_command("probe", str(tmp_path)))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "namespace" in done.stderr


def test_program_of_the_image_runs_from_its_own_folder(node: ToyNode, image: str) -> None:
    assert node.output(image, "", args=["you"]) == ["hello you"]
    assert node.output(image, "cat data.txt") == ["from the image"]
    assert node.output(image, "", command=["cat", "/app/data.txt"]) == ["from the image"]


def test_paths_in_the_environment_lead_into_the_image_and_others_stay(
    node: ToyNode, image: str
) -> None:
    assert node.output(image, "", command=["python3", "-B", "-m", "greet"]) == ["greetings"]
    assert node.output(image, "echo $URL") == ["http://127.0.0.1:1/app"]


def test_mounts_are_found_by_their_path_in_the_container(
    node: ToyNode, image: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("volume\n")
    mounts = [
        {"host_path": str(tmp_path), "container_path": "/app/volume"},
        {"host_path": f"{tmp_path}/in", "container_path": "/app/data.txt"},
    ]
    read = ["cat", "/app/volume/in", "/app/data.txt", "/app/hello"]
    lines = node.output(image, "", command=read, mounts=mounts)
    assert lines == ["volume", "volume", "#!/bin/sh", "echo hello $@"]
    node.output(image, "", command=["cp", "/app/hello", "/app/volume/out"], mounts=mounts)
    assert not (tmp_path / "out").exists()  # a path that is not there yet is this machine's
    node.output(image, "echo x > volume/out", mounts=mounts)
    assert (tmp_path / "out").read_text() == "x\n"


def test_temporary_files_are_the_containers_own(node: ToyNode, image: str) -> None:
    (first,) = node.output(image, "mktemp")
    assert first.startswith(str(node.root))


def test_exec_sync_finds_the_same_paths(node: ToyNode, image: str) -> None:
    container = node.start(image, "echo up; sleep 300")
    node.wait_for_log(container, "up")
    cat = ["cat", "/app/data.txt"]
    done = node.cri.call("ExecSync", container_id=container, cmd=cat, timeout=5)
    assert (done.stdout, done.exit_code) == (b"from the image\n", 0)
    done = node.cri.call("ExecSync", container_id=container, cmd=["pwd"], timeout=5)
    assert done.stdout.endswith(b"/root/app\n")


def test_stop_ends_every_process_of_the_container(node: ToyNode, image: str) -> None:
    script = (
        "trap 'exit 7' TERM; (setsid sleep 300 &) ; sleep 300 & echo up; while true; do wait; done"
    )
    container = node.start(image, script)
    node.wait_for_log(container, "up")
    inside = node.family(container)
    assert len(inside) >= 4
    node.cri.call("StopContainer", container_id=container, timeout=10)
    assert node.status(container).exit_code == 7
    assert node.living(inside) == set()


def test_every_process_carries_the_mark_by_which_it_is_found(node: ToyNode, image: str) -> None:
    """When a keeper is killed, no kernel ends what its process had started."""
    mark = f"SLIPWAY_SANDBOX_HOME={node.folder}"
    assert mark in node.output(image, "(setsid env); sleep 0.1")


def test_removing_a_container_leaves_image_and_volumes(
    node: ToyNode, image: str, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("x")
    mounts = [{"host_path": str(tmp_path), "container_path": "/app/volume"}]
    container = node.start(image, "echo up", mounts=mounts)
    node.ended(container)
    node.cri.call("RemoveContainer", container_id=container)
    assert not (node.root / "containers" / container).exists()
    assert (tmp_path / "kept").exists()
    assert node.output(image, "cat data.txt") == ["from the image"]


def test_runtime_is_ready_and_its_log_says_what_is_missing(node: ToyNode) -> None:
    conditions = node.cri.call("Status").status.conditions
    assert {condition.type: condition.status for condition in conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
    }
    log = node.folder / "runtime.log"
    wait_for(lambda: "without namespaces: unshare" in log.read_text(), "the runtime's word for it")


def test_containers_outlive_a_killed_runtime(node: ToyNode, image: str) -> None:
    container = node.start(image, "echo up; while true; do sleep 0.05; done")
    node.wait_for_log(container, "up")
    node.kill()
    node.restart()
    assert node.status(container).state == 1
    node.cri.call("StopContainer", container_id=container, timeout=1)
    assert node.status(container).state == 2
    assert json.loads((node.root / "containers" / container / "exit.json").read_text())["signal"]
