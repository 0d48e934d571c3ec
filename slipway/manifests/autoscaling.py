"""The object that decides how many pods a slot has: one per slot, named as its Deployment.

Each slot has its own, so neither counts pods or users of the other one: with one object over both,
a canary of few pods makes the other slot grow to its maximum (Argo Rollouts #2857, #3849, #4369).

Sources: autoscaling/v2 in kubernetes/kubernetes `api/openapi-spec`, KEDA 2.20's ScaledObject and
its Prometheus scaler (keda.sh/docs/2.20/reference/scaledobject-spec, …/scalers/prometheus).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slipway.core.release.scaling import Autoscaler
from slipway.core.routing import Slot
from slipway.core.service import AutoscalerKind, Autoscaling
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    MANAGED_BY_LABEL,
    SERVICE_LABEL,
    SLOT_LABEL,
    Object,
    common_labels,
    metadata,
)

HPA = "HorizontalPodAutoscaler"
SCALED_OBJECT = "ScaledObject"

WORKLOAD_PLACEHOLDER = "$WORKLOAD"
"""Stands in a query for the name of a slot's Deployment, with which its pods' names begin."""

_LEAST = {HPA: "minReplicas", SCALED_OBJECT: "minReplicaCount"}
_MOST = {HPA: "maxReplicas", SCALED_OBJECT: "maxReplicaCount"}
# What the API takes for granted where the field is left out.
_LEAST_LEFT_OUT = {HPA: 1, SCALED_OBJECT: 0}
_MOST_LEFT_OUT = 100
_KINDS = {AutoscalerKind.HPA: HPA, AutoscalerKind.KEDA: SCALED_OBJECT}


def object_kind(settings: Autoscaling) -> str:
    """Return the kind of the object that the settings ask for."""
    return _KINDS[settings.kind]


def autoscaler(
    service: str,
    namespace: str,
    settings: Autoscaling,
    *,
    slot: Slot,
    workload: str,
    floor: int,
) -> Object:
    """Return the object that scales one slot.

    Args:
        service: whose slot it is.
        namespace: of the service.
        settings: range and metric.
        slot: which of its two slots.
        workload: name of the slot's Deployment, and of the object.
        floor: pods that it keeps, at least; within the settings' range.
    """
    build = _hpa if settings.kind is AutoscalerKind.HPA else _keda
    made = build(settings, workload)
    kind = made["kind"]
    labels = {**common_labels(service), SLOT_LABEL: slot.value}
    return {
        "apiVersion": made["apiVersion"],
        "kind": kind,
        "metadata": metadata(workload, namespace, labels=labels),
        "spec": {
            **made["spec"],
            _LEAST[kind]: floor,
            _MOST[kind]: settings.max_replicas,
        },
    }


def _hpa(settings: Autoscaling, workload: str) -> Object:
    average = {"type": "AverageValue", "averageValue": _quantity(settings.target_average)}
    pods = {"metric": {"name": settings.metric}, "target": average}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": HPA,
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload},
            "metrics": [{"type": "Pods", "pods": pods}],
            "behavior": _behavior(settings),
        },
    }


def _keda(settings: Autoscaling, workload: str) -> Object:
    asked = {
        "serverAddress": settings.server,
        "query": settings.query.replace(WORKLOAD_PLACEHOLDER, workload),
        "threshold": f"{settings.target_average:g}",
        # Without it an answer without data counts as 0, and the slot shrinks.
        "ignoreNullValues": "false",
    }
    trigger = {"type": "prometheus", "metricType": "AverageValue", "metadata": asked}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": SCALED_OBJECT,
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload},
            "triggers": [trigger],
            "advanced": {
                # A removed object leaves the number as it is: the release sets what follows.
                "restoreToOriginalReplicaCount": False,
                "horizontalPodAutoscalerConfig": {"behavior": _behavior(settings)},
            },
        },
    }


def _behavior(settings: Autoscaling) -> Object:
    return {"scaleDown": {"stabilizationWindowSeconds": settings.scale_down_window_s}}


def _quantity(value: float) -> str:
    """Return a number as a quantity, to a thousandth."""
    thousandths = max(round(value * 1000), 1)
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)


def floor_patch(found: Autoscaler, floor: int, *, fence: int | None) -> Object:
    """Return the merge patch that sets the least number of pods of an object, and nothing else.

    Args:
        found: as it was seen; one that was replaced by another of its name is refused.
        floor: pods that it keeps, at least.
        fence: number of the lock that it is written under.
    """
    meta: Object = {"uid": found.uid}
    if fence is not None:
        meta["annotations"] = {FENCE_ANNOTATION: str(fence)}
    return {"metadata": meta, "spec": {_LEAST[found.kind]: floor}}


def read_autoscalers(objects: Iterable[Mapping[str, Any]]) -> tuple[Autoscaler, ...]:
    """Return what scales Deployments among objects as the API shows them, `kind` included.

    The HorizontalPodAutoscaler that KEDA makes for a ScaledObject is part of that.
    """
    return tuple(
        _read(found)
        for found in objects
        if found["spec"]["scaleTargetRef"].get("kind", "Deployment") == "Deployment"
        and not any(
            owner["kind"] == SCALED_OBJECT
            for owner in found["metadata"].get("ownerReferences") or ()
        )
    )


def _read(found: Mapping[str, Any]) -> Autoscaler:
    meta, spec, kind = found["metadata"], found["spec"], found["kind"]
    labels, target = meta.get("labels") or {}, str(spec["scaleTargetRef"]["name"])
    made_here = labels.get(MANAGED_BY_LABEL) == "slipway" and SERVICE_LABEL in labels
    return Autoscaler(
        kind=kind,
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        target=target,
        ours=made_here and meta["name"] == target,
        min_replicas=int(spec.get(_LEAST[kind], _LEAST_LEFT_OUT[kind])),
        max_replicas=int(spec.get(_MOST[kind], _MOST_LEFT_OUT)),
    )
