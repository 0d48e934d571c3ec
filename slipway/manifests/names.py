"""Names, labels and annotations of a service's objects: one place, so writer and reader agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.core.routing import Slot
from slipway.core.service import ServiceSpec

SERVES_LABEL = "slipway.dev/serves"
"""Label whose value is the service; on every pod of a slot, never on the test pod.

Of our own domain: pods of a service that is adopted may carry the customary ones already, with
values that their Deployment's selector fixes.
"""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
SLOT_LABEL = "slipway.dev/slot"
SERVICE_LABEL = "slipway.dev/service"
RELEASE_LABEL = "slipway.dev/release"
ROLE_LABEL = "slipway.dev/role"

IMAGE_ANNOTATION = "slipway.dev/image-digest"
WEIGHTS_ANNOTATION = "slipway.dev/weights-digest"
"""On pods whose weights lie on a volume: the digest that the init container checks them by."""

ROUTE_ANNOTATION = "slipway.dev/route-revision"

SLOTS_ANNOTATION = "slipway.dev/slots"
"""On routes that have no subsets: the slots that are warm, comma-separated."""

PREVIEW_ANNOTATION = "slipway.dev/preview"
"""On the preview Service: the token of the preview, which a plain Service does not ask for."""

FENCE_ANNOTATION = "slipway.dev/fence"
"""On what a release guards: number of the lock under which it was last written or taken over."""

SERVING_LABEL = "slipway.dev/serving"
"""Label of namespaces in which the admission policies hold."""

MODEL_ACCOUNT = "slipway-model"
"""Service account of model pods; it may do nothing."""

RELEASE_ACCOUNT = "slipway-release"
"""Service account of release flows."""

BACKUP_ACCOUNT = "slipway-backup"
"""Runs the flows of backups: it reads records, and starts pods on restored files."""

WATCH_ACCOUNT = "slipway-watch"
"""Service account of the watcher."""

OPERATE_ROLE = "slipway-operate"
"""How the roles begin that are for people; no account of ours is bound to them."""

PLATFORM_NAMESPACE = "serving"
"""Where the accounts of flows and of the watcher are, whatever the namespaces of the services."""

Object = dict[str, Any]
"""One Kubernetes object under construction; leaves this package as `slipway.ports.Manifest`."""


def host(spec: ServiceSpec) -> str:
    """Return the in-cluster name of the service, fully qualified."""
    return host_of(spec.name, spec.namespace)


def host_of(service: str, namespace: str) -> str:
    """Return the in-cluster name of a Kubernetes Service, fully qualified."""
    return f"{service}.{namespace}.svc.cluster.local"


def workload_name(service: str, slot: Slot) -> str:
    """Return the name of a slot's Deployment as Slipway itself creates it."""
    return f"{service}-{slot.value}"


def slot_service(service: str, slot: Slot) -> str:
    """Return the name of the Kubernetes Service over one slot's pods."""
    return f"{service}-{slot.value}"


def preview_service(service: str) -> str:
    """Return the name of the Kubernetes Service that reaches the candidate."""
    return f"{service}-preview"


def drill_pod_name(service: str) -> str:
    """Return the name of the pod that a restore drill starts on restored files."""
    return f"{service}-drill"


def backup_job_name(service: str) -> str:
    """Return the name of the Job that backs up a version on the volume, and of what it reads."""
    return f"{service}-backup"


def test_pod_name(service: str) -> str:
    """Return the name of the pod that a release tests its model with."""
    return f"{service}-test"


def sweep_pod_name(service: str) -> str:
    """Return the name of the pod that removes weights which no slot needs from the volume."""
    return f"{service}-sweep"


def slot_labels(service: str, slot: Slot) -> dict[str, str]:
    """Return the labels that select a slot's pods; immutable in a Deployment, so never more."""
    return {SERVES_LABEL: service, SLOT_LABEL: slot.value}


def common_labels(service: str) -> dict[str, str]:
    """Return the labels of every object that belongs to a service."""
    return {MANAGED_BY_LABEL: "slipway", SERVICE_LABEL: service}


def with_fence(manifest: Mapping[str, Any], fence: int) -> Object:
    """Return the object with the number of the lock that it is written under."""
    meta = manifest["metadata"]
    annotations = {**meta.get("annotations", {}), FENCE_ANNOTATION: str(fence)}
    return {**manifest, "metadata": {**meta, "annotations": annotations}}


def metadata(
    name: str,
    namespace: str,
    *,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """Return an object's metadata."""
    filled: Object = {"name": name, "namespace": namespace, "labels": dict(labels)}
    if annotations:
        filled["annotations"] = dict(annotations)
    return filled
