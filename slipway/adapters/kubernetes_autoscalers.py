"""What scales Deployments on a Kubernetes cluster: HorizontalPodAutoscalers and ScaledObjects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from slipway.adapters.kubernetes_api import (
    FIELD_MANAGER,
    MERGE_PATCH,
    KubernetesApi,
    object_path,
)
from slipway.core.errors import ConflictError, PermanentError
from slipway.core.release.scaling import Autoscaler
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT, floor_patch, read_autoscalers
from slipway.ports.workloads import Manifest
from slipway.retries import call_with_retries


class KubernetesAutoscalers:
    """The Autoscalers port on the API server."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def find(self, namespace: str, deployments: Sequence[str]) -> tuple[Autoscaler, ...]:
        """List both kinds; a cluster without KEDA has none of the second."""
        found = read_autoscalers(self._objects(namespace))
        return tuple(item for item in found if item.target in deployments)

    def _objects(self, namespace: str) -> Iterator[dict[str, Any]]:
        for kind in (HPA, SCALED_OBJECT):
            listed = self._api.get(object_path(kind, namespace)) or {}
            for item in listed.get("items", []):
                yield {**item, "kind": kind}  # items of a list do not say what they are

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> None:
        """Server-side apply; see `slipway.ports.Autoscalers`."""
        try:
            self._api.apply(manifest, dry_run=dry_run)
        except PermanentError as error:
            if error.code != "not-found":
                raise
            # An apply makes what is missing: only the kind itself can be unknown, or the namespace.
            raise unknown_kind(manifest["kind"]) from error

    def stamp(self, namespace: str, found: Autoscaler, *, fence: int) -> None:
        """Put a fencing number on an object; see `slipway.ports.Autoscalers`."""
        try:
            self._api.stamp(found.kind, namespace, found.name, fence=fence)
        except PermanentError as error:
            if error.code != "not-found":
                raise

    def set_floor(
        self, namespace: str, found: Autoscaler, floor: int, *, fence: int | None = None
    ) -> None:
        """Set the least number; see `slipway.ports.Autoscalers`."""

        def once() -> None:
            self._api.call(
                "PATCH",
                object_path(found.kind, namespace, found.name),
                body=floor_patch(found, floor, fence=fence),
                query={"fieldManager": FIELD_MANAGER},
                content_type=MERGE_PATCH,
            )

        try:
            # Without a resourceVersion it says the same however often it is sent.
            call_with_retries(once)
        except PermanentError as error:
            if "metadata.uid" in error.message:
                raise _replaced(found) from error
            if error.code != "not-found":
                raise

    def remove(self, namespace: str, found: Autoscaler) -> None:
        """Delete under preconditions; see `slipway.ports.Autoscalers`."""
        # The resourceVersion too: whoever took over has stamped the object, which is theirs now.
        exactly = {"uid": found.uid, "resourceVersion": found.resource_version}
        path = object_path(found.kind, namespace, found.name)
        try:
            self._api.call("DELETE", path, body={"preconditions": exactly})
        except PermanentError as error:
            if error.code != "not-found":
                raise


def unknown_kind(kind: str) -> PermanentError:
    """Return the error of a cluster that has no objects of a kind."""
    return PermanentError(
        f"the cluster knows no {kind}",
        code="autoscaler-unknown",
        hint="install KEDA, or write autoscaling.kind: hpa into the service file",
    )


def _replaced(found: Autoscaler) -> ConflictError:
    return ConflictError(
        f"{found.kind} {found.name} was replaced by another of its name",
        code="conflict",
        hint="the object changed meanwhile; read it again",
    )
