"""kubectl and the official Python client, unchanged, against the sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from slipway.sandbox.images import BASE_TAG, SIMULATED
from tests.e2e.conftest import Sandbox

NAME = "web"
PATIENCE_S = 60.0
# Serves HTTP on the pod's address and counts on, so that its log grows.
COUNTING_SERVER = """
import http.server, os, threading, time
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
server = http.server.HTTPServer((os.environ["POD_IP"], 8000), Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("serving", flush=True)
for number in range(100000):
    print("tick", number, flush=True)
    time.sleep(0.1)
"""


class Kubectl:
    """kubectl in a namespace of its own.

    Args:
        sandbox: where it talks to.
        namespace: that it works in.
    """

    def __init__(self, sandbox: Sandbox, namespace: str) -> None:
        self.sandbox = sandbox
        self.namespace = namespace

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it said; it must succeed."""
        done = self.attempt(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.sandbox.kubectl("-n", self.namespace, *args, stdin=stdin)

    def pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("get", "pods", "-o", "json"))["items"]
        return found

    def apply(self, *options: str, answer: str = "one") -> str:
        """Apply the Deployment `web` of one pod."""
        manifest = json.dumps(deployment(self.sandbox, replicas=1, answer=answer))
        return self("apply", "--server-side", *options, "-f", "-", stdin=manifest)

    def rolled_out(self) -> str:
        """Wait for the Deployment; return what kubectl said at the end."""
        return self("rollout", "status", f"deployment/{NAME}", f"--timeout={PATIENCE_S:.0f}s")


def deployment(sandbox: Sandbox, *, replicas: int, answer: str) -> dict[str, Any]:
    image = f"127.0.0.1:{sandbox.home.port('registry')}/{SIMULATED}:{BASE_TAG}"
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    main = {
        "name": "main",
        "image": image,
        "command": ["python3", "-c", COUNTING_SERVER],
        "workingDir": "/opt/server",
        "env": [address, {"name": "ANSWER", "value": answer}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": NAME}},
            "template": {
                "metadata": {"labels": {"app": NAME}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [main]},
            },
        },
    }


@pytest.fixture(scope="module")
def namespace(sandbox: Sandbox) -> Iterator[str]:
    name = f"kubectl-{uuid.uuid4().hex[:8]}"
    assert sandbox.kubectl("create", "namespace", name).returncode == 0
    yield name
    assert sandbox.kubectl("delete", "namespace", name, "--wait=false").returncode == 0


@pytest.fixture
def kubectl(sandbox: Sandbox, namespace: str) -> Kubectl:
    """A namespace in which the Deployment `web` has one ready pod, whatever was before."""
    run = Kubectl(sandbox, namespace)
    run.apply("--force-conflicts")
    run.rolled_out()
    eventually(lambda: [ready(pod) for pod in run.pods()] == [True])
    return run


def eventually(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s"
        time.sleep(0.1)


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def test_client_and_server_state_their_versions_within_the_supported_skew(
    kubectl: Kubectl,
) -> None:
    told = json.loads(kubectl("version", "-o", "json"))
    minors = [int(told[side]["minor"].rstrip("+")) for side in ("clientVersion", "serverVersion")]
    assert minors[1] > 0
    assert abs(minors[0] - minors[1]) <= 1


def test_get_shows_the_pod_as_people_know_it(kubectl: Kubectl) -> None:
    head, line = kubectl("get", "pods").splitlines()
    assert head.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert line.split()[1:4] == ["1/1", "Running", "0"]
    wide = kubectl("get", "pods", "-o", "wide").splitlines()[1]
    assert " 100.100." in wide
    assert " node-" in wide


def test_describe_tells_image_probe_and_events(kubectl: Kubectl) -> None:
    (pod,) = kubectl.pods()
    told = kubectl("describe", "pod", pod["metadata"]["name"])
    assert f"{SIMULATED}:{BASE_TAG}" in told
    assert "Readiness:" in told
    for reason in ("Scheduled", "Pulled", "Started"):
        assert reason in told.partition("Events:")[2]
    assert "Successfully assigned" in told


def test_events_name_the_deployment_its_replica_set_and_its_pod(kubectl: Kubectl) -> None:
    eventually(lambda: "Started" in kubectl("get", "events"))
    told = kubectl("get", "events", "--sort-by=.lastTimestamp")
    for what in ("deployment/web", "replicaset/web-", "pod/web-"):
        assert what in told
    assert "ScalingReplicaSet" in told
    assert "SuccessfulCreate" in told


def test_apply_of_the_same_manifest_changes_nothing(kubectl: Kubectl) -> None:
    def state() -> tuple[str, list[str]]:
        found = json.loads(kubectl("get", "deployment", NAME, "-o", "json"))
        return found["metadata"]["resourceVersion"], [p["metadata"]["uid"] for p in kubectl.pods()]

    before = state()
    assert kubectl.apply() == f"deployment.apps/{NAME} serverside-applied\n"
    assert state() == before


def test_apply_by_another_manager_conflicts_on_the_field_and_names_the_owner(
    kubectl: Kubectl,
) -> None:
    manifest = json.dumps(deployment(kubectl.sandbox, replicas=5, answer="one"))
    refused = kubectl.attempt(
        *("apply", "--server-side", "--field-manager=somebody", "-f", "-"), stdin=manifest
    )
    assert refused.returncode != 0
    assert "conflict" in refused.stderr
    assert '"kubectl"' in refused.stderr
    assert ".spec.replicas" in refused.stderr


def test_logs_follow_a_running_container(kubectl: Kubectl) -> None:
    program = str(Path(sys.executable).with_name("kubectl"))
    follower = subprocess.Popen(
        (program, "-n", kubectl.namespace, "logs", "-f", "--tail=1", f"deployment/{NAME}"),
        env=kubectl.sandbox.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(PATIENCE_S, follower.kill)
    guard.start()
    try:
        assert follower.stdout is not None
        ticks = [int(line.removeprefix("tick ")) for line in islice(follower.stdout, 15)]
    finally:
        guard.cancel()
        follower.kill()
        follower.communicate()
    # More lines than there were when it began, none lost, none twice.
    assert ticks == list(range(ticks[0], ticks[0] + 15))


def test_log_of_the_container_begins_with_its_first_line(kubectl: Kubectl) -> None:
    assert kubectl("logs", f"deployment/{NAME}").startswith("serving\ntick 0\n")
    assert kubectl("logs", f"deployment/{NAME}", "--tail=1").count("\n") == 1


def test_scale_adds_ready_pods_and_takes_them_away(kubectl: Kubectl) -> None:
    kubectl("scale", "deployment", NAME, "--replicas=3")
    assert "successfully rolled out" in kubectl.rolled_out()
    assert sum(ready(pod) for pod in kubectl.pods()) == 3
    assert len({pod["status"]["podIP"] for pod in kubectl.pods()}) == 3

    kubectl("scale", "deployment", NAME, "--replicas=1")
    eventually(lambda: len(kubectl.pods()) == 1)


def test_changed_template_rolls_out_a_new_pod(kubectl: Kubectl) -> None:
    (before,) = kubectl.pods()
    kubectl.apply(answer="two")
    assert "successfully rolled out" in kubectl.rolled_out()
    eventually(lambda: len(kubectl.pods()) == 1)
    (after,) = kubectl.pods()
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert {"name": "ANSWER", "value": "two"} in after["spec"]["containers"][0]["env"]


def test_deleted_pod_is_replaced_by_its_controller(kubectl: Kubectl) -> None:
    (before,) = kubectl.pods()
    told = kubectl("delete", "pod", before["metadata"]["name"], f"--timeout={PATIENCE_S:.0f}s")
    assert "deleted" in told
    eventually(lambda: [ready(pod) for pod in kubectl.pods()] == [True])
    (after,) = kubectl.pods()
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


def test_can_i_answers_for_the_administrator_and_for_a_pods_account(kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "delete", "namespaces", "--all-namespaces") == "yes\n"
    account = f"system:serviceaccount:{kubectl.namespace}:default"
    refused = kubectl.attempt("auth", "can-i", "list", "pods", f"--as={account}")
    assert (refused.returncode, refused.stdout) == (1, "no\n")


def test_explain_knows_the_resources_of_istio(kubectl: Kubectl) -> None:
    assert "trafficPolicy" in kubectl("explain", "destinationrule.spec")


def test_python_client_lists_the_pods_that_kubectl_lists(kubectl: Kubectl) -> None:
    connection = config.new_client_from_config(str(kubectl.sandbox.home.kubeconfig))
    with connection:
        found = client.CoreV1Api(connection).list_namespaced_pod(kubectl.namespace).items
        nodes = client.CoreV1Api(connection).list_node().items
    assert [pod.metadata.name for pod in found] == [
        pod["metadata"]["name"] for pod in kubectl.pods()
    ]
    assert {pod.status.phase for pod in found} == {"Running"}
    # Tests beside this one make further nodes.
    assert {node.metadata.name for node in nodes} >= {"node-a", "node-b"}


def test_deleted_deployment_takes_its_pods_with_it(kubectl: Kubectl) -> None:
    kubectl("delete", "deployment", NAME, f"--timeout={PATIENCE_S:.0f}s")
    eventually(lambda: kubectl.pods() == [])
    assert json.loads(kubectl("get", "replicasets", "-o", "json"))["items"] == []
