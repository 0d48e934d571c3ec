"""What a release remembers, and what people tell it: records, locks, orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from slipway.core.release.orders import Order
from slipway.core.release.record import ReleaseRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A record as stored, with the resourceVersion that guards the next write."""

    record: ReleaseRecord
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The lock of one service, held.

    Args:
        fence: grows with every change of holder.
        version: resourceVersion that guards the renewal.
        renewed_at_ns: Unix time of the last renewal, by the holder's clock; for people.
    """

    service: str
    holder: str
    fence: int
    duration_s: float
    version: str
    renewed_at_ns: int


class Releases(Protocol):
    """Records and locks of releases."""

    def load(self, service: str) -> StoredRecord | None:
        """Return the service's record, None when it has never been released.

        Raises:
            PermanentError: the stored record cannot be read; it is never overwritten.
        """

    def save(self, record: ReleaseRecord, *, version: str | None) -> StoredRecord:
        """Write the record if it is still at `version` (None: it must not exist).

        Raises:
            ConflictError: somebody wrote first; `lock-lost`, the record's `fence` is too small.
        """

    def lock(self, service: str) -> Lease:
        """Return the service's lock as it stands; `holder` is empty when it is free.

        Raises:
            PermanentError: the service is not installed.
        """

    def take(self, found: Lease, *, holder: str, duration_s: float) -> Lease:
        """Make `holder` the holder of the lock, unless it changed since it was `found`.

        Whether a former holder is gone is the caller's to know (`tasks.lock.take_lock`): no clock
        of ours may be compared with the times that another machine wrote.

        Raises:
            ConflictError: somebody wrote it meanwhile.
        """

    def renew(self, lease: Lease) -> Lease:
        """Prolong a held lock, even if the answer to its last renewal was lost.

        Raises:
            ConflictError: it is not ours any more.
        """

    def release(self, lease: Lease) -> None:
        """Give the lock back, even if the answer to its last renewal was lost; may be repeated.

        A lock that is not ours any more is left alone.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOrders:
    """The orders of one service, as stored.

    Args:
        orders: by their ids, sorted.
        unreadable: key of what cannot be read → why; it is left where it is.
    """

    orders: tuple[Order, ...]
    unreadable: Mapping[str, str]


class Orders(Protocol):
    """What people and newer requests say to the process that holds a service's lock."""

    def read(self, service: str) -> StoredOrders:
        """Return every order.

        Raises:
            PermanentError: the service is not installed.
        """

    def post(self, service: str, order: Order) -> None:
        """Store an order beside the others; may be repeated.

        Raises:
            PermanentError: the service is not installed.
        """

    def remove(self, service: str, order_id: str) -> None:
        """Remove an order, whatever it says; may be repeated, a missing one is no error.

        Raises:
            PermanentError: the service is not installed.
        """
