"""Pods with `weights: pvc`: what differs from the others, and what must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.core.routing import Slot
from slipway.core.service import ServerKind, WeightsVolume
from slipway.manifests import workload
from slipway.manifests.weights import sweep_pod
from tests.examples import IMAGE, service, service_on_a_volume, weights_fetch

FETCH = weights_fetch()
DIGEST = FETCH.sha256


def slot_pod(kind: ServerKind = ServerKind.SIMULATED, **changes: Any) -> dict[str, Any]:
    built = workload.slot_deployment(
        service_on_a_volume(kind),
        slot=Slot.GREEN,
        workload="chat-green",
        image=IMAGE,
        release_id="chat-v2-2",
        fetch=replace(FETCH, volume=replace(FETCH.volume, **changes)),
    )
    template: dict[str, Any] = built["spec"]["template"]
    return template


def bare_pod() -> dict[str, Any]:
    return workload.test_pod(
        service_on_a_volume(), image=IMAGE, release_id="chat-v2-2", fetch=FETCH
    )


def sweeper(kind: ServerKind = ServerKind.SIMULATED) -> dict[str, Any]:
    return sweep_pod(
        service_on_a_volume(kind),
        FETCH.volume,
        image=FETCH.image,
        release_id="chat-v2-2",
        keep=("a1", "b2"),
    )


def mounts(container: dict[str, Any]) -> dict[str, Any]:
    return {item["mountPath"]: item for item in container["volumeMounts"]}


@pytest.mark.parametrize("pod", [slot_pod(), bare_pod()], ids=["slot", "test"])
def test_server_reads_the_files_of_one_version_and_cannot_change_them(pod: dict[str, Any]) -> None:
    assert mounts(pod["spec"]["containers"][0])["/model"] == {
        "name": "weights",
        "mountPath": "/model",
        "subPath": f"slipway/chat/{DIGEST}/files",
        "readOnly": True,
    }
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "models"}} in pod["spec"][
        "volumes"
    ]
    assert pod["metadata"]["annotations"]["slipway.dev/weights-digest"] == DIGEST


def test_init_container_is_told_the_digest_the_source_and_the_folder() -> None:
    (container,) = slot_pod()["spec"]["initContainers"]

    assert container["image"] == FETCH.image
    assert container["args"] == [
        *("place", "--version", DIGEST, "--source", FETCH.source),
        *("--folder", "/weights/chat"),
    ]
    assert mounts(container) == {
        "/weights": {"name": "weights", "mountPath": "/weights", "subPath": "slipway"}
    }


def test_credentials_reach_the_init_container_alone() -> None:
    pod = slot_pod()["spec"]

    assert pod["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "reader"}}]
    assert "reader" not in str(pod["containers"])
    assert "envFrom" not in slot_pod(secret="")["spec"]["initContainers"][0]
    assert "reader" not in str(sweeper())


def test_whole_claim_may_be_the_services() -> None:
    pod = slot_pod(sub_path="")["spec"]

    assert "subPath" not in mounts(pod["initContainers"][0])["/weights"]
    assert mounts(pod["containers"][0])["/model"]["subPath"] == f"chat/{DIGEST}/files"


@pytest.mark.parametrize("kind", list(ServerKind))
def test_every_container_satisfies_pod_security_restricted(kind: ServerKind) -> None:
    for pod in (slot_pod(kind)["spec"], sweeper(kind)["spec"]):
        user = pod["securityContext"]["runAsUser"]
        assert user > 0
        assert pod["securityContext"]["fsGroup"] == user
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_fetching_asks_for_no_gpu_and_no_more_than_the_server_has() -> None:
    pod = slot_pod()["spec"]

    assert pod["initContainers"][0]["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"memory": "1Gi"},
    }
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_sweep_pod_runs_once_outside_of_every_slot_and_is_told_what_to_keep() -> None:
    built = sweeper()

    assert built["metadata"]["name"] == "chat-sweep"
    assert built["metadata"]["labels"].keys().isdisjoint({"slipway.dev/serves", "slipway.dev/slot"})
    assert built["spec"]["restartPolicy"] == "Never"
    assert built["spec"]["activeDeadlineSeconds"] > 0
    assert built["spec"]["serviceAccountName"] == "slipway-model"
    assert built["spec"]["automountServiceAccountToken"] is False
    (container,) = built["spec"]["containers"]
    assert container["args"] == [
        *("sweep", "--keep", "a1", "--keep", "b2"),
        *("--folder", "/weights/chat"),
    ]
    assert "nvidia.com/gpu" not in str(built)


def test_pods_with_their_weights_in_the_image_know_no_volume() -> None:
    built = workload.test_pod(service(), image=IMAGE, release_id="chat-v2-2")

    assert "initContainers" not in built["spec"]
    assert "fsGroup" not in built["spec"]["securityContext"]
    assert "slipway.dev/weights-digest" not in built["metadata"]["annotations"]
    assert service().volume is None


def test_default_image_of_the_fetching_program_is_the_sandboxs() -> None:
    assert WeightsVolume(claim="models").fetcher == "slipway/weights:base"
