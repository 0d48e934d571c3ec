"""A release whose lock another one has taken changes nothing: the API server refuses its writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.release.record import Phase
from slipway.core.release.storage import from_storage
from slipway.core.routing import Slot
from slipway.manifests import names, workload
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    RELEASE_ACCOUNT,
    SERVICE_LABEL,
    common_labels,
    metadata,
    workload_name,
)
from slipway.sandbox.pki import CONTEXT
from slipway.settings import CONTEXT_VARIABLE
from tasks.session import evidence_prefix
from tests.e2e import zombie
from tests.e2e.support import PROJECT, Sandbox, World, said

pytestmark = pytest.mark.drawn_file("long")

_PATIENCE_S = 60.0
_POLICY, _LEASE_POLICY = "lock-lost: slipway-fence", "lock-lost: slipway-fence-lease"
_REFUSED = {
    "record as it was read": "conflict: resourceVersion",
    "record as it stands": _POLICY,
    "route to a slot not known": _POLICY,
    "route to nobody": _POLICY,
    "stamp on the routes": _POLICY,
    "Deployment of slot blue": _POLICY,
    "Deployment of slot green": _POLICY,
    "Deployment that never was": _LEASE_POLICY,
    "scale as it was observed": "conflict: resourceVersion",
    "scale of slot blue as it stands": _POLICY,
    "scale of slot green as it stands": _POLICY,
    "stamp on slot blue": _POLICY,
    "stamp on slot green": _POLICY,
    "test pod": _LEASE_POLICY,
    "deletion of its test pod": "conflict: uid",
}
"""Every write of a release to the cluster, and what refuses it to one whose lock is another's."""


@pytest.fixture(scope="module")
def live(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str, str]:
    """A service whose version 1 is live in slot blue; returns it with its version 2."""
    world = World(sandbox, tmp_path_factory.mktemp("fence"))
    service = world.given_service("fenced", replicas=1)
    released = world.release(service, world.given_version(service))
    assert released.returncode == 0, said(released)
    return world, service, world.given_version(service, ttft_ms=6)


def test_stopped_release_that_wakes_after_another_took_over_changes_nothing(
    live: tuple[World, str, str],
) -> None:
    world, service, version = live
    with _zombie(world, service, version) as process:
        process.send_signal(signal.SIGSTOP)
        heir = world.release(service, version)
        assert heir.returncode == 0, said(heir)
        assert "watching for 15 s whether it lives" in said(heir)
        ports, record = world.ports(service), world.record(service)
        assert (record.phase, record.version) == (Phase.DONE, version)
        # Another pod of the name that the zombie knows an uid of.
        image = record.slot(record.candidate).image
        pod = workload.test_pod(ports.spec, image=image, release_id=record.release_id)
        ports.workloads.apply(pod)
        before = _guarded(world, service)
        process.send_signal(signal.SIGCONT)
        tried = _answers(process)

    assert tried.pop("its own check").startswith("lock-lost: the lock of service fenced is lost")
    assert tried.pop("renewal of the lock").startswith("conflict: the lock of service fenced")
    assert (tried.pop("alias"), tried.pop("evidence")) == (zombie.WRITTEN, zombie.WRITTEN)
    assert tried == _REFUSED
    assert _guarded(world, service) == before
    assert world.record(service) == record
    assert world.ask(service).headers["x-slipway-slot"] == record.candidate

    # What no API server guards: the alias is put right, and evidence lies beside that which counts.
    assert ports.registry.alias(service, "live") == "1"
    again = world.release(service, version)
    assert again.returncode == 0, said(again)
    assert ports.registry.alias(service, "live") == version
    newest = [k for k in ports.objects.list(evidence_prefix(record)) if "record.json" in k][-1]
    assert from_storage(ports.objects.get(newest).decode()) == record


def test_controllers_and_administrators_write_fenced_objects_as_before(
    live: tuple[World, str, str],
) -> None:
    world, service, _ = live
    ports, record = world.ports(service), world.record(service)
    slot = record.live_slot
    assert slot is not None
    name = record.slot(slot).workload
    number = _fence(world, "deployment", name)
    pods = _pods(world, service, slot)

    _kubectl(world, "rollout", "restart", f"deployment/{name}")
    _kubectl(world, "annotate", f"deployment/{name}", "note=by-hand")
    _kubectl(world, "annotate", f"virtualservice/{service}", "note=by-hand")
    _wait(lambda: _pods(world, service, slot).isdisjoint(pods | {""}))  # its controller works on
    _kubectl(world, "scale", f"deployment/{name}", "--replicas=2")  # as an autoscaler does
    _wait(lambda: len(_pods(world, service, slot)) == 2)
    _kubectl(world, "scale", f"deployment/{name}", "--replicas=1")
    _wait(lambda: len(_pods(world, service, slot)) == 1)

    assert _fence(world, "deployment", name) == number
    observed = ports.workloads.observe("serving", name)
    assert observed is not None
    assert observed.desired == 1


@pytest.mark.parametrize("change", ["{}-", "{}=", "{}=abc", "{}=-7", "{}=1.5", "{}=0"])
@pytest.mark.parametrize("kind", ["configmap", "virtualservice", "destinationrule", "deployment"])
def test_number_on_an_object_neither_goes_nor_falls_nor_becomes_something_else(
    live: tuple[World, str, str], kind: str, change: str
) -> None:
    world, service, _ = live
    name = {"configmap": f"slipway-{service}", "deployment": workload_name(service, Slot.BLUE)}
    item = f"{kind}/{name.get(kind, service)}"
    changed = change.format(FENCE_ANNOTATION)
    refused = world.sandbox.kubectl("-n", "serving", "annotate", "--overwrite", item, changed)
    assert refused.returncode != 0
    reason = "stale fencing number 0" if change == "{}=0" else "must stay, as a whole number"
    assert reason in said(refused)


@pytest.mark.parametrize("number", ["", "abc", "-1", "1.5", "1" * 19])
def test_object_made_with_a_number_that_is_none_is_refused(
    live: tuple[World, str, str], number: str
) -> None:
    world, service, _ = live
    with pytest.raises(PermanentError, match="a whole number") as caught:
        world.ports(service).workloads.apply(_config_map(service, number), dry_run=True)
    assert caught.value.code == "refused-by-cluster"


def test_object_made_under_the_number_of_the_lock_or_without_one_is_accepted(
    live: tuple[World, str, str],
) -> None:
    world, service, _ = live
    ports = world.ports(service)
    number = ports.releases.lock(service).fence
    ports.workloads.apply(_config_map(service, str(number)), dry_run=True)
    ports.workloads.apply(_config_map(service, str(number + 1)), dry_run=True)
    ports.workloads.apply(_config_map(service, None), dry_run=True)  # people owe no number
    with pytest.raises(ConflictError) as caught:
        ports.workloads.apply(_config_map(service, str(number - 1)), dry_run=True)
    assert caught.value.code == "lock-lost"


def test_release_account_makes_nothing_without_a_number(live: tuple[World, str, str]) -> None:
    world, _, _ = live
    refused = world.sandbox.kubectl(
        *("-n", "serving", "create", "configmap", "unnumbered", "--dry-run=server"),
        f"--as=system:serviceaccount:serving:{RELEASE_ACCOUNT}",
    )
    assert refused.returncode != 0
    # Its role names the ConfigMaps' verb and no ConfigMap: the policy is what is in the way.
    assert f"must carry the annotation {FENCE_ANNOTATION}" in said(refused)


@contextmanager
def _zombie(world: World, service: str, version: str) -> Iterator[subprocess.Popen[str]]:
    """Run a release that holds the lock and waits."""
    log = world.folder / "zombie.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            (sys.executable, "-m", "tests.e2e.zombie", service, version),
            # As the administrator: what refuses it is the policies, not that a right is missing.
            env={**world.process_environment, CONTEXT_VARIABLE: CONTEXT},
            cwd=PROJECT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            assert any(line.strip() == zombie.HOLDING for line in lines), log.read_text()
            yield process
        finally:
            process.kill()


def _answers(process: subprocess.Popen[str]) -> dict[str, str]:
    output, _ = process.communicate("write\n", timeout=_PATIENCE_S)
    found: dict[str, str] = json.loads(output.splitlines()[-1])
    return found


def _guarded(world: World, service: str) -> dict[str, Any]:
    """Return what identifies the state of everything that is guarded, but for statuses."""
    items = [
        f"configmap/slipway-{service}",
        f"virtualservice/{service}",
        f"destinationrule/{service}",
        *(f"deployment/{workload_name(service, slot)}" for slot in Slot),
        f"pod/{names.test_pod_name(service)}",
    ]
    found = json.loads(_kubectl(world, "get", *items, "-o", "json"))["items"]
    return {
        f"{item['kind']} {item['metadata']['name']}": [
            item["metadata"]["uid"],
            item["metadata"].get("annotations"),
            item.get("data"),
            item.get("spec"),
        ]
        for item in found
    }


def _fence(world: World, kind: str, name: str) -> str:
    found = json.loads(_kubectl(world, "get", kind, name, "-o", "json"))
    number: str = found["metadata"]["annotations"][FENCE_ANNOTATION]
    return number


def _pods(world: World, service: str, slot: Slot) -> set[str]:
    """Return the uids of the ready pods of a slot; empty text for one that is not ready."""
    observed = world.ports(service).workloads.observe("serving", workload_name(service, slot))
    assert observed is not None
    return {pod.uid if pod.ready and not pod.terminating else "" for pod in observed.pods}


def _config_map(service: str, number: str | None) -> dict[str, Any]:
    notes = None if number is None else {FENCE_ANNOTATION: number}
    labels = common_labels(service)
    assert SERVICE_LABEL in labels
    meta = metadata(f"{service}-made", "serving", labels=labels, annotations=notes)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


def _kubectl(world: World, *args: str) -> str:
    done = world.sandbox.kubectl("-n", "serving", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _wait(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, f"not true within {_PATIENCE_S:.0f} s"
        time.sleep(0.2)  # between two looks; the deadline decides


def test_namespace_without_any_lock_is_nobodys_to_forbid(sandbox: Sandbox) -> None:
    name = "marked-only"
    marked = {"name": name, "labels": {"slipway.dev/serving": "true"}}
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": marked}
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}}
    for where, item in (((), made), (("-n", name), settings)):
        applied = sandbox.kubectl(*where, "apply", "-f", "-", stdin=json.dumps(item))
        assert applied.returncode == 0, applied.stderr
    assert sandbox.kubectl("delete", "namespace", name, "--wait=false").returncode == 0
