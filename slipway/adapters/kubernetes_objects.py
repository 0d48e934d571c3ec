"""Objects of a Kubernetes cluster one by one, written as an administrator does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.adapters.kubernetes_api import (
    INSTALL_MANAGER,
    MERGE_PATCH,
    KubernetesApi,
    object_path,
    path_of,
)
from slipway.core.errors import ConflictError, PermanentError
from slipway.ports.workloads import Manifest
from slipway.retries import call_with_retries

_TRIES = 3
_DRY_RUN = {"dryRun": "All"}


class KubernetesObjects:
    """The Objects port on the API server."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def get(self, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Read one; see `slipway.ports.Objects`."""
        return self._api.get(object_path(kind, namespace, name))

    def list(self, kind: str, namespace: str | None) -> tuple[Manifest, ...]:
        """List them; see `slipway.ports.Objects`."""
        found = self._api.get(object_path(kind, namespace)) or {}
        # Items of a list do not say what they are.
        said = {"apiVersion": found.get("apiVersion"), "kind": kind}
        return tuple({**said, **item} for item in found.get("items") or ())

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Server-side apply; see `slipway.ports.Objects`."""
        return self._api.apply(manifest, dry_run=dry_run, manager=INSTALL_MANAGER)

    def put(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create or replace; see `slipway.ports.Objects`."""
        written = self._put(manifest, dry_run=dry_run)
        managers = manifest["metadata"].get("managedFields")
        if managers is None or dry_run:
            return written
        # Whoever writes becomes an owner of what changes. With nothing left to change, the owners
        # are those that the request names.
        return self._put(manifest, dry_run=False)

    def _put(self, manifest: Manifest, *, dry_run: bool) -> Manifest:
        for _ in range(_TRIES - 1):
            try:
                return self._put_once(manifest, dry_run=dry_run)
            except ConflictError as error:
                if error.code != "conflict":
                    raise  # else somebody wrote it meanwhile: it is replaced as it is then
        return self._put_once(manifest, dry_run=dry_run)

    def _put_once(self, manifest: Manifest, *, dry_run: bool) -> Manifest:
        meta = manifest["metadata"]
        found = self._api.get(path_of(manifest))
        query = {"fieldManager": INSTALL_MANAGER, **(_DRY_RUN if dry_run else {})}
        if found is None:
            kept = {key: value for key, value in meta.items() if key != "managedFields"}
            where = path_of(manifest).rpartition("/")[0]
            return self._api.call("POST", where, body={**manifest, "metadata": kept}, query=query)
        exactly = {key: found["metadata"][key] for key in ("uid", "resourceVersion")}
        body = {**manifest, "metadata": {**meta, **exactly}}
        return self._api.call("PUT", path_of(manifest), body=body, query=query)

    def patch(
        self,
        found: Manifest,
        changes: Mapping[str, Any],
        *,
        dry_run: bool = False,
    ) -> Manifest:
        """Merge patch under the object's uid; see `slipway.ports.Objects`."""
        meta = {**changes.get("metadata", {}), "uid": found["metadata"]["uid"]}

        def once() -> dict[str, Any]:
            return self._api.call(
                "PATCH",
                path_of(found),
                body={**changes, "metadata": meta},
                query={"fieldManager": INSTALL_MANAGER, **(_DRY_RUN if dry_run else {})},
                content_type=MERGE_PATCH,
            )

        try:
            # Without a resourceVersion it says the same however often it is sent.
            return call_with_retries(once)
        except PermanentError as error:
            if "metadata.uid" not in error.message:
                raise
            raise _replaced(found) from error

    def delete(self, found: Manifest) -> None:
        """Delete under the object's uid; see `slipway.ports.Objects`."""
        body = {"preconditions": {"uid": found["metadata"]["uid"]}}
        try:
            self._api.call("DELETE", path_of(found), body=body)
        except PermanentError as error:
            if error.code != "not-found":
                raise


def _replaced(found: Manifest) -> ConflictError:
    return ConflictError(
        f"{found['kind']} {found['metadata']['name']} was replaced by another of its name",
        code="conflict",
        hint="the object changed meanwhile; look at it, then run the command again",
    )
