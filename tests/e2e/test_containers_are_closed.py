"""What a container sees, told by a process in one: its image, its mounts, system files, no more.

A container here is a process of this machine, so everything it does not see was taken away by the
sandbox's runtime. The pod meets the Pod Security level `restricted`, as model pods do.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.sandbox.environment import client_environment
from slipway.sandbox.home import MARKER_VARIABLE
from slipway.sandbox.images import BASE_TAG, SIMULATED
from tests.e2e.conftest import PROJECT, Sandbox

PATIENCE_S = 60.0
TOLD_BY_KUBERNETES = "KUBERNETES_"  # where the API is: every pod of every cluster is told

# Prints what it sees as one line of JSON, then waits to be deleted.
LOOK = """
import json, os, sys, time
numbers = [name for name in os.listdir("/proc") if name.isdigit()]
seen = {
    "pid": os.getpid(),
    "processes": {n: open(f"/proc/{n}/cmdline").read().split("\\0")[:-1] for n in numbers},
    "env": dict(os.environ),
    "there": [path for path in json.loads(os.environ["PLACES"]) if os.path.lexists(path)],
    "beside": {path: os.listdir(path) for path in json.loads(os.environ["CROSSED"])},
    "tmp": os.listdir("/tmp"),
    "hostname": os.uname().nodename,
    "modules": [name for name in ("prefect", "kubernetes", "slipway") if has(name)],
    "installed": [name for path in sys.path if path.endswith("-packages") for name in list(path)],
    "path": sys.path,
    "written": [path for path in ("/usr", "/etc") if write(path)],
}
print(json.dumps(seen), flush=True)
time.sleep(3600)
"""
TOOLS = """
import importlib.util, os
def has(name):
    return importlib.util.find_spec(name) is not None
def list(path):
    return os.listdir(path) if os.path.isdir(path) else []
def write(path):
    try:
        open(path + "/" + os.environ["MARK"], "w").close()
    except OSError:
        return False
    return True
"""


class Looker:
    """A pod that tells what it sees.

    Args:
        sandbox: where it runs.
        namespace: of its own.
        mark: a value in its environment, by which its process is found on this machine.
    """

    name = "looker"

    def __init__(self, sandbox: Sandbox, namespace: str, mark: str) -> None:
        self.sandbox = sandbox
        self.namespace = namespace
        self.mark = mark

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        done = self.sandbox.kubectl("-n", self.namespace, *args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        self.kubectl("create", "-f", "-", stdin=json.dumps(pod(self)))

    def seen(self) -> dict[str, Any]:
        """Return what it printed, once it has."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            done = self.sandbox.kubectl("-n", self.namespace, "logs", self.name)
            if done.returncode == 0 and done.stdout.endswith("\n"):
                told: dict[str, Any] = json.loads(done.stdout)
                return told
            time.sleep(0.1)
        raise AssertionError(self.kubectl("describe", "pod", self.name))


def crossed() -> list[str]:
    """Folders that lead to the interpreter, which the runtime gives to every container."""
    prefix = Path(sys.base_prefix).resolve()
    system = prefix in {Path("/usr"), Path("/usr/local")}
    return [] if system else [str(path) for path in prefix.parents if path != Path("/")]


def forbidden_places(sandbox: Sandbox) -> list[str]:
    """Paths that exist on this machine and must not exist in a container."""
    home = Path.home()
    places = {
        *(PROJECT, *PROJECT.parents, Path(sys.prefix)),
        *(sandbox.home.root, sandbox.home.kubeconfig, sandbox.home.secrets),
        *(home, home / ".local/state", home / ".cache", home / ".config"),
    }
    given = {"/", "/tmp", "/usr", *crossed()}
    return sorted({str(path) for path in places if path.exists()} - given)


def pod(looker: Looker) -> dict[str, Any]:
    sandbox = looker.sandbox
    image = f"127.0.0.1:{sandbox.home.port('registry')}/{SIMULATED}:{BASE_TAG}"
    environment = {
        "PLACES": json.dumps(forbidden_places(sandbox)),
        "CROSSED": json.dumps(crossed()),
        "MARK": looker.mark,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": looker.name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["python3", "-c", TOOLS + LOOK],
                    "env": [{"name": key, "value": value} for key, value in environment.items()],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


@pytest.fixture(scope="module")
def looker(sandbox: Sandbox) -> Iterator[Looker]:
    """The pod that most tests look through; none of them changes it."""
    yield from _looker(sandbox)


@pytest.fixture
def doomed(sandbox: Sandbox) -> Iterator[Looker]:
    """A pod of the test's own, to be deleted."""
    yield from _looker(sandbox)


def _looker(sandbox: Sandbox) -> Iterator[Looker]:
    namespace = f"closed-{uuid.uuid4().hex[:8]}"
    assert sandbox.kubectl("create", "namespace", namespace).returncode == 0
    found = Looker(sandbox, namespace, uuid.uuid4().hex)
    found.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    account = ("-n", namespace, "get", "serviceaccount", "default")
    deadline_s = time.monotonic() + PATIENCE_S
    while sandbox.kubectl(*account).returncode != 0:
        assert time.monotonic() < deadline_s, "the namespace got no service account"
        time.sleep(0.1)
    found.start()
    yield found
    gone = sandbox.kubectl("delete", "namespace", namespace, "--wait=false")
    assert gone.returncode == 0, gone.stderr


def read(process: Path, name: str) -> bytes:
    """Return a file of a process in /proc; empty when it is gone or not ours to read."""
    try:
        return (process / name).read_bytes()
    except OSError:  # PermissionError, ProcessLookupError, or EINVAL of one that is ending
        return b""


def processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def processes_with(mark: str) -> list[int]:
    """Return the processes of this machine whose environment holds the mark."""
    wanted = f"MARK={mark}".encode()
    return [
        int(process.name)
        for process in processes()
        if wanted in read(process, "environ").split(b"\0")
    ]


def mounts_of(uid: str) -> set[bytes]:
    """Return the mounts of that pod's folders, in whatever process's view of the machine."""
    return {
        line
        for process in processes()
        for line in read(process, "mountinfo").splitlines()
        if uid.encode() in line
    }


def test_container_sees_nothing_of_the_project_and_of_the_sandbox(looker: Looker) -> None:
    places = forbidden_places(looker.sandbox)
    assert {str(PROJECT), sys.prefix, str(looker.sandbox.home.root)} <= set(places)
    seen = looker.seen()
    assert seen["there"] == []
    assert seen["tmp"] == []
    assert all(len(names) == 1 for names in seen["beside"].values()), seen["beside"]


def test_container_is_alone_and_the_first_process(looker: Looker) -> None:
    seen = looker.seen()
    assert seen["pid"] == 1
    assert list(seen["processes"]) == ["1"]
    assert seen["processes"]["1"][:2] == ["python3", "-c"]
    assert seen["hostname"] == looker.name


def test_container_has_the_packages_of_its_image_only(looker: Looker) -> None:
    # The image's PYTHONPATH holds the model server, a few modules of the package slipway.
    seen = looker.seen()
    assert seen["modules"] == ["slipway"]
    assert seen["installed"] == []
    assert "/opt/server" in seen["path"]


def test_environment_of_a_container_holds_no_proxy_no_setting_and_no_secret(
    looker: Looker,
) -> None:
    home = looker.sandbox.home
    told = {
        name: value
        for name, value in looker.seen()["env"].items()
        if name not in {"PLACES", "CROSSED", "MARK"} and not name.startswith(TOLD_BY_KUBERNETES)
    }
    assert not [name for name in told if name.lower().endswith("_proxy")]
    assert set(told) & set(client_environment(home)) <= {"PATH"}
    assert not [name for name, value in told.items() if str(PROJECT) in value]
    assert MARKER_VARIABLE not in told
    assert not [name for name, value in told.items() if str(home.root) in value]
    secrets = [path.read_text() for path in home.secrets.iterdir()]
    assert secrets
    assert not [name for name, value in told.items() if any(text in value for text in secrets)]


def test_container_that_writes_into_system_folders_changes_no_file_of_this_machine(
    looker: Looker,
) -> None:
    # A layer of its own takes what it writes: a read-only root is not enforced here.
    assert looker.seen()["written"] == ["/usr", "/etc"]
    here = [path for name in ("/usr", "/etc") if (path := Path(name, looker.mark)).exists()]
    for path in here:
        path.unlink()
    assert here == []


def test_deleted_pod_leaves_no_process_and_no_mount(doomed: Looker) -> None:
    doomed.seen()
    uid = doomed.kubectl("get", "pod", doomed.name, "-o", "jsonpath={.metadata.uid}")
    assert len(processes_with(doomed.mark)) == 1
    assert mounts_of(uid)

    doomed.kubectl("delete", "pod", doomed.name, "--timeout=60s")

    assert processes_with(doomed.mark) == []
    assert mounts_of(uid) == set()
