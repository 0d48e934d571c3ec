"""Releases of a service whose weights lie on a volume: fetched, checked, refused, removed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from slipway.bootstrap import registry
from slipway.evaluation.integrity import weights_digest
from slipway.sandbox.parts import s3
from slipway.sandbox.volumes import CLAIM, READER_SECRET
from tests.e2e.support import Sandbox, World, said, users

pytestmark = pytest.mark.releases

VOLUME = {"claim": CLAIM, "secret": READER_SECRET, "artifacts": f"s3://{s3.MODELS_BUCKET}"}
FILE = "simulated.json"
PATIENCE_S = 90.0


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


def test_versions_on_a_volume_are_released_under_load_and_a_tampered_one_harms_nobody(
    world: World,
) -> None:
    service = world.given_service("shelf", weights="pvc", volume=VOLUME)
    first, second, tampered = (world.given_version(service, ttft_ms=n) for n in (5, 6, 7))
    assert world.release(service, first).returncode == 0
    forgotten = shelf(world, service) / ("0" * 64) / "files"
    forgotten.mkdir(parents=True)
    (forgotten / FILE).write_text("{}")
    spoil_artifact(world, service, tampered)

    with users(world, service, rate=5) as crowd:
        released = world.release(service, second)
        refused = world.release(service, tampered)
        ledger = crowd.stop()

    assert released.returncode == 0, said(released)
    assert refused.returncode == 6, said(refused)
    assert "weights-not-placed" in said(refused)
    assert f"the file {FILE} in the object store has sha256" in said(refused)
    assert {row["status"] for row in ledger} == {"ok"}
    assert len(ledger) > 20
    # The forgotten one is gone, the tampered one never appeared.
    assert versions_on(world, service) == {digest_of(world, service, n) for n in (first, second)}
    assert world.record(service).failure_code == "weights-not-placed"
    assert len(pods_of(world, service)) == 2
    for pod in pods_of(world, service):
        annotations = pod["metadata"]["annotations"]
        assert annotations["slipway.dev/weights-digest"] == digest_of(world, service, second)
        (mount,) = [
            item
            for item in pod["spec"]["containers"][0]["volumeMounts"]
            if item["mountPath"] == "/model"
        ]
        assert mount["readOnly"] is True
    assert world.leftovers(service) == []


def test_file_changed_on_the_volume_is_mended_or_the_pod_does_not_start(world: World) -> None:
    service = world.given_service("torn", weights="pvc", volume=VOLUME, replicas=1)
    version = world.given_version(service)
    assert world.release(service, version).returncode == 0
    (digest,) = versions_on(world, service)
    file = shelf(world, service) / digest / "files" / FILE
    right = file.read_bytes()

    file.write_bytes(right.replace(b"pong", b"pang"))
    mended = restart(world, service)

    assert (
        f"{FILE} has sha256"
        in world.sandbox.kubectl("-n", "serving", "logs", mended, "-c", "weights").stdout
    )
    assert file.read_bytes() == right
    assert "pong" in world.ask(service).text

    spoil_artifact(world, service, version)
    file.write_bytes(right.replace(b"pong", b"pang"))
    restart(world, service, until=lambda pod: "checksum-mismatch" in str(last_words(pod)))
    assert not any(status["ready"] for pod in pods_of(world, service) for status in servers(pod))


def shelf(world: World, service: str) -> Path:
    return world.sandbox.home.data("volumes") / CLAIM / service


def versions_on(world: World, service: str) -> set[str]:
    return {path.name for path in shelf(world, service).iterdir() if len(path.name) == 64}


def digest_of(world: World, model: str, version: str) -> str:
    return weights_digest(registry(world.settings).version(model, version))


def spoil_artifact(world: World, model: str, version: str) -> None:
    """Change a file in the object store after the release's own copy was fetched and checked."""
    store = registry(world.settings)
    stated = store.version(model, version)
    store.fetch(stated, world.folder / f"copy-{model}-{version}")
    key = f"{stated.source.removeprefix('mlflow-artifacts:/').lstrip('/')}/{FILE}"
    client = boto3.client("s3", endpoint_url=s3.endpoint(world.sandbox.home))
    body = client.get_object(Bucket=s3.MODELS_BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=s3.MODELS_BUCKET, Key=key, Body=body.replace(b"pong", b"pang"))


def restart(
    world: World,
    service: str,
    until: Callable[[dict[str, Any]], bool] | None = None,
) -> str:
    """Delete the service's pods, wait until a new one is as `until` says (else ready)."""
    done = until or (lambda pod: all(status["ready"] for status in servers(pod)))
    kubectl = world.sandbox.kubectl
    selector = f"app.kubernetes.io/name={service}"
    old = {pod["metadata"]["name"] for pod in pods_of(world, service)}
    gone = kubectl("-n", "serving", "delete", "pods", "-l", selector, "--grace-period=1")
    assert gone.returncode == 0, gone.stderr
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for pod in pods_of(world, service):
            if pod["metadata"]["name"] not in old and servers(pod) and done(pod):
                return str(pod["metadata"]["name"])
        time.sleep(0.2)
    raise AssertionError(f"no new pod of {service} in time: {pods_of(world, service)}")


def pods_of(world: World, service: str) -> list[dict[str, Any]]:
    selector = f"app.kubernetes.io/name={service}"
    listed = world.sandbox.kubectl("-n", "serving", "get", "pods", "-l", selector, "-o", "json")
    items: list[dict[str, Any]] = json.loads(listed.stdout)["items"]
    return items


def servers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pod["status"].get("containerStatuses", [])
    return found


def last_words(pod: dict[str, Any]) -> list[str]:
    states = [
        status[key]
        for status in pod["status"].get("initContainerStatuses", [])
        for key in ("state", "lastState")
    ]
    return [state["terminated"].get("message", "") for state in states if "terminated" in state]
