"""Orders to whoever releases a service, in one ConfigMap: a key per order."""

from __future__ import annotations

from slipway.adapters.kubernetes_api import FIELD_MANAGER, KubernetesApi, object_path
from slipway.core.errors import PermanentError
from slipway.core.release.orders import Order
from slipway.manifests.release_objects import order_patch, orders_name, read_orders
from slipway.ports.records import StoredOrders
from slipway.retries import call_with_retries

_MERGE = "application/merge-patch+json"


class KubernetesOrders:
    """The Orders port on the API server."""

    def __init__(self, api: KubernetesApi, *, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def read(self, service: str) -> StoredOrders:
        """Read the ConfigMap; see `slipway.ports.Orders`."""
        name = orders_name(service)
        found = self._api.get(object_path("ConfigMap", self._namespace, name))
        if found is None:
            raise PermanentError(
                f"ConfigMap {self._namespace}/{name} does not exist",
                code="not-installed",
                hint=f"an administrator installs the service first: slipway install {service}",
            )
        return read_orders(found)

    def post(self, service: str, order: Order) -> None:
        """Write the order's key; see `slipway.ports.Orders`."""
        self._patch(service, order.order_id, order)

    def remove(self, service: str, order_id: str) -> None:
        """Remove the order's key; see `slipway.ports.Orders`."""
        self._patch(service, order_id, None)

    def _patch(self, service: str, order_id: str, order: Order | None) -> None:
        path = object_path("ConfigMap", self._namespace, orders_name(service))

        def once() -> None:
            self._api.call(
                "PATCH",
                path,
                body=order_patch(order_id, order),
                query={"fieldManager": FIELD_MANAGER},
                content_type=_MERGE,
            )

        try:
            # Without a resourceVersion it says the same however often it is sent.
            call_with_retries(once)
        except PermanentError as error:
            if error.code == "not-found":
                self.read(service)  # says what is not installed
            raise
