from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.core.routing import Slot
from slipway.core.service import AutoscalerKind, Autoscaling
from slipway.manifests.autoscaling import (
    autoscaler,
    floor_patch,
    object_kind,
    read_autoscalers,
)
from tests.examples import autoscaler_seen, autoscaling

HPA, KEDA = AutoscalerKind.HPA, AutoscalerKind.KEDA


def built(settings: Autoscaling, floor: int = 3) -> dict[str, Any]:
    return autoscaler(
        "chat", "serving", settings, slot=Slot.GREEN, workload="chat-green", floor=floor
    )


def shown(manifest: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return an object as the API server shows it."""
    meta = {**manifest["metadata"], "uid": "u-1", "resourceVersion": "9", **changes}
    return {**manifest, "metadata": meta}


def test_hpa_scales_one_slot_by_a_metric_of_its_pods() -> None:
    manifest = built(autoscaling())
    assert manifest["spec"] == {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat-green"},
        "minReplicas": 3,
        "maxReplicas": 8,
        "metrics": [
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": "requests_in_flight"},
                    "target": {"type": "AverageValue", "averageValue": "5"},
                },
            }
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }


def test_scaled_object_asks_for_its_own_slots_figure() -> None:
    manifest = built(autoscaling(KEDA))
    spec = manifest["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (3, 8)
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["query"] == 'sum(in_flight{pod=~"chat-green-.*"})'
    assert trigger["metadata"]["threshold"] == "5"
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert spec["advanced"]["restoreToOriginalReplicaCount"] is False


@pytest.mark.parametrize(
    ("average", "quantity"), [(5.0, "5"), (2.5, "2500m"), (0.0001, "1m"), (1200.0, "1200")]
)
def test_average_is_a_quantity_to_a_thousandth(average: float, quantity: str) -> None:
    manifest = built(replace(autoscaling(), target_average=average))
    assert manifest["spec"]["metrics"][0]["pods"]["target"]["averageValue"] == quantity


@pytest.mark.parametrize("kind", list(AutoscalerKind))
def test_object_that_is_read_back_is_known_as_ours(kind: AutoscalerKind) -> None:
    settings = autoscaling(kind)
    (found,) = read_autoscalers([shown(built(settings))])
    assert (found.kind, found.name, found.target) == (
        object_kind(settings),
        "chat-green",
        "chat-green",
    )
    assert (found.uid, found.resource_version, found.ours) == ("u-1", "9", True)
    assert (found.min_replicas, found.max_replicas) == (3, 8)


@pytest.mark.parametrize(
    "changes", [{"labels": {}}, {"labels": None}, {"name": "by-hand"}], ids=str
)
def test_object_that_no_release_made_is_known_as_somebody_elses(changes: dict[str, Any]) -> None:
    (found,) = read_autoscalers([shown(built(autoscaling()), **changes)])
    assert not found.ours


def test_object_without_a_range_has_the_one_of_the_api() -> None:
    ranges = []
    for kind in AutoscalerKind:
        manifest = shown(built(autoscaling(kind)))
        for field in ("minReplicas", "maxReplicas", "minReplicaCount", "maxReplicaCount"):
            manifest["spec"].pop(field, None)
        (found,) = read_autoscalers([manifest])
        ranges.append((found.min_replicas, found.max_replicas))
    assert ranges == [(1, 100), (0, 100)]


def test_hpa_that_keda_made_is_part_of_its_scaled_object() -> None:
    owner = [{"kind": "ScaledObject", "name": "chat-green"}]
    assert read_autoscalers([shown(built(autoscaling()), ownerReferences=owner)]) == ()
    other = [{"kind": "Anything", "name": "x"}]
    assert len(read_autoscalers([shown(built(autoscaling()), ownerReferences=other)])) == 1


def test_object_that_scales_no_deployment_is_none_of_our_business() -> None:
    manifest = shown(built(autoscaling()))
    manifest["spec"]["scaleTargetRef"]["kind"] = "StatefulSet"
    assert read_autoscalers([manifest]) == ()


def test_deployment_is_what_is_scaled_where_no_kind_is_named() -> None:
    manifest = shown(built(autoscaling(KEDA)))
    del manifest["spec"]["scaleTargetRef"]["kind"]
    assert len(read_autoscalers([manifest])) == 1


def test_floor_is_patched_alone_and_under_the_locks_number() -> None:
    found = autoscaler_seen("chat-blue")
    assert floor_patch(found, 5, fence=7) == {
        "metadata": {"uid": "uid-chat-blue", "annotations": {"slipway.dev/fence": "7"}},
        "spec": {"minReplicas": 5},
    }
    keda = replace(found, kind="ScaledObject")
    assert floor_patch(keda, 5, fence=None) == {
        "metadata": {"uid": "uid-chat-blue"},
        "spec": {"minReplicaCount": 5},
    }
