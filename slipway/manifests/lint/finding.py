"""What the linter finds, and how its rules read objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.ports.workloads import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault between objects.

    Args:
        rule: number in the catalogue, for example `L1`.
        subject: the object to change, `KIND/NAMESPACE/NAME`.
        message: what is wrong.
        hint: what to do.
    """

    rule: str
    subject: str
    message: str
    hint: str


def of_kind(objects: Sequence[Manifest], kind: str) -> tuple[Manifest, ...]:
    """Return the objects of one kind."""
    return tuple(item for item in objects if item["kind"] == kind)


def pod_template(workload: Manifest) -> Mapping[str, Any]:
    """Return metadata and spec of a workload's pods; a bare pod is its own."""
    if workload["kind"] == "Pod":
        return workload
    template: Mapping[str, Any] = workload["spec"]["template"]
    return template


def pod_labels(workload: Manifest) -> Mapping[str, str]:
    """Return the labels of a workload's pods."""
    labels: Mapping[str, str] = pod_template(workload)["metadata"].get("labels") or {}
    return labels


def namespace(item: Manifest) -> str:
    """Return an object's namespace."""
    return str(item["metadata"].get("namespace", "default"))


def host(name: str, owner: Manifest) -> str:
    """Return a host in full: Istio reads a short name in the namespace of the object naming it."""
    return name if "." in name else f"{name}.{namespace(owner)}.svc.cluster.local"


def subject(item: Manifest) -> str:
    """Return how messages name an object: `KIND/NAMESPACE/NAME`."""
    return f"{item['kind']}/{namespace(item)}/{item['metadata']['name']}"


def scales(scaler: Manifest, workload: Manifest) -> bool:
    """Return whether an autoscaler is for a Deployment."""
    target = scaler["spec"]["scaleTargetRef"]
    return (
        namespace(scaler) == namespace(workload)
        and target.get("kind", "Deployment") == "Deployment"
        and target["name"] == workload["metadata"]["name"]
    )
