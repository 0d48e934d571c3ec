"""Weights on a volume: the init container that places them, and the pod that removes old ones.

On the claim, below the service's folder, every version has a folder named by its digest; the server
mounts the files of one version, read only, where the image's layer has them otherwise. The program
in both pods is `slipway.adapters.weights_volume`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipway.core.service import ServiceSpec, WeightsVolume
from slipway.manifests.names import (
    MODEL_ACCOUNT,
    RELEASE_LABEL,
    ROLE_LABEL,
    Object,
    common_labels,
    metadata,
    sweep_pod_name,
)
from slipway.manifests.servers import MODEL_FOLDER, contract

FILES_FOLDER = "files"
"""Folder of a version's own files, below the one named by its digest."""

_CLAIM_FOLDER = "/weights"
_VOLUME = "weights"
_SWEEP_DEADLINE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFetch:
    """Which weights a pod serves from the volume, and how they get there.

    Args:
        volume: as the service file states it.
        image: of the fetching program, `HOST/REPOSITORY@sha256:…`.
        source: `s3://BUCKET/PREFIX` with the version's files and its manifest.
        sha256: digest of the weights, hex, as in the record.
    """

    volume: WeightsVolume
    image: str
    source: str
    sha256: str


def claim_volume(volume: WeightsVolume) -> Object:
    """Return the pod's volume."""
    return {"name": _VOLUME, "persistentVolumeClaim": {"claimName": volume.claim}}


def server_mount(service: str, fetch: WeightsFetch) -> Object:
    """Return the server's mount: the files of one version, read only."""
    parts = (fetch.volume.sub_path, service, fetch.sha256, FILES_FOLDER)
    return {
        "name": _VOLUME,
        "mountPath": MODEL_FOLDER,
        "subPath": "/".join(part for part in parts if part),
        "readOnly": True,
    }


def pod_group(user: int) -> Object:
    """Return what lets the fetching program write to a fresh volume that belongs to root.

    Volumes of one node get the group when they are mounted; shared ones (NFS) ignore it, there the
    folder must belong to the user (docs/how-to/weights-on-a-volume.md).
    """
    return {"fsGroup": user, "fsGroupChangePolicy": "OnRootMismatch"}


def fetch_container(spec: ServiceSpec, fetch: WeightsFetch) -> Object:
    """Return the init container that puts the version's files on the claim and checks them."""
    arguments = ("place", "--version", fetch.sha256, "--source", fetch.source)
    container = _container(fetch.volume, fetch.image, spec.name, arguments)
    # What an init container asks for is free up to what the server asks for later.
    container["resources"] = {
        "requests": {"cpu": spec.resources.cpu, "memory": spec.resources.memory},
        "limits": {"memory": spec.resources.memory},
    }
    if fetch.volume.secret:
        container["envFrom"] = [{"secretRef": {"name": fetch.volume.secret}}]
    return container


def sweep_pod(
    spec: ServiceSpec, volume: WeightsVolume, *, image: str, release_id: str, keep: Sequence[str]
) -> Object:
    """Return the pod that removes every version of the service but those to keep.

    Args:
        spec: the service.
        volume: where its weights lie.
        image: of the fetching program, `HOST/REPOSITORY@sha256:…`.
        release_id: the release at whose end it runs.
        keep: digests of weights that a slot refers to.
    """
    user = contract(spec).user
    arguments = ("sweep", *(word for digest in keep for word in ("--keep", digest)))
    container = _container(volume, image, spec.name, arguments)
    container["resources"] = {
        "requests": {"cpu": "50m", "memory": "64Mi"},
        "limits": {"memory": "64Mi"},
    }
    labels = {**common_labels(spec.name), ROLE_LABEL: "sweep", RELEASE_LABEL: release_id}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(sweep_pod_name(spec.name), spec.namespace, labels=labels),
        "spec": {
            "serviceAccountName": MODEL_ACCOUNT,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _SWEEP_DEADLINE_S,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "runAsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
                **pod_group(user),
            },
            "containers": [container],
            "volumes": [claim_volume(volume)],
        },
    }


def _container(volume: WeightsVolume, image: str, service: str, arguments: Sequence[str]) -> Object:
    mount: Object = {"name": _VOLUME, "mountPath": _CLAIM_FOLDER}
    if volume.sub_path:
        mount["subPath"] = volume.sub_path
    return {
        "name": _VOLUME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [*arguments, "--folder", f"{_CLAIM_FOLDER}/{service}"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [mount],
    }
