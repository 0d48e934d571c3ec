"""Releases of a service whose weights lie on a volume: fetched, checked, refused, removed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from slipway.bootstrap.releases import registry
from slipway.core.rollout import PodObservation
from slipway.core.weights import s3_folder
from slipway.evaluation.integrity import weights_digest
from slipway.manifests import workload
from slipway.manifests.weights import WeightsFetch
from slipway.sandbox.parts import s3
from slipway.sandbox.volumes import CLAIM, READER_SECRET
from tests.e2e.support import Sandbox, World, harmed, said, users

VOLUME = {"claim": CLAIM, "secret": READER_SECRET, "artifacts": f"s3://{s3.MODELS_BUCKET}"}
FILE = "simulated.json"
PATIENCE_S = 90.0


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


@pytest.mark.drawn("release")
def test_versions_on_a_volume_are_released_under_load_and_a_tampered_one_harms_nobody(
    world: World,
) -> None:
    service = world.given_service(
        "shelf",
        weights="pvc",
        volume=VOLUME,
        policy__benchmark__slowdown_max=50,  # a busy machine's pauses are not the subject here
    )
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
    assert harmed(ledger) == {}
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


@pytest.mark.drawn("release")
def test_file_changed_on_the_volume_is_mended_or_the_pod_does_not_start(world: World) -> None:
    service = world.given_service("torn", weights="pvc", volume=VOLUME)
    version = world.given_version(service)
    assert start(world, service, version).ready
    (digest,) = versions_on(world, service)
    file = shelf(world, service) / digest / "files" / FILE
    right = file.read_bytes()

    file.write_bytes(right.replace(b"pong", b"pang"))
    assert start(world, service, version).ready
    told = world.sandbox.kubectl("-n", "serving", "logs", f"{service}-test", "-c", "weights").stdout
    assert f"on the volume {FILE} has sha256" in told
    assert file.read_bytes() == right

    spoil_artifact(world, service, version)
    file.write_bytes(right.replace(b"pong", b"pang"))
    refused = start(world, service, version)
    assert (refused.ready, refused.ended, refused.placing_exit_code) == (False, True, 65)
    assert str(refused.placing_message).startswith(f"checksum-mismatch: the file {FILE}")
    assert (
        world.sandbox.kubectl("-n", "serving", "delete", "pod", f"{service}-test").returncode == 0
    )


def start(world: World, service: str, version: str) -> PodObservation:
    """Start a model pod as a release does for its test, and wait until it serves or has ended."""
    ports = world.ports(service)
    stated = ports.registry.version(service, version)
    assert ports.spec.volume is not None
    fetch = WeightsFetch(
        volume=ports.spec.volume,
        image=ports.images.resolve(ports.spec.volume.fetcher).reference,
        source=s3_folder(stated.source, ports.spec.volume.artifacts),
        sha256=weights_digest(stated),
    )
    image = ports.images.resolve(ports.spec.server.image).reference
    pod = workload.test_pod(ports.spec, image=image, release_id=f"{service}-v1-1", fetch=fetch)
    name = pod["metadata"]["name"]
    left = ports.workloads.pod(ports.spec.namespace, name)
    if left is not None:
        ports.workloads.delete("Pod", ports.spec.namespace, name, uid=left.uid)
    ports.workloads.apply(pod)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        observed = ports.workloads.pod(ports.spec.namespace, name)
        if observed is not None and (observed.ready or observed.ended):
            return observed
        time.sleep(0.2)
    raise AssertionError(f"pod {name} neither served nor ended in time")


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


def pods_of(world: World, service: str) -> list[dict[str, Any]]:
    selector = f"slipway.dev/serves={service}"
    listed = world.sandbox.kubectl("-n", "serving", "get", "pods", "-l", selector, "-o", "json")
    items: list[dict[str, Any]] = json.loads(listed.stdout)["items"]
    return items
