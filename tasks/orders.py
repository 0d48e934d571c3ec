"""What the process that releases a service has been told: looked at often, obeyed in the open."""

from __future__ import annotations

import time
from collections.abc import Callable

from slipway.core.errors import TransientError
from slipway.core.release.orders import Meaning, Order, meaning
from slipway.core.release.record import ReleaseRecord
from slipway.core.service import WhenBusy
from slipway.ports.records import Orders, StoredOrders

_LOOK_EVERY_S = 1.0


class OrderWatch:
    """Looks at a service's orders for one release.

    Args:
        orders: where they are.
        when_busy: of the service's policy.
        own: order of the request that is released, None when it was never ordered.
        report: told of orders that cannot be read, once each.
    """

    def __init__(
        self,
        orders: Orders,
        *,
        when_busy: WhenBusy,
        own: Order | None,
        report: Callable[[str], None],
    ) -> None:
        self._orders = orders
        self._when_busy = when_busy
        self._own = own
        self._report = report
        self._told: set[str] = set()
        self._looked_s: float | None = None

    def look(self, record: ReleaseRecord, *, now: bool) -> tuple[tuple[Order, Meaning], ...]:
        """Return every order with what it means for `record`; nothing within a second of a look.

        An API server that is away tells nothing: the next look will.

        Args:
            record: of the release.
            now: look, however short ago the last look was.
        """
        now_s = time.monotonic()
        if not now and self._looked_s is not None and now_s - self._looked_s < _LOOK_EVERY_S:
            return ()
        self._looked_s = now_s
        try:
            found = self._orders.read(record.service)
        except TransientError:
            return ()
        self._tell(found)
        # An abort counts for more than a newer request, and of those the newest has the say.
        orders = sorted(found.orders, key=lambda order: (order.kind, -order.number))
        return tuple((order, self._means(order, record)) for order in orders)

    def clear(self, record: ReleaseRecord) -> None:
        """Remove every order that has had its effect on `record`, or can have none."""
        for order in self._orders.read(record.service).orders:
            if self._means(order, record) is Meaning.SPENT:
                self._orders.remove(record.service, order.order_id)

    def _means(self, order: Order, record: ReleaseRecord) -> Meaning:
        return meaning(order, record, when_busy=self._when_busy, own=self._own)

    def _tell(self, found: StoredOrders) -> None:
        for key, why in found.unreadable.items():
            if key not in self._told:
                self._told.add(key)
                self._report(f"order {key} is left alone: {why}")
