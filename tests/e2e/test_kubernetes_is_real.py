"""What only a real Kubernetes does: the sandbox's answers are those of the upstream programs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slipway.sandbox.images import BASE_TAG, SIMULATED
from tests.e2e.conftest import Sandbox

GPUS_A_NODE = 4
NOWHERE = "127.0.0.1:1/none/such:image"  # for pods that need a place but never run
PATIENCE_S = 30.0


class Namespace:
    """A namespace of one test.

    Args:
        sandbox: where it is.
        name: of the namespace.
    """

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        self.sandbox = sandbox
        self.name = name

    def create(self, *manifests: dict[str, Any]) -> tuple[int, str]:
        """Create objects; return kubectl's exit code and everything it said."""
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        done = self.sandbox.kubectl("-n", self.name, "create", "-f", "-", stdin=items)
        return done.returncode, done.stdout + done.stderr

    def get(self, *what: str) -> dict[str, Any]:
        """Return an object or a list."""
        done = self.sandbox.kubectl("-n", self.name, "get", *what, "-o", "json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def namespace(sandbox: Sandbox) -> Iterator[Namespace]:
    yield from temporary(sandbox)


@pytest.fixture
def restricted(sandbox: Sandbox) -> Iterator[Namespace]:
    yield from temporary(sandbox, "pod-security.kubernetes.io/enforce=restricted")


def temporary(sandbox: Sandbox, *labels: str) -> Iterator[Namespace]:
    """Make a namespace with a service account, and delete it with all that is in it."""
    found = Namespace(sandbox, f"real-{uuid.uuid4().hex[:8]}")
    assert sandbox.kubectl("create", "namespace", found.name).returncode == 0
    for label in labels:
        assert sandbox.kubectl("label", "namespace", found.name, label).returncode == 0
    account = ("-n", found.name, "get", "serviceaccount", "default")
    eventually(lambda: sandbox.kubectl(*account).returncode == 0)
    yield found
    # Its pods must be gone, since they hold GPUs; the namespace itself may take its time.
    sandbox.kubectl("-n", found.name, "delete", "deployments,pods", "--all", "--timeout=60s")
    gone = sandbox.kubectl("delete", "namespace", found.name, "--wait=false")
    assert gone.returncode == 0, gone.stderr


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until `holds()`, and fail when it does not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s"
        time.sleep(0.1)


def pod(name: str, *, gpus: int = 0, image: str = NOWHERE, **container: Any) -> dict[str, Any]:
    """Return a pod with one container."""
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    main = {"name": "main", "image": image, "resources": resources, **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [main]},
    }


def web_server(sandbox: Sandbox, name: str) -> dict[str, Any]:
    """Return a pod that answers HTTP on its own address."""
    image = f"127.0.0.1:{sandbox.home.port('registry')}/{SIMULATED}:{BASE_TAG}"
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return pod(
        name,
        image=image,
        command=["python3", "-u", "-m", "http.server", "8000", "--bind", "$(POD_IP)"],
        workingDir="/opt/server",
        env=[address],
        readinessProbe={"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
    )


def is_true(item: dict[str, Any], kind: str) -> bool:
    conditions = item["status"].get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def test_nodes_are_ready_in_two_zones_with_counted_gpus(sandbox: Sandbox) -> None:
    nodes = json.loads(sandbox.kubectl("get", "nodes", "-o", "json").stdout)["items"]

    assert all(is_true(node, "Ready") for node in nodes)
    zones = {
        node["metadata"]["name"]: node["metadata"]["labels"]["topology.kubernetes.io/zone"]
        for node in nodes
    }
    assert zones == {"node-a": "zone-a", "node-b": "zone-b"}
    for node in nodes:
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == str(GPUS_A_NODE)
        assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "simulated"


def test_pod_beyond_the_quota_is_refused(namespace: Namespace) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus"},
        "spec": {"hard": {"requests.nvidia.com/gpu": "1"}},
    }
    assert namespace.create(quota)[0] == 0
    eventually(lambda: "hard" in namespace.get("resourcequota", "gpus")["status"])

    assert namespace.create(pod("first", gpus=1))[0] == 0
    code, said = namespace.create(pod("second", gpus=1))

    assert code != 0
    assert "exceeded quota: gpus" in said
    assert "requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=1" in said


def test_bare_pod_in_a_restricted_namespace_is_refused(restricted: Namespace) -> None:
    code, said = restricted.create(pod("bare"))

    assert code != 0
    assert 'violates PodSecurity "restricted:latest"' in said
    for violation in ("allowPrivilegeEscalation", "runAsNonRoot", "seccompProfile"):
        assert violation in said


def test_hardened_pod_in_a_restricted_namespace_is_taken(restricted: Namespace) -> None:
    hardened = pod(
        "hardened",
        securityContext={
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    )

    code, said = restricted.create(hardened)

    assert code == 0, said


def test_role_grants_what_it_names_and_nothing_else(namespace: Namespace) -> None:
    user = f"system:serviceaccount:{namespace.name}:default"
    kubectl = namespace.sandbox.kubectl
    scope = ("-n", namespace.name)

    def may(*verb: str) -> str:
        return kubectl(*scope, "auth", "can-i", *verb, f"--as={user}").stdout.strip()

    assert may("list", "pods") == "no"
    kubectl(*scope, "create", "role", "reader", "--verb=list", "--resource=pods")
    binding = ("--role=reader", f"--serviceaccount={namespace.name}:default")
    kubectl(*scope, "create", "rolebinding", "reader", *binding)

    eventually(lambda: may("list", "pods") == "yes")
    assert may("delete", "pods") == "no"
    refused = kubectl(*scope, "get", "secrets", f"--as={user}")
    assert refused.returncode != 0
    assert f'User "{user}" cannot list resource "secrets"' in refused.stderr


def test_more_gpus_than_there_are_leaves_a_pod_pending(namespace: Namespace) -> None:
    names = ("one", "two", "three")
    assert namespace.create(*(pod(name, gpus=GPUS_A_NODE) for name in names))[0] == 0

    def decided() -> bool:
        pods = namespace.get("pods")["items"]
        return all(item["status"].get("conditions") for item in pods)

    eventually(decided)
    pods = namespace.get("pods")["items"]
    placed = [item["spec"]["nodeName"] for item in pods if "nodeName" in item["spec"]]
    waiting = [item for item in pods if "nodeName" not in item["spec"]]
    # Other pods may hold GPUs: at most one of these fits on a node, and there are two nodes.
    assert len(placed) == len(set(placed))
    assert len(waiting) >= 1
    for item in waiting:
        assert item["status"]["phase"] == "Pending"
        reason = item["status"]["conditions"][0]
        assert (reason["type"], reason["reason"]) == ("PodScheduled", "Unschedulable")
        assert "Insufficient nvidia.com/gpu" in reason["message"]


def test_freed_gpus_go_to_the_pod_that_waits(namespace: Namespace) -> None:
    names = ("one", "two", "three")
    namespace.create(*(pod(name, gpus=GPUS_A_NODE) for name in names))

    def placed() -> list[str]:
        pods = namespace.get("pods")["items"]
        return [item["metadata"]["name"] for item in pods if "nodeName" in item["spec"]]

    eventually(lambda: len(placed()) > 0)
    first = placed()[0]
    namespace.sandbox.kubectl("-n", namespace.name, "delete", "pod", first, "--timeout=30s")

    eventually(lambda: len(set(placed()) - {first}) >= 1)


def test_running_pod_is_shown_outside_of_loopback(namespace: Namespace) -> None:
    assert namespace.create(web_server(namespace.sandbox, "web"))[0] == 0
    eventually(lambda: is_true(namespace.get("pod", "web"), "Ready"))

    found = namespace.get("pod", "web")

    address = found["status"]["podIP"]
    assert address.startswith("100.100.")
    assert found["status"]["podIPs"] == [{"ip": address}]
    assert found["status"]["hostIP"].startswith("100.100.")


def test_log_of_a_pod_is_what_its_process_wrote(namespace: Namespace) -> None:
    namespace.create(web_server(namespace.sandbox, "web"))
    eventually(lambda: is_true(namespace.get("pod", "web"), "Ready"))

    said = namespace.sandbox.kubectl("-n", namespace.name, "logs", "web").stdout

    assert "Serving HTTP on 127.100." in said
    assert '"GET / HTTP/1.1" 200' in said


def test_pod_is_reached_through_the_api_server(namespace: Namespace) -> None:
    namespace.create(web_server(namespace.sandbox, "web"))
    eventually(lambda: is_true(namespace.get("pod", "web"), "Ready"))

    path = f"/api/v1/namespaces/{namespace.name}/pods/web:8000/proxy/"
    answer = namespace.sandbox.kubectl("get", "--raw", path)

    assert answer.returncode == 0, answer.stderr
    assert "Directory listing" in answer.stdout


def test_missing_image_is_told_in_the_pods_status(namespace: Namespace) -> None:
    namespace.create(pod("lost"))

    def reason() -> str:
        statuses = namespace.get("pod", "lost")["status"].get("containerStatuses", [{}])
        waiting = statuses[0].get("state", {}).get("waiting", {})
        return str(waiting.get("reason", ""))

    eventually(lambda: reason() in {"ErrImagePull", "ImagePullBackOff"})


def test_node_answers_with_the_facts_of_the_machine(sandbox: Sandbox) -> None:
    answer = sandbox.kubectl("get", "--raw", "/api/v1/nodes/node-a/proxy/stats/summary")

    assert answer.returncode == 0, answer.stderr
    node = json.loads(answer.stdout)["node"]
    assert node["memory"]["workingSetBytes"] > 0
    assert node["cpu"]["usageCoreNanoSeconds"] > 0
    assert node["fs"]["capacityBytes"] > 0
