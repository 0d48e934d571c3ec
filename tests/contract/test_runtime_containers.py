"""What CRI and the container world promise of a running container, each rule with its source."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.contract.runtime_toys import (
    MARKER,
    Executable,
    ToyNode,
    archive,
    command_of,
    toy_node,
    wait_for,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyNode]:
    with toy_node(tmp_path_factory.mktemp("n")) as started:
        yield started


@pytest.fixture(scope="module")
def image(node: ToyNode) -> str:
    files = archive(
        {
            "app/data.txt": b"from the image\n",
            "app/hello": Executable(b"#!/bin/sh\necho hello $@\n"),
            "etc/image.conf": b"conf\n",
        }
    )
    config = {
        "Env": ["PATH=/app:/usr/bin:/bin", "FROM=image", "BOTH=image"],
        "Entrypoint": ["hello"],
        "Cmd": ["cmd"],
        "WorkingDir": "/app",
    }
    return node.registry.add("app", [files], config)


# -- command, environment, folders ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        ([], [], "hello cmd"),
        ([], ["given"], "hello given"),
        (["echo", "own"], [], "own"),
        (["echo", "own"], ["given"], "own given"),
    ],
)
def test_command_and_args_replace_entrypoint_and_cmd_as_kubernetes_says(
    node: ToyNode, image: str, command: list[str], args: list[str], expected: str
) -> None:
    """Kubernetes, "Define a Command and Arguments for a Container", table of four cases."""
    container = node.start(image, command=command, args=args)
    assert node.ended(container).exit_code == 0
    assert [line.split(" ", 3)[3] for line in node.log(container)] == [expected]


def test_container_environment_wins_over_image_and_host_does_not_leak(
    node: ToyNode, image: str
) -> None:
    """OCI image-spec config.Env are defaults; a container inherits nothing of the runtime."""
    envs = [
        {"key": "BOTH", "value": b"container"},
        {"key": "KUBERNETES_SERVICE_HOST", "value": b"10.96.0.1"},
        {"key": "KUBERNETES_SERVICE_PORT", "value": b"443"},
    ]
    lines = node.output(image, "env", envs=envs)
    values = dict(line.split("=", 1) for line in lines)
    assert values["FROM"] == "image"
    assert values["BOTH"] == "container"
    assert values["KUBERNETES_SERVICE_HOST"] == "127.0.0.1"
    assert values["KUBERNETES_SERVICE_PORT"] == "16443"
    assert MARKER not in values
    assert "HTTP_PROXY" not in values
    assert "VIRTUAL_ENV" not in values


def test_working_directory_is_made_and_entered(node: ToyNode, image: str) -> None:
    """OCI runtime-spec process.cwd; runc makes a missing one."""
    assert node.output(image, "pwd") == ["/app"]
    assert node.output(image, "pwd", working_dir="/not/yet/there") == ["/not/yet/there"]


def test_mounts_appear_at_their_own_paths_readonly_where_asked(
    node: ToyNode, image: str, tmp_path: Path
) -> None:
    """`Mount` in api.proto: host_path, container_path, readonly; a file may be mounted too."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "in").write_text("volume\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    mounts = [
        {"host_path": f"{tmp_path}/volume", "container_path": "/etc/app/deep"},
        {"host_path": f"{tmp_path}/volume", "container_path": "/app/ro", "readonly": True},
        {"host_path": f"{tmp_path}/hosts", "container_path": "/etc/hosts"},
    ]
    script = "cat /etc/app/deep/in /etc/hosts; echo x > /etc/app/deep/out; echo x > /app/ro/out"
    lines = node.output(image, script, mounts=mounts)
    assert lines[:2] == ["volume", "127.0.0.1 localhost"]
    assert "Read-only file system" in lines[2] or "cannot create" in lines[2]
    assert (tmp_path / "volume" / "out").read_text() == "x\n"


def test_what_a_container_writes_never_reaches_image_or_host(node: ToyNode, image: str) -> None:
    """A container's writable layer is its own and ends with it (OCI runtime-spec, root)."""
    script = "echo changed > /app/data.txt; echo x > /etc/slipway-was-here; cat /app/data.txt"
    assert node.output(image, script) == ["changed"]
    assert node.output(image, "cat /app/data.txt") == ["from the image"]
    assert not Path("/etc/slipway-was-here").exists()


def test_pod_sees_its_image_and_the_system_but_not_the_project(node: ToyNode, image: str) -> None:
    """DESIGN §6: an image carries everything but the interpreter and system libraries."""
    look = "; ".join(
        f"test -e {path} && echo seen {path} || echo hidden"
        for path in (REPOSITORY, REPOSITORY / ".venv", node.root, Path.home() / ".cache")
    )
    assert node.output(image, look) == ["hidden"] * 4
    python = "import importlib.util as u, sys; print(u.find_spec('grpc'), u.find_spec('pip'))"
    assert node.output(image, f'python3 -c "{python}"') == ["None None"]
    assert node.output(image, "cat /etc/image.conf; ls /usr/bin/env; ls -A /tmp") == [
        "conf",
        "/usr/bin/env",
    ]


def test_container_is_pid_one_of_its_own_namespace_with_the_pods_hostname(
    node: ToyNode, image: str
) -> None:
    """`pid_namespaces(7)`; Kubernetes, "Pod Lifecycle": the hostname is the pod's name."""
    pod = node.pod("named")
    container = node.create(pod, image, "echo $$; uname -n; ls -d /proc/[0-9]* | wc -l")
    node.cri.call("StartContainer", container_id=container)
    node.ended(container)
    lines = [line.split(" ", 3)[3] for line in node.log(container)]
    assert lines[:2] == ["1", "named"]
    assert int(lines[2]) < 6


def test_exec_bit_missing_or_command_unknown_fails_the_start_and_says_why(
    node: ToyNode, image: str
) -> None:
    """Containerd: StartContainer fails, the state is EXITED, 128, StartError."""
    pod = node.pod("cannot-start")
    container = node.create(pod, image, command=["no-such-program"])
    with pytest.raises(grpc.RpcError) as caught:
        node.cri.call("StartContainer", container_id=container)
    assert "executable file not found in $PATH" in caught.value.details()
    status = node.status(container)
    assert (status.state, status.exit_code, status.reason) == (2, 128, "StartError")
    assert "no-such-program" in status.message


# -- log and end ----------------------------------------------------------------------------------


def test_log_has_one_timestamped_record_a_line_and_partial_tags(node: ToyNode, image: str) -> None:
    """CRI log format: `RFC3339Nano stream F|P text`; containerd splits at 16 KiB."""
    script = (
        "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf 'no newline'"
    )
    container = node.start(image, script)
    node.ended(container)
    records = [line.split(" ", 3) for line in node.log(container)]
    stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
    assert all(stamp.fullmatch(record[0]) for record in records)
    assert ["stderr", "F", "err"] in [record[1:] for record in records]
    out = [(tag, text) for _, stream, tag, text in records if stream == "stdout"]
    assert out[0] == ("F", "out")
    assert [(tag, len(text)) for tag, text in out[1:3]] == [("P", 16384), ("F", 3616)]
    assert out[3] == ("P", "no newline")


def test_log_reopens_after_rotation(node: ToyNode, image: str) -> None:
    """ReopenContainerLog in api.proto: called after the kubelet renamed the file."""
    container = node.start(
        image, "echo first; while ! test -e /tmp/go; do sleep 0.02; done; echo two"
    )
    node.wait_for_log(container, "first")
    path = Path(node.status(container).log_path)
    path.rename(f"{path}.old")
    node.cri.call("ReopenContainerLog", container_id=container)
    assert path.exists()
    node.cri.call("ExecSync", container_id=container, cmd=["touch", "/tmp/go"], timeout=5)
    node.ended(container)
    assert [line.split(" ", 3)[3] for line in node.log(container)] == ["two"]
    assert "first" in Path(f"{path}.old").read_text()


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("exit 0", 0, "Completed"),
        ("exit 7", 7, "Error"),
        ("kill -9 $$; sleep 1; exit 3", 3, "Error"),
    ],
)
def test_exit_code_and_reason_are_reported(
    node: ToyNode, image: str, script: str, code: int, reason: str
) -> None:
    """ContainerStatus in api.proto; PID 1 of a namespace cannot signal itself to death."""
    before_ns = time.time_ns()
    status = node.ended(node.start(image, script))
    assert (status.exit_code, status.reason) == (code, reason)
    assert (
        before_ns < status.created_at <= status.started_at <= status.finished_at <= time.time_ns()
    )


def test_stop_sends_term_and_a_handler_decides_the_exit_code(node: ToyNode, image: str) -> None:
    """StopContainer in api.proto: with a grace period."""
    script = "trap 'echo bye; exit 5' TERM; echo up; while true; do sleep 0.05; done"
    container = node.start(image, script)
    node.wait_for_log(container, "up")
    node.cri.call("StopContainer", container_id=container, timeout=10)
    status = node.status(container)
    assert (status.state, status.exit_code) == (2, 5)
    assert "bye" in node.log(container)[-1]


def test_stop_kills_after_the_grace_with_every_process_of_the_container(
    node: ToyNode, image: str
) -> None:
    """StopContainer in api.proto; `pid_namespaces(7)`: when PID 1 ends, all are killed."""
    script = "trap '' TERM; (setsid sleep 300 &) ; sleep 300 & echo up; while true; do wait; done"
    container = node.start(image, script)
    node.wait_for_log(container, "up")
    inside = node.family(container)
    assert len(inside) >= 4
    begin_s = time.monotonic()
    node.cri.call("StopContainer", container_id=container, timeout=1)
    assert 0.9 < time.monotonic() - begin_s < 4
    assert node.status(container).exit_code == 137
    assert node.living(inside) == set()


def test_stop_signal_of_image_and_container_is_used(node: ToyNode) -> None:
    """OCI image-spec config.StopSignal; ContainerConfig.stop_signal in api.proto wins."""
    trap = "trap 'exit 41' INT; trap 'exit 42' USR1; echo up; while true; do sleep 0.05; done"
    image = node.registry.add("signals", [archive({"x": b""})], {"StopSignal": "SIGINT"})
    for extra, code in ((dict[str, object](), 41), ({"stop_signal": "SIGUSR1"}, 42)):
        container = node.start(image, trap, **extra)
        node.wait_for_log(container, "up")
        node.cri.call("StopContainer", container_id=container, timeout=10)
        assert node.status(container).exit_code == code


def test_killed_keeper_takes_its_container_along(node: ToyNode, image: str) -> None:
    """Nothing runs unwatched: PR_SET_PDEATHSIG, `prctl(2)`."""
    container = node.start(image, "(setsid sleep 300 &); echo up; sleep 300")
    node.wait_for_log(container, "up")
    inside = node.family(container)
    os.kill(node.keeper_of(container), signal.SIGKILL)
    status = node.ended(container)
    assert (status.exit_code, status.reason) == (137, "Error")
    wait_for(lambda: not node.living(inside), "the container's processes to end")


# -- exec -----------------------------------------------------------------------------------------


def test_exec_sync_runs_inside_and_returns_output_and_code(node: ToyNode, image: str) -> None:
    """ExecSync in api.proto: stdout, stderr, exit_code, in the container's environment."""
    container = node.start(image, "echo x > /tmp/mine; echo up; sleep 300")
    node.wait_for_log(container, "up")
    script = "cat /tmp/mine; pwd; echo $FROM; echo oops >&2; exit 3"
    done = node.cri.call("ExecSync", container_id=container, cmd=["sh", "-c", script], timeout=5)
    assert (done.stdout, done.stderr, done.exit_code) == (b"x\n/app\nimage\n", b"oops\n", 3)


def test_exec_sync_that_takes_too_long_is_killed(node: ToyNode, image: str) -> None:
    """ExecSync in api.proto: timeout; the kubelet takes DEADLINE_EXCEEDED for a failed probe."""
    container = node.start(image, "echo up; sleep 300")
    node.wait_for_log(container, "up")
    with pytest.raises(grpc.RpcError) as caught:
        node.cri.call("ExecSync", container_id=container, cmd=["sleep", "59.5"], timeout=1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: not node.running("sleep", "59.5"), "the command to end")


def test_exec_in_an_ended_container_is_refused(node: ToyNode, image: str) -> None:
    container = node.start(image, "exit 0")
    node.ended(container)
    with pytest.raises(grpc.RpcError) as caught:
        node.cri.call("ExecSync", container_id=container, cmd=["true"], timeout=1)
    assert "not running" in caught.value.details()


def test_stats_of_a_running_container_are_its_processes(node: ToyNode, image: str) -> None:
    """ListContainerStats in api.proto."""
    container = node.start(image, "echo up; while true; do :; done")
    node.wait_for_log(container, "up")
    time.sleep(0.2)
    (stats,) = node.cri.call("ListContainerStats", filter={"id": container}).stats
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert stats.memory.working_set_bytes.value > 100_000


# -- pods -----------------------------------------------------------------------------------------


def test_stop_and_remove_are_idempotent(node: ToyNode, image: str) -> None:
    """api.proto: Stop… and Remove… "must not return an error if already stopped / removed"."""
    pod = node.pod("idempotent")
    container = node.create(pod, image, "echo up; sleep 300")
    node.cri.call("StartContainer", container_id=container)
    for _ in range(2):
        node.cri.call("StopContainer", container_id=container, timeout=0)
    for _ in range(2):
        node.cri.call("StopPodSandbox", pod_sandbox_id=pod)
    for _ in range(2):
        node.cri.call("RemoveContainer", container_id=container)
    for _ in range(2):
        node.cri.call("RemovePodSandbox", pod_sandbox_id=pod)
    for unknown in ("nothing",):
        node.cri.call("StopContainer", container_id=unknown, timeout=1)
        node.cri.call("StopPodSandbox", pod_sandbox_id=unknown)


def test_removing_a_pod_leaves_no_process_and_no_file(node: ToyNode, image: str) -> None:
    """RemovePodSandbox in api.proto: running containers are forcibly terminated and removed."""
    pod = node.pod("leaver")
    container = node.create(pod, image, "trap '' TERM; (setsid sleep 300 &); echo up; sleep 300")
    node.cri.call("StartContainer", container_id=container)
    node.wait_for_log(container, "up")
    node.cri.call("RemovePodSandbox", pod_sandbox_id=pod)
    assert [
        path for path in node.root.rglob("*") if container in path.name or pod in path.name
    ] == []
    assert all(container not in command_of(pid) for pid in node.processes())
    for name, field, value in (
        ("PodSandboxStatus", "pod_sandbox_id", pod),
        ("ContainerStatus", "container_id", container),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            node.cri.call(name, **{field: value})
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_pod_addresses_are_unique_on_loopback_and_reused_late(node: ToyNode) -> None:
    """Kubernetes, "The Kubernetes network model": every pod has its own address."""
    first, second = node.pod("first"), node.pod("second")
    addresses = [_address(node, pod) for pod in (first, second)]
    assert len(set(addresses)) == 2
    assert all(re.fullmatch(r"127\.100\.9\.\d+", address) for address in addresses)
    node.cri.call("RemovePodSandbox", pod_sandbox_id=first)
    assert _address(node, node.pod("third")) not in addresses


def test_pod_in_the_hosts_network_has_the_hosts_address(node: ToyNode) -> None:
    security = {"namespace_options": {"network": "NODE"}}
    pod = node.pod("host", hostname="", linux={"security_context": security})
    assert _address(node, pod) == "127.0.0.1"


def _address(node: ToyNode, pod: str) -> str:
    return str(node.cri.call("PodSandboxStatus", pod_sandbox_id=pod).status.network.ip)


def test_lists_are_filtered_by_id_state_and_labels(node: ToyNode, image: str) -> None:
    """PodSandboxFilter and ContainerFilter in api.proto: all given parts must hold."""
    pod = node.pod("filtered", labels={"app": "one", "tier": "x"})
    container = node.create(pod, image, "exit 0", labels={"io.kubernetes.pod.uid": "u1"})
    found = node.cri.call("ListPodSandbox", filter={"label_selector": {"app": "one"}}).items
    assert [item.id for item in found] == [pod]
    wrong = {"label_selector": {"app": "one", "tier": "y"}}
    assert not node.cri.call("ListPodSandbox", filter=wrong).items
    for state, expected in (("CONTAINER_CREATED", [container]), ("CONTAINER_EXITED", [])):
        wanted = {"pod_sandbox_id": pod, "state": {"state": state}}
        listed = node.cri.call("ListContainers", filter=wanted).containers
        assert [item.id for item in listed] == expected


def test_container_of_a_stopped_pod_is_refused(node: ToyNode, image: str) -> None:
    pod = node.pod("stopped")
    node.cri.call("StopPodSandbox", pod_sandbox_id=pod)
    with pytest.raises(grpc.RpcError) as caught:
        node.create(pod, image, "exit 0")
    assert "stopped" in caught.value.details()


def test_streaming_calls_are_honestly_not_supported(node: ToyNode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        node.cri.call("Exec", container_id="any", cmd=["sh"])
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_status_says_ready_and_the_version_is_v1(node: ToyNode) -> None:
    """Version and Status in api.proto: the two required conditions."""
    conditions = node.cri.call("Status").status.conditions
    assert {one.type: one.status for one in conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
    }
    assert node.cri.call("Version", version="0.1.0").runtime_api_version == "v1"
    assert node.cri.call("RuntimeConfig").linux.cgroup_driver == 1


# -- restarts -------------------------------------------------------------------------------------


def test_containers_outlive_a_killed_runtime_and_are_adopted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A kubelet expects its containers back from a restarted runtime (CRI is stateless for it)."""
    with toy_node(tmp_path_factory.mktemp("n")) as node:
        image = node.registry.add("app", [archive({"x": b""})])
        lives = node.start(image, "trap 'exit 6' TERM; echo up; while true; do sleep 0.05; done")
        node.wait_for_log(lives, "up")
        dies = node.start(image, "while ! test -e /tmp/go; do sleep 0.02; done; exit 9")
        doomed = node.start(image, "sleep 300")
        keeper = node.keeper_of(doomed)
        address = _address(node, _pod_of(node, lives))
        node.cri.call("ExecSync", container_id=dies, cmd=["touch", "/tmp/go"], timeout=5)
        node.kill()
        os.kill(keeper, 9)
        node.restart()
        assert node.status(lives).state == 1
        assert _address(node, _pod_of(node, lives)) == address
        assert node.ended(dies).exit_code == 9
        assert node.status(doomed).exit_code == 137
        node.cri.call("StopContainer", container_id=lives, timeout=10)
        assert node.status(lives).exit_code == 6


def test_container_started_in_the_runtimes_last_moment_is_found(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A runtime may be killed between the start of a container and its own note of it."""
    with toy_node(tmp_path_factory.mktemp("n")) as node:
        image = node.registry.add("app", [archive({"x": b""})])
        script = "trap 'exit 6' TERM; echo up; while true; do sleep 0.05; done"
        lives, ended = node.start(image, script), node.start(image, "exit 4")
        node.wait_for_log(lives, "up")
        node.ended(ended)
        node.kill()
        for container in (lives, ended):
            path = node.root / "containers" / container / "container.json"
            unknown = {"state": "CREATED", "keeper": 0, "keeper_ticks": 0, "init": 0}
            path.write_text(json.dumps(json.loads(path.read_text()) | unknown))
        node.restart()
        assert node.status(lives).state == 1
        assert (node.status(ended).state, node.status(ended).exit_code) == (2, 4)
        node.cri.call("StopContainer", container_id=lives, timeout=10)
        assert node.status(lives).exit_code == 6


def _pod_of(node: ToyNode, container: str) -> str:
    (item,) = node.cri.call("ListContainers", filter={"id": container}).containers
    return str(item.pod_sandbox_id)


def test_orderly_end_leaves_no_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`slipway sandbox down` leaves nothing behind."""
    with toy_node(tmp_path_factory.mktemp("n")) as node:
        image = node.registry.add("app", [archive({"x": b""})])
        container = node.start(image, "trap '' TERM; (setsid sleep 300 &); echo up; sleep 300")
        node.wait_for_log(container, "up")
        node.process.terminate()
        assert node.process.wait(20) == 0
        assert node.processes() == set()
        node.restart()
        assert node.status(container).state == 2
        assert not node.cri.call(
            "ListPodSandbox", filter={"state": {"state": "SANDBOX_READY"}}
        ).items
