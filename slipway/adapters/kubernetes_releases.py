"""Release records in ConfigMaps and release locks in Leases."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from slipway.adapters.kubernetes import require_object
from slipway.adapters.kubernetes_api import (
    FIELD_MANAGER,
    MERGE_PATCH,
    KubernetesApi,
    object_path,
)
from slipway.core.errors import ConflictError
from slipway.core.release.record import ReleaseRecord
from slipway.manifests.release_objects import (
    lease_name,
    lease_spec,
    read_lease,
    read_record,
    record_config_map,
    record_name,
)
from slipway.ports.records import Lease, StoredRecord


class KubernetesReleases:
    """The Releases port: one ConfigMap and one Lease per service."""

    def __init__(self, api: KubernetesApi, *, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def load(self, service: str) -> StoredRecord | None:
        """Return the stored record; see `slipway.ports.Releases`."""
        found = self._api.get(object_path("ConfigMap", self._namespace, record_name(service)))
        if found is None:
            return None
        return StoredRecord(record=read_record(found), version=found["metadata"]["resourceVersion"])

    def save(self, record: ReleaseRecord, *, version: str | None) -> StoredRecord:
        """Write the record under its version; see `slipway.ports.Releases`."""
        body = record_config_map(record, namespace=self._namespace, version=version)
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if version is None:
            path = object_path("ConfigMap", self._namespace)
            answer = self._api.call("POST", path, body=body, query=query)
        else:
            # A resourceVersion in a merge patch is a precondition: 409 when the object moved on.
            path = object_path("ConfigMap", self._namespace, record_name(record.service))
            answer = self._api.call("PATCH", path, body=body, query=query, content_type=MERGE_PATCH)
        return StoredRecord(record=record, version=answer["metadata"]["resourceVersion"])

    def lock(self, service: str) -> Lease:
        """Read the lock; see `slipway.ports.Releases`."""
        found = require_object(self._api, "Lease", self._namespace, lease_name(service))
        return read_lease(service, found)

    def take(self, found: Lease, *, holder: str, duration_s: float) -> Lease:
        """Take the lock under its version; see `slipway.ports.Releases`."""
        fence = found.fence + (1 if found.holder != holder else 0)
        return self._write(replace(found, holder=holder, fence=fence, duration_s=duration_s))

    def renew(self, lease: Lease) -> Lease:
        """Prolong the lock; see `slipway.ports.Releases`."""
        try:
            return self._write(lease)
        except ConflictError as error:
            # Not necessarily another holder: the answer to a renewal of ours may have been lost.
            now = self.lock(lease.service)
            if (now.holder, now.fence) != (lease.holder, lease.fence):
                raise ConflictError(
                    f"the lock of service {lease.service} is held by {now.holder or 'nobody'}",
                    code="conflict",
                    hint="another process has taken over",
                ) from error
            return self._write(replace(lease, version=now.version))

    def release(self, lease: Lease) -> None:
        """Give the lock back; one that was taken over is left alone."""
        free = replace(lease, holder="")
        try:
            self._write(free)
        except ConflictError:
            # As for a renewal. Taken over after this look, it is another's: left alone as well.
            now = self.lock(lease.service)
            if (now.holder, now.fence) == (lease.holder, lease.fence):
                with suppress(ConflictError):
                    self._write(replace(free, version=now.version))

    def _write(self, lease: Lease) -> Lease:
        renewed = replace(lease, renewed_at_ns=time.time_ns())
        answer = self._api.call(
            "PATCH",
            object_path("Lease", self._namespace, lease_name(lease.service)),
            body={
                "metadata": {"resourceVersion": lease.version},
                "spec": lease_spec(renewed),
            },
            query={"fieldManager": FIELD_MANAGER},
            content_type=MERGE_PATCH,
        )
        return replace(renewed, version=answer["metadata"]["resourceVersion"])
