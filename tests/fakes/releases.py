"""The Releases port on the fake cluster."""

from __future__ import annotations

from dataclasses import replace

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.release.record import ReleaseRecord
from slipway.core.release.storage import from_storage, to_storage
from slipway.manifests.release_objects import record_name
from slipway.ports.records import Lease, StoredRecord
from tests.fakes.cluster import FakeCluster


class FakeReleases:
    """Records as the text that a real store would keep, and locks on the fake clock."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._journal = cluster.journal

    def load(self, service: str) -> StoredRecord | None:
        """Return the stored record."""
        self._journal.reach()
        if service not in self._cluster.records:
            return None
        text, version = self._cluster.records[service]
        return StoredRecord(record=from_storage(text), version=version)

    def save(self, record: ReleaseRecord, *, version: str | None) -> StoredRecord:
        """Write the record under its version."""
        self._journal.reach()
        _, current = self._cluster.records.get(record.service, ("", None))
        if current != version:
            raise _conflict(f"record of {record.service} is at {current}, not {version}")
        name = record_name(record.service)
        self._cluster.fence_off("ConfigMap", name, record.fence, service=record.service)
        stored = StoredRecord(record=record, version=str(self._cluster.number()))
        text, _ = self._cluster.records.get(record.service, ("", None))
        stamped = bool(text) and _only_stamped(from_storage(text), record)
        self._cluster.records[record.service] = (to_storage(record), stored.version)
        written = f"record {record.phase}: {record.intent or record.reason}"
        self._journal.wrote(f"stamp {name}" if stamped else written)
        return stored

    def lock(self, service: str) -> Lease:
        """Return the lock."""
        self._journal.reach()
        found = self._cluster.leases.get(service)
        if found is None:
            raise PermanentError(
                f"Lease serving/slipway-{service} does not exist",
                code="not-installed",
                hint=f"an administrator installs the service first: slipway install {service}",
            )
        return found

    def take(self, found: Lease, *, holder: str, duration_s: float) -> Lease:
        """Take the lock under its version."""
        self._journal.reach()
        self._require_ours(found)
        fence = found.fence + (1 if found.holder != holder else 0)
        return self._store(replace(found, holder=holder, fence=fence, duration_s=duration_s))

    def renew(self, lease: Lease) -> Lease:
        """Prolong the lock, whatever became of the answer to its last renewal."""
        self._journal.reach()
        current = self._cluster.leases[lease.service]
        if (current.holder, current.fence) != (lease.holder, lease.fence):
            raise _conflict(f"the lock of {lease.service} is held by {current.holder or 'nobody'}")
        return self._store(lease)

    def release(self, lease: Lease) -> None:
        """Give the lock back, unless it is not ours any more."""
        self._journal.reach()
        current = self._cluster.leases[lease.service]
        if (current.holder, current.fence) == (lease.holder, lease.fence):
            self._store(replace(lease, holder=""))

    def _require_ours(self, lease: Lease) -> None:
        current = self._cluster.leases[lease.service]
        if current.version != lease.version:
            raise _conflict(f"the lock of {lease.service} is held by {current.holder or 'nobody'}")

    def _store(self, lease: Lease) -> Lease:
        stored = replace(
            lease,
            version=str(self._cluster.number()),
            renewed_at_ns=self._cluster.clock.time_ns(),
        )
        self._cluster.leases[lease.service] = stored
        return stored


def _only_stamped(before: ReleaseRecord, record: ReleaseRecord) -> bool:
    if (before.phase, before.intent) != (record.phase, record.intent):
        return False  # as nearly always: a copy to compare costs more than the write
    return replace(before, fence=record.fence) == record


def _conflict(message: str) -> ConflictError:
    return ConflictError(
        message, code="conflict", hint="the object changed meanwhile; read it again"
    )
