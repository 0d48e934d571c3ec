"""What `api.proto` of CRI promises of the life of pods and containers, call by call.

Sources are the comments in `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto` v0.36.3, unless a test
names another one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from slipway.sandbox.runtime.messages import cri
from tests.contract.runtime_toys import ToyNode, archive, toy_node, wait_for

UP = "trap 'exit 5' TERM; echo up; while true; do sleep 0.05; done"
DEAF = "trap '' TERM; echo up; while true; do sleep 0.05; done"
CREATED, RUNNING, EXITED = 0, 1, 2
MIB = 1 << 20


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyNode]:
    with toy_node(tmp_path_factory.mktemp("n")) as started:
        yield started


@pytest.fixture(scope="module")
def image(node: ToyNode) -> str:
    files = archive({"app/data.txt": b"from the image\n"})
    return node.registry.add("app", [files], {"Env": ["PATH=/usr/bin:/bin"]})


def refused(node: ToyNode, name: str, **fields: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        node.cri.call(name, **fields)
    return caught.value


def up(node: ToyNode, image: str, script: str = UP, **config: object) -> str:
    """Start a container and wait for its first line."""
    container = node.start(image, script, **config)
    node.wait_for_log(container, "up")
    return container


# -- states and their order -----------------------------------------------------------------------


def test_states_follow_each_other_with_their_times(node: ToyNode, image: str) -> None:
    """ContainerStatus: started_at and finished_at are 0 until they are known."""
    pod = node.pod("states")
    container = node.create(pod, image, UP)
    created = node.status(container)
    assert (created.state, created.started_at, created.finished_at) == (CREATED, 0, 0)
    assert created.created_at > 0

    node.cri.call("StartContainer", container_id=container)
    node.wait_for_log(container, "up")
    running = node.status(container)
    assert (running.state, running.finished_at) == (RUNNING, 0)
    assert running.started_at >= running.created_at

    node.cri.call("StopContainer", container_id=container, timeout=10)
    exited = node.status(container)
    assert (exited.state, exited.exit_code) == (EXITED, 5)
    assert exited.finished_at >= exited.started_at > 0


def test_container_is_started_once_only(node: ToyNode, image: str) -> None:
    """StartContainer: a container that runs or has ended needs a new one in its place."""
    container = up(node, image)
    assert "started before" in refused(node, "StartContainer", container_id=container).details()
    node.cri.call("StopContainer", container_id=container, timeout=10)
    assert "started before" in refused(node, "StartContainer", container_id=container).details()
    assert node.status(container).exit_code == 5


def test_container_in_an_unknown_pod_or_of_an_unknown_image_is_not_created(
    node: ToyNode, image: str
) -> None:
    """CreateContainer: in the specified PodSandbox; the image was pulled before."""
    config = {"metadata": {"name": "lost"}, "image": {"image": node.cri.pull(image)}}
    fault = refused(node, "CreateContainer", pod_sandbox_id="nobody", config=config)
    assert fault.code() is grpc.StatusCode.NOT_FOUND
    config["image"] = {"image": f"{node.registry.address}/nobody:knows"}
    fault = refused(node, "CreateContainer", pod_sandbox_id=node.pod("lonely"), config=config)
    assert fault.code() is grpc.StatusCode.NOT_FOUND
    assert not [
        one for one in node.cri.call("ListContainers").containers if one.metadata.name == "lost"
    ]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("PodSandboxStatus", "pod_sandbox_id"),
        ("ContainerStatus", "container_id"),
        ("ContainerStats", "container_id"),
        ("StartContainer", "container_id"),
    ],
)
def test_asking_for_what_is_not_there_is_an_error(node: ToyNode, call: str, field: str) -> None:
    """PodSandboxStatus, ContainerStatus, ContainerStats: if not present, an error."""
    assert refused(node, call, **{field: "nothing"}).code() is grpc.StatusCode.NOT_FOUND


def test_remove_ends_a_running_container(node: ToyNode, image: str) -> None:
    """RemoveContainer: a running container is forcibly removed."""
    container = up(node, image, DEAF)
    keeper = node.keeper_of(container)
    inside = node.family(container) - {keeper}
    node.cri.call("RemoveContainer", container_id=container)
    assert node.living(inside) == set()
    assert inside
    # Its keeper has told of the end, and ends.
    wait_for(lambda: not node.living({keeper}), "the end of its keeper")
    assert refused(node, "ContainerStatus", container_id=container).code() is (
        grpc.StatusCode.NOT_FOUND
    )
    node.cri.call("RemoveContainer", container_id=container)


def test_stopped_pod_has_no_running_container_and_no_address(node: ToyNode, image: str) -> None:
    """StopPodSandbox: containers are forcibly terminated, network resources reclaimed."""
    pod = node.pod("stopping")
    containers = [node.create(pod, image, DEAF) for _ in range(2)]
    for container in containers:
        node.cri.call("StartContainer", container_id=container)
        node.wait_for_log(container, "up")
    node.cri.call("StopPodSandbox", pod_sandbox_id=pod)
    status = node.cri.call("PodSandboxStatus", pod_sandbox_id=pod).status
    assert (status.state, status.network.ip) == (1, "")
    assert [node.status(one).state for one in containers] == [EXITED, EXITED]
    assert [node.status(one).exit_code for one in containers] == [137, 137]


def test_unknown_runtime_handler_is_refused(node: ToyNode) -> None:
    """RunPodSandboxRequest.runtime_handler: an unknown one should be rejected."""
    metadata = {"name": "odd", "uid": "odd", "namespace": "default"}
    fault = refused(node, "RunPodSandbox", config={"metadata": metadata}, runtime_handler="kata")
    assert fault.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "kata" in fault.details()
    assert "odd" not in [one.metadata.name for one in node.cri.call("ListPodSandbox").items]


# -- timing of the end ----------------------------------------------------------------------------


def test_stop_returns_as_soon_as_the_container_has_ended(node: ToyNode, image: str) -> None:
    """StopContainer: the timeout is the longest wait, not the wait."""
    container = up(node, image)
    begin_s = time.monotonic()
    node.cri.call("StopContainer", container_id=container, timeout=18)
    assert time.monotonic() - begin_s < 9
    assert node.status(container).exit_code == 5


def test_stop_without_a_grace_kills_at_once(node: ToyNode, image: str) -> None:
    """StopContainerRequest.timeout: 0 terminates forcibly and immediately, without TERM."""
    container = up(node, image)
    node.cri.call("StopContainer", container_id=container, timeout=0)
    assert node.status(container).exit_code == 137


def test_second_stop_may_shorten_the_grace_of_the_first(node: ToyNode, image: str) -> None:
    """StopContainer: a kubelet that lost patience asks again with less time."""
    container = up(node, image, DEAF)
    waiting = threading.Thread(
        target=node.cri.call, args=("StopContainer",), kwargs=_stop(container, 18)
    )
    waiting.start()
    time.sleep(0.2)
    begin_s = time.monotonic()
    node.cri.call("StopContainer", container_id=container, timeout=0)
    assert time.monotonic() - begin_s < 9
    waiting.join(9)
    assert not waiting.is_alive()
    assert node.status(container).exit_code == 137


def _stop(container: str, timeout_s: int) -> dict[str, object]:
    return {"container_id": container, "timeout": timeout_s}


def test_signal_that_ends_it_becomes_the_exit_code(node: ToyNode, image: str) -> None:
    """Kubernetes, "Pod Lifecycle": exit codes as containerd and the shell give them, 128 + n."""
    container = up(node, image, "", command=["sh", "-c", "echo up; exec sleep 300"], stop_signal=13)
    assert cri.Signal.Name(13) == "SIGKILL"
    node.cri.call("StopContainer", container_id=container, timeout=10)
    assert (node.status(container).exit_code, node.status(container).reason) == (137, "Error")


@pytest.mark.parametrize(
    ("of_image", "of_container", "expected"),
    [("", 0, "SIGTERM"), ("SIGQUIT", 0, "SIGQUIT"), ("SIGQUIT", "SIGUSR1", "SIGUSR1")],
)
def test_status_tells_the_stop_signal_that_is_used(
    node: ToyNode, of_image: str, of_container: int | str, expected: str
) -> None:
    """ContainerStatus.stop_signal: the one the runtime uses to terminate the container."""
    image = node.registry.add("signal", [archive({"x": b"1"})], {"StopSignal": of_image})
    container = node.create(node.pod("signal"), image, "exit 0", stop_signal=of_container)
    assert cri.Signal.Name(node.status(container).stop_signal) == expected


# -- what is given is given back ------------------------------------------------------------------


def test_annotations_and_labels_come_back_unaltered(node: ToyNode, image: str) -> None:
    """PodSandboxStatus and ContainerStatus: annotations MUST be identical to those given."""
    notes = {"example.com/a": "{}", "b": "line\nline", "ü": ""}
    labels = {"app": "x", "io.kubernetes.pod.name": "p"}
    pod = node.pod("noted", annotations=notes, labels=labels)
    container = node.create(pod, image, "exit 0", annotations=notes, labels=labels)
    status = node.cri.call("PodSandboxStatus", pod_sandbox_id=pod).status
    (item,) = node.cri.call("ListContainers", filter={"id": container}).containers
    for found in (status, node.status(container), item):
        assert (dict(found.annotations), dict(found.labels)) == (notes, labels)


def test_metadata_identifies_pod_and_container(node: ToyNode, image: str) -> None:
    """PodSandboxMetadata and ContainerMetadata: names, uid and the attempt, as the kubelet counts.

    A kubelet that lost its memory finds its pods by them.
    """
    metadata = {"name": "meta", "uid": "u-1", "namespace": "ns", "attempt": 3}
    pod = node.pod("meta", metadata=metadata)
    container = node.create(pod, image, "exit 0", metadata={"name": "side", "attempt": 4})
    found = node.cri.call("PodSandboxStatus", pod_sandbox_id=pod).status.metadata
    assert {name: getattr(found, name) for name in metadata} == metadata
    status = node.status(container)
    assert (status.metadata.name, status.metadata.attempt) == ("side", 4)
    (item,) = node.cri.call("ListContainers", filter={"id": container}).containers
    assert item.pod_sandbox_id == pod


# -- mounts ---------------------------------------------------------------------------------------


def test_mount_whose_source_is_missing_fails_the_start_and_names_it(
    node: ToyNode, image: str, tmp_path: Path
) -> None:
    """Mount.host_path: if it does not exist, runtimes should report an error."""
    mounts = [{"host_path": f"{tmp_path}/missing", "container_path": "/data"}]
    container = node.create(node.pod("unmounted"), image, "exit 0", mounts=mounts)
    fault = refused(node, "StartContainer", container_id=container)
    assert f"{tmp_path}/missing" in fault.details()
    assert node.status(container).state == EXITED


def test_mount_of_a_symbolic_link_is_a_mount_of_what_it_leads_to(
    node: ToyNode, image: str, tmp_path: Path
) -> None:
    """Mount.host_path: runtimes should follow the link and mount the real destination."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("real\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    mounts = [{"host_path": f"{tmp_path}/link", "container_path": "/data"}]
    assert node.output(image, "cat /data/file; test -L /data || echo folder", mounts=mounts) == [
        "real",
        "folder",
    ]


def test_mount_below_another_one_is_seen_whatever_their_order(
    node: ToyNode, image: str, tmp_path: Path
) -> None:
    """Kubernetes, "Volumes": a volume may be mounted below another one; containerd sorts them."""
    for name in ("outer/inner", "inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "inner" / "file").write_text("inner\n")
    mounts = [
        {"host_path": f"{tmp_path}/inner", "container_path": "/data/inner"},
        {"host_path": f"{tmp_path}/outer", "container_path": "/data"},
    ]
    for given in (mounts, mounts[::-1]):
        assert node.output(image, "cat /data/inner/file", mounts=given) == ["inner"]


def test_image_is_mounted_readonly_and_from_its_sub_path(node: ToyNode, image: str) -> None:
    """Mount.image and image_sub_path (KEP 4639): readonly; a missing sub path is an error."""
    weights = node.registry.add("weights", [archive({"model/w.bin": b"weights\n"})])
    volume = {"image": node.cri.pull(weights)}

    def mounts(sub: str) -> list[dict[str, object]]:
        return [{"image": volume, "image_sub_path": sub, "container_path": "/models"}]

    script = "cat /models/{}; echo x > /models/new || echo refused"
    whole = node.output(image, script.format("model/w.bin"), mounts=mounts(""))
    below = node.output(image, script.format("w.bin"), mounts=mounts("model"))
    for lines in (whole, below):
        assert lines[0] == "weights"
        assert "refused" in lines
    for wrong in ("nowhere", "../trees"):
        with pytest.raises(grpc.RpcError) as caught:
            node.create(node.pod("wrong"), image, "exit 0", mounts=mounts(wrong))
        assert wrong in caught.value.details()


def test_mounts_are_told_in_the_status(node: ToyNode, image: str, tmp_path: Path) -> None:
    """ContainerStatus.mounts: the kubelet's eviction and the status of volumes read them."""
    mounts = [{"host_path": str(tmp_path), "container_path": "/data", "readonly": True}]
    container = node.create(node.pod("told"), image, "exit 0", mounts=mounts)
    (found,) = node.status(container).mounts
    assert (found.host_path, found.container_path, found.readonly) == (str(tmp_path), "/data", True)


# -- exec -----------------------------------------------------------------------------------------


def test_output_of_an_exec_is_capped_and_the_command_goes_on(node: ToyNode, image: str) -> None:
    """ExecSyncResponse: at most 16 MB of each stream; the rest is discarded without an error."""
    container = up(node, image)
    script = f"head -c {17 * MIB} /dev/zero; head -c {17 * MIB} /dev/zero >&2; exit 3"
    done = node.cri.call("ExecSync", container_id=container, cmd=["sh", "-c", script], timeout=18)
    assert (len(done.stdout), len(done.stderr)) == (16 * MIB, 16 * MIB)
    assert done.exit_code == 3


def test_exec_of_an_unknown_command_is_an_exit_code_not_an_error(node: ToyNode, image: str) -> None:
    """ExecSync: to the kubelet an error is a broken runtime, an exit code a failed probe."""
    container = up(node, image)
    done = node.cri.call("ExecSync", container_id=container, cmd=["no-such-program"], timeout=9)
    assert done.exit_code == 126
    assert b"no-such-program" in done.stderr


def test_exec_ends_with_its_container(node: ToyNode, image: str) -> None:
    """`pid_namespaces(7)`: an exec is a process of the container, and dies with its PID 1."""
    container = up(node, image)
    codes: list[int] = []

    def wait() -> None:
        cmd = ["sh", "-c", "echo in > /tmp/in; sleep 300"]
        done = node.cri.call("ExecSync", container_id=container, cmd=cmd, timeout=18)
        codes.append(done.exit_code)

    thread = threading.Thread(target=wait)
    thread.start()
    look: dict[str, Any] = {
        "container_id": container,
        "cmd": ["test", "-e", "/tmp/in"],
        "timeout": 9,
    }
    wait_for(lambda: node.cri.call("ExecSync", **look).exit_code == 0, "the exec to run")
    node.cri.call("StopContainer", container_id=container, timeout=0)
    thread.join(9)
    assert codes == [137]


# -- logs and statistics --------------------------------------------------------------------------


def test_log_of_an_ended_container_is_not_reopened(node: ToyNode, image: str) -> None:
    """ReopenContainerLog: once it returns an error, a new log file MUST NOT be created."""
    container = node.start(image, "echo last")
    node.ended(container)
    path = Path(node.status(container).log_path)
    path.rename(f"{path}.old")
    assert "not running" in refused(node, "ReopenContainerLog", container_id=container).details()
    assert not path.exists()


def test_log_lies_where_pod_and_container_say(node: ToyNode, image: str, tmp_path: Path) -> None:
    """PodSandboxConfig.log_directory and ContainerConfig.log_path below it."""
    pod = node.pod("logged", log_directory=str(tmp_path / "pods" / "x"))
    container = node.create(pod, image, "echo here", log_path="main/7.log")
    node.cri.call("StartContainer", container_id=container)
    assert node.ended(container).log_path == f"{tmp_path}/pods/x/main/7.log"
    assert (tmp_path / "pods/x/main/7.log").read_text().endswith(" stdout F here\n")


def test_statistics_are_those_of_running_containers_only(node: ToyNode, image: str) -> None:
    """ListContainerStats: of all running containers."""
    pod = node.pod("counted")
    runs, ended, created = (node.create(pod, image, UP) for _ in range(3))
    for container in (runs, ended):
        node.cri.call("StartContainer", container_id=container)
        node.wait_for_log(container, "up")
    node.cri.call("StopContainer", container_id=ended, timeout=0)
    found = node.cri.call("ListContainerStats", filter={"pod_sandbox_id": pod}).stats
    assert [one.attributes.id for one in found] == [runs]
    assert node.status(created).state == CREATED


def test_runtime_says_what_it_cannot_do(node: ToyNode) -> None:
    """Calls that the sandbox does not claim answer UNIMPLEMENTED, which kubelets understand."""
    for name in ("CheckpointContainer", "PodSandboxStats"):
        assert refused(node, name).code() is grpc.StatusCode.UNIMPLEMENTED
