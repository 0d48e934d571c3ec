"""The Kubernetes Services of a service: over both slots, over one, and over the candidate."""

from __future__ import annotations

from collections.abc import Mapping

from slipway.core.routing import Slot
from slipway.core.service import ServiceSpec
from slipway.manifests.names import (
    SERVES_LABEL,
    Object,
    common_labels,
    metadata,
    slot_labels,
    slot_service,
)


def service_object(spec: ServiceSpec) -> Object:
    """Return the Service over both slots; the mesh divides it into subsets."""
    return cluster_service(spec, spec.name, {SERVES_LABEL: spec.name})


def slot_services(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return a Service for each slot: what a route without subsets divides the users among."""
    return tuple(
        cluster_service(spec, slot_service(spec.name, slot), slot_labels(spec.name, slot))
        for slot in Slot
    )


def cluster_service(
    spec: ServiceSpec,
    name: str,
    selector: Mapping[str, str],
    *,
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """Return a Service inside the cluster on the model servers' HTTP port."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(
            name, spec.namespace, labels=common_labels(spec.name), annotations=annotations
        ),
        "spec": {
            "type": "ClusterIP",
            "selector": dict(selector),
            "ports": [
                {
                    "name": "http",
                    "port": spec.router.port,
                    # By number: the pods of an adopted service may call their port otherwise.
                    "targetPort": spec.server.port,
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
            ],
        },
    }
