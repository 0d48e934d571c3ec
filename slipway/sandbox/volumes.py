"""The static volume of the sandbox: a folder of this machine as the claim `models` of `serving`.

Both nodes are this machine, so one folder is what every pod on every node mounts at once. Beside it
lie the Secrets with what a pod needs to fetch model versions from the object store, and to back
them up.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from slipway.adapters.decorators import RetryingKubernetesApi
from slipway.sandbox.cluster import FIELD_MANAGER, SERVING_NAMESPACE
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.parts import s3

CLAIM = "models"
READER_SECRET = "models-reader"  # noqa: S105  # the name of a Secret
BACKUP_SECRET = "models-backup"  # noqa: S105  # the name of a Secret

_SIZE = "100Gi"  # a label, no limit: hostPath has none
_VOLUME = f"{SERVING_NAMESPACE}-{CLAIM}"
_COLLECTIONS = {
    "PersistentVolume": "/api/v1/persistentvolumes",
    "PersistentVolumeClaim": f"/api/v1/namespaces/{SERVING_NAMESPACE}/persistentvolumeclaims",
    "Secret": f"/api/v1/namespaces/{SERVING_NAMESPACE}/secrets",
}


def set_up(home: SandboxHome) -> None:
    """Apply the volume, the claim and the Secrets; running twice equals once.

    Raises:
        TransientError: the API server does not answer.
        PermanentError: it refuses an object.
    """
    api = RetryingKubernetesApi(str(home.kubeconfig))
    for manifest in objects(home):
        api.call(
            "PATCH",
            f"{_COLLECTIONS[manifest['kind']]}/{quote(manifest['metadata']['name'])}",
            body=json.dumps(manifest),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            content_type="application/apply-patch+yaml",
        )


def objects(home: SandboxHome) -> tuple[dict[str, Any], ...]:
    """Return the volume, the claim that is bound to it, and the Secrets."""
    claim = {"namespace": SERVING_NAMESPACE, "name": CLAIM}
    shared = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",  # no provisioner: these two are for each other
    }
    volume_spec = {
        **shared,
        "capacity": {"storage": _SIZE},
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim},
        "hostPath": {"path": str(home.data("volumes") / CLAIM), "type": "DirectoryOrCreate"},
    }
    claim_spec = {
        **shared,
        "resources": {"requests": {"storage": _SIZE}},
        "volumeName": _VOLUME,
    }
    return (
        _object("PersistentVolume", {"name": _VOLUME}, spec=volume_spec),
        _object("PersistentVolumeClaim", claim, spec=claim_spec),
        *(
            _object(
                "Secret", {"namespace": SERVING_NAMESPACE, "name": name}, stringData=environment
            )
            for name, environment in (
                (READER_SECRET, s3.reader_environment(home)),
                (BACKUP_SECRET, s3.backup_environment(home)),
            )
        ),
    )


def _object(kind: str, metadata: dict[str, str], **content: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}
