"""The Orders port on the fake cluster."""

from __future__ import annotations

from functools import lru_cache

from slipway.core.errors import PermanentError
from slipway.core.release.orders import Order, order_to_storage
from slipway.manifests.release_objects import read_orders
from slipway.ports.records import StoredOrders
from tests.fakes.cluster import FakeCluster


class FakeOrders:
    """Orders as the texts that a real store would keep, a key each."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._journal = cluster.journal

    def read(self, service: str) -> StoredOrders:
        """Return every order."""
        return _read(tuple(self._stored(service).items()))

    def post(self, service: str, order: Order) -> None:
        """Store an order."""
        self._stored(service)[order.order_id] = order_to_storage(order)
        self._journal.wrote(f"order {order.kind} {order.version}")

    def remove(self, service: str, order_id: str) -> None:
        """Remove an order."""
        if self._stored(service).pop(order_id, None) is not None:
            self._journal.wrote(f"order removed: {order_id.partition('-')[0]}")

    def _stored(self, service: str) -> dict[str, str]:
        self._journal.reach()
        found = self._cluster.orders.get(service)
        if found is None:
            raise PermanentError(
                f"ConfigMap serving/slipway-{service}-orders does not exist",
                code="not-installed",
                hint=f"an administrator installs the service first: slipway install {service}",
            )
        return found


@lru_cache
def _read(stored: tuple[tuple[str, str], ...]) -> StoredOrders:
    """Return what is stored; a release looks each second, and most looks find the same."""
    return read_orders({"data": dict(stored)})
