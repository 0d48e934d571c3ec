"""Which slot a pod is of, by the address that the gateway logs."""

from __future__ import annotations

from slipway.adapters.kubernetes_api import KubernetesApi, object_path
from slipway.core.service import ServiceSpec
from slipway.manifests.names import SERVES_LABEL, SLOT_LABEL


class SlotPods:
    """The pods of a service's slots. One that is gone had requests too: none is forgotten."""

    def __init__(self, api: KubernetesApi, spec: ServiceSpec) -> None:
        self._api = api
        self._spec = spec
        self._slot_of: dict[str, str] = {}

    def learn(self) -> None:
        """Look which pods there are now."""
        found = self._api.get(
            object_path("Pod", self._spec.namespace),
            query={"labelSelector": f"{SERVES_LABEL}={self._spec.name}"},
        )
        for pod in (found or {}).get("items") or ():
            address = pod.get("status", {}).get("podIP")
            if address:
                self._slot_of[address] = pod["metadata"]["labels"].get(SLOT_LABEL, "")

    def slot_of(self, pod: str) -> str:
        """Return the slot of a pod, given its address:port; empty when it was never seen."""
        return self._slot_of.get(pod.rpartition(":")[0], "")
