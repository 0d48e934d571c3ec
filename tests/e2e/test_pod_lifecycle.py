"""What Kubernetes promises of a pod's life, through the kubelet and the sandbox's runtime.

The pods of all tests that run are created at once, in one namespace, and watched together. A test
opens a gate, a file in a folder that its pods share with it, when they may go on.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from slipway.sandbox.images import BASE_TAG, SIMULATED
from tests.e2e.conftest import Sandbox
from tests.e2e.pods import FOREVER, Manifest, container, pod, probed

PATIENCE_S = float(os.environ.get("SLIPWAY_TEST_PATIENCE_S", "90"))
PROBED_TWICE_S = 2.5  # every probe here has a period of 1 s
NEEDS: dict[str, tuple[Callable[[], Manifest], ...]] = {}
Test = Callable[..., None]


def needs(*pods: Callable[[], Manifest]) -> Callable[[Test], Test]:
    """Have these pods created before the first test of this file begins."""

    def note(test: Test) -> Test:
        NEEDS[test.__name__] = pods
        return test

    return note


# -- pods -----------------------------------------------------------------------------------------


def readiness() -> Manifest:
    return probed("readiness", "readinessProbe")


def liveness() -> Manifest:
    return probed("liveness", "livenessProbe", initialDelaySeconds=2)


def startup() -> Manifest:
    dies = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    return probed("startup", "startupProbe", {"livenessProbe": dies}, failureThreshold=600)


def init_order() -> Manifest:
    def step(name: str) -> Manifest:
        script = (
            f"echo {name} begins >> /shared/order; sleep 0.3; echo {name} ends >> /shared/order"
        )
        return container(name, script)

    main = container("main", f"echo main begins >> /shared/order; cat /shared/order; {FOREVER}")
    return pod("init-order", main, initContainers=[step("one"), step("two")])


def init_waits() -> Manifest:
    wait = container("wait", "until test -e /gates/init-waits; do sleep 0.1; done")
    return pod("init-waits", container("main"), initContainers=[wait])


def init_fails() -> Manifest:
    fails = container("fails", "exit 7")
    return pod("init-fails", container("main"), initContainers=[fails], restartPolicy="Never")


def crashes() -> Manifest:
    return pod("crashes", container("main", "echo attempt; exit 3"))


def crashed_once() -> Manifest:
    script = f"test -e /shared/x && echo second && {FOREVER}; touch /shared/x; echo first; exit 3"
    return pod("crashed-once", container("main", script))


def second_try() -> Manifest:
    script = "test -e /shared/tried && exit 0; touch /shared/tried; exit 1"
    return pod("second-try", container("main", script), restartPolicy="OnFailure")


def never_again() -> Manifest:
    return pod("never-again", container("main", "exit 4"), restartPolicy="Never")


def hooked() -> Manifest:
    note = "/gates/hooked-order"
    script = f"trap 'echo TERM >> {note}; exit 0' TERM; while true; do sleep 0.05; done"
    hook = f"echo hook begins >> {note}; sleep 0.5; echo hook ends >> {note}"
    lifecycle = {"preStop": {"exec": {"command": ["sh", "-c", hook]}}}
    return pod(
        "hooked",
        container("main", script, lifecycle=lifecycle),
        terminationGracePeriodSeconds=60,
    )


def greeted() -> Manifest:
    hook = "until test -e /gates/greeted; do sleep 0.1; done"
    lifecycle = {"postStart": {"exec": {"command": ["sh", "-c", hook]}}}
    return pod("greeted", container("main", lifecycle=lifecycle))


def last_words() -> Manifest:
    logged = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    return pod(
        "last-words",
        container("file", "echo said; printf 'from the file' > /dev/termination-log; exit 2"),
        container("own-file", "printf own > /tmp/why", terminationMessagePath="/tmp/why"),
        container("log", "echo last words; exit 1", **logged),
        container("no-error", "echo nothing to tell", **logged),
        restartPolicy="Never",
    )


def polite() -> Manifest:
    script = "trap 'echo bye > /gates/polite-bye; exit 0' TERM; while true; do sleep 0.05; done"
    return pod("polite", container("main", script), terminationGracePeriodSeconds=600)


def deaf() -> Manifest:
    # The times of the two files tell when it was asked to end, and until when it lived.
    script = (
        "trap ': > /gates/deaf-asked' TERM; while true; do : > /gates/deaf-lives; sleep 0.05; done"
    )
    return pod("deaf", container("main", script), terminationGracePeriodSeconds=4)


# -- watching -------------------------------------------------------------------------------------


class Pods:
    """The pods of this file.

    Args:
        sandbox: where they are.
        namespace: of their own.
        gates: folder of the gates.
    """

    def __init__(self, sandbox: Sandbox, namespace: str, gates: Path) -> None:
        self.sandbox = sandbox
        self.namespace = namespace
        self.gates = gates
        connection = config.new_client_from_config(str(sandbox.home.kubeconfig))
        self._api = client.CoreV1Api(connection)

    def close(self) -> None:
        self._api.api_client.close()

    def create(self, manifests: list[Manifest]) -> None:
        registry = f"127.0.0.1:{self.sandbox.home.port('registry')}"
        for manifest in manifests:
            spec = manifest["spec"]
            for one in (*spec["containers"], *spec["initContainers"]):
                one["image"] = f"{registry}/{SIMULATED}:{BASE_TAG}"
            spec["volumes"] = [
                {"name": "gates", "hostPath": {"path": str(self.gates)}},
                {"name": "shared", "emptyDir": {}},
            ]
            self._api.create_namespaced_pod(self.namespace, manifest)

    def status(self, name: str) -> dict[str, Any]:
        """Return the status of a pod; empty when it is gone."""
        selector = f"metadata.name={name}"
        answer = self._api.list_namespaced_pod(
            self.namespace, field_selector=selector, _preload_content=False
        )
        items = json.loads(answer.data)["items"]
        found: dict[str, Any] = items[0]["status"] if items else {}
        return found

    def containers(self, name: str, kind: str = "containerStatuses") -> dict[str, dict[str, Any]]:
        """Return what the status says of each container, by name."""
        return {one["name"]: one for one in self.status(name).get(kind, [])}

    def names(self, name: str, field: str) -> set[str]:
        """Return the containers of a pod for which a field of the status is true."""
        return {key for key, one in self.containers(name).items() if one.get(field)}

    def restarted(self, name: str) -> set[str]:
        return self.names(name, "restartCount")

    def ended(self, name: str, main: str = "main") -> dict[str, Any]:
        """Wait for the end of a container; return how it ended."""

        def end() -> dict[str, Any]:
            found = self.containers(name).get(main, {}).get("state", {})
            ending: dict[str, Any] = found.get("terminated", {})
            return ending

        until(lambda: bool(end()))
        return end()

    def delete(self, name: str) -> None:
        self._api.delete_namespaced_pod(name, self.namespace)

    def gone(self, name: str) -> bool:
        return not self.status(name)

    def log(self, name: str, **how: Any) -> str:
        text: str = self._api.read_namespaced_pod_log(name, self.namespace, **how)
        return text

    def events(self, name: str) -> set[str]:
        """Return the reasons of the events of a pod."""
        selector = f"involvedObject.name={name}"
        found = self._api.list_namespaced_event(self.namespace, field_selector=selector).items
        return {one.reason for one in found}

    def open(self, gate: str) -> None:
        (self.gates / gate).touch()

    def shut(self, gate: str) -> None:
        (self.gates / gate).unlink()


@pytest.fixture(scope="module")
def pods(
    sandbox: Sandbox, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    gates = tmp_path_factory.mktemp("gates")
    gates.chmod(0o777)
    namespace = f"pods-{uuid.uuid4().hex[:8]}"
    assert sandbox.kubectl("create", "namespace", namespace).returncode == 0
    account = ("-n", namespace, "get", "serviceaccount", "default")
    until(lambda: sandbox.kubectl(*account).returncode == 0)
    found = Pods(sandbox, namespace, gates)
    wanted = {one.__name__: one for item in request.session.items for one in _needed(item)}
    (gates / "liveness").touch()
    found.create([make() for make in wanted.values()])
    yield found
    found.close()
    gone = sandbox.kubectl("delete", "namespace", namespace, "--wait=false")
    assert gone.returncode == 0, gone.stderr


def _needed(item: pytest.Item) -> tuple[Callable[[], Manifest], ...]:
    return NEEDS.get(item.name, ()) if item.path == Path(__file__) else ()


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s"
        time.sleep(0.1)


def throughout(seconds: float, holds: Callable[[], bool]) -> None:
    """Look again and again whether something stays as it is."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        assert holds()
        time.sleep(0.1)


ALL = {"http", "tcp", "exec"}


# -- probes ---------------------------------------------------------------------------------------


@needs(readiness)
def test_readiness_probes_decide_who_is_ready(pods: Pods) -> None:
    ready = functools.partial(pods.names, "readiness", "ready")
    until(lambda: pods.names("readiness", "started") == {"server", *ALL})
    throughout(PROBED_TWICE_S, lambda: ready() == {"server"})
    pods.open("readiness")
    until(lambda: ready() == {"server", *ALL})
    pods.shut("readiness")
    until(lambda: ready() == {"server"})
    assert pods.restarted("readiness") == set()


@needs(liveness)
def test_liveness_probes_restart_what_has_failed(pods: Pods) -> None:
    until(lambda: pods.names("liveness", "ready") == {"server", *ALL})
    throughout(PROBED_TWICE_S, lambda: pods.restarted("liveness") == set())
    pods.shut("liveness")
    until(lambda: pods.restarted("liveness") == ALL)
    for name in ALL:
        before = pods.containers("liveness")[name]["lastState"]["terminated"]
        assert before["exitCode"] == 137  # sleep as PID 1 does not hear TERM


@needs(startup)
def test_startup_probes_hold_the_other_probes_back(pods: Pods) -> None:
    until(lambda: "server" in pods.names("startup", "started"))
    throughout(
        PROBED_TWICE_S,
        lambda: (
            (pods.names("startup", "started"), pods.restarted("startup")) == ({"server"}, set())
        ),
    )
    pods.open("startup")
    until(lambda: pods.restarted("startup") == ALL)  # by their liveness probes, which fail


# -- init containers ------------------------------------------------------------------------------


@needs(init_order)
def test_init_containers_run_one_after_the_other_before_the_others(pods: Pods) -> None:
    until(lambda: pods.names("init-order", "ready") == {"main"})
    assert pods.log("init-order", container="main").splitlines() == [
        *("one begins", "one ends", "two begins", "two ends", "main begins"),
    ]


@needs(init_waits)
def test_init_container_that_runs_holds_the_others_back(pods: Pods) -> None:
    def waits() -> bool:
        init = pods.containers("init-waits", "initContainerStatuses").get("wait", {})
        return "running" in init.get("state", {})

    until(waits)
    main = pods.containers("init-waits")["main"]
    assert main["state"] == {"waiting": {"reason": "PodInitializing"}}
    throughout(1, waits)
    pods.open("init-waits")
    until(lambda: pods.names("init-waits", "ready") == {"main"})


@needs(init_fails)
def test_init_container_that_fails_fails_a_pod_that_is_never_restarted(pods: Pods) -> None:
    until(lambda: pods.status("init-fails").get("phase") == "Failed")
    init = pods.containers("init-fails", "initContainerStatuses")["fails"]
    assert init["state"]["terminated"]["exitCode"] == 7
    main = pods.containers("init-fails")["main"]
    assert not main["started"]
    assert "containerID" not in main


# -- restarts -------------------------------------------------------------------------------------


@needs(crashes)
def test_container_that_crashes_is_restarted_with_back_off(pods: Pods) -> None:
    # The status says CrashLoopBackOff at the kubelet's next look only, 10 s later.
    until(lambda: "BackOff" in pods.events("crashes"))
    main = pods.containers("crashes")["main"]
    assert main["restartCount"] >= 1
    ending = main["lastState"]["terminated"]
    assert (ending["exitCode"], ending["reason"]) == (3, "Error")
    # 10 s at the least from one attempt to the next: not two within 4 s.
    most = main["restartCount"] + 1
    throughout(4, lambda: pods.containers("crashes")["main"]["restartCount"] <= most)


@needs(crashed_once)
def test_log_of_the_attempt_before_is_kept(pods: Pods) -> None:
    until(lambda: pods.restarted("crashed-once") == {"main"})
    assert pods.log("crashed-once", previous=True) == "first\n"
    until(lambda: pods.log("crashed-once") == "second\n")


@needs(second_try, never_again)
def test_restart_policy_looks_at_the_exit_code(pods: Pods) -> None:
    until(lambda: pods.status("second-try").get("phase") == "Succeeded")
    again = pods.containers("second-try")["main"]
    assert (again["restartCount"], again["state"]["terminated"]["exitCode"]) == (1, 0)
    until(lambda: pods.status("never-again").get("phase") == "Failed")
    once = pods.containers("never-again")["main"]
    assert (once["restartCount"], once["state"]["terminated"]["exitCode"]) == (0, 4)


# -- hooks, messages, the end ---------------------------------------------------------------------


@needs(hooked)
def test_pre_stop_hook_ends_before_the_stop_signal(pods: Pods) -> None:
    until(lambda: pods.names("hooked", "ready") == {"main"})
    pods.delete("hooked")
    until(lambda: pods.gone("hooked"))
    order = (pods.gates / "hooked-order").read_text().splitlines()
    assert order == ["hook begins", "hook ends", "TERM"]


@needs(greeted)
def test_container_counts_as_running_after_its_post_start_hook(pods: Pods) -> None:
    until(lambda: bool(pods.containers("greeted")))
    throughout(PROBED_TWICE_S, lambda: pods.names("greeted", "ready") == set())
    pods.open("greeted")
    until(lambda: pods.names("greeted", "ready") == {"main"})


@needs(last_words)
def test_termination_message_is_that_of_the_file(pods: Pods) -> None:
    told = pods.ended("last-words", "file")
    assert (told["message"], told["exitCode"]) == ("from the file", 2)
    assert pods.ended("last-words", "own-file")["message"] == "own"


@needs(last_words)
def test_termination_message_falls_back_to_the_log_of_an_error(pods: Pods) -> None:
    assert pods.ended("last-words", "log")["message"] == "last words\n"
    assert "message" not in pods.ended("last-words", "no-error")


@needs(last_words)
def test_status_names_the_image_by_its_digest(pods: Pods) -> None:
    pods.ended("last-words", "log")
    image = pods.containers("last-words")["log"]["imageID"]
    repository = f"127.0.0.1:{pods.sandbox.home.port('registry')}/{SIMULATED}"
    assert re.fullmatch(re.escape(repository) + "@sha256:[0-9a-f]{64}", image)


@needs(polite)
def test_container_that_listens_ends_long_before_its_grace(pods: Pods) -> None:
    until(lambda: pods.names("polite", "ready") == {"main"})
    pods.delete("polite")
    until(lambda: pods.gone("polite"))
    assert (pods.gates / "polite-bye").read_text() == "bye\n"


@needs(deaf)
def test_container_that_does_not_listen_is_killed_after_its_grace(pods: Pods) -> None:
    until((pods.gates / "deaf-lives").exists)
    pods.delete("deaf")
    until(lambda: pods.gone("deaf"))
    asked_s, lived_s = (
        (pods.gates / name).stat().st_mtime for name in ("deaf-asked", "deaf-lives")
    )
    assert 3 < lived_s - asked_s < 10
