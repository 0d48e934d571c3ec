from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from slipway.core.feasibility.values import Budget, Limit, Role, Spread, Taint, Toleration
from slipway.core.routing import Slot
from slipway.core.service import NodeToleration, Resources, ServiceSpec, ZoneSpread
from slipway.manifests import workload
from slipway.manifests.footprint import (
    budgets_seen,
    limits_seen,
    nodes_seen,
    pod_demand,
    pods_seen,
    quotas_seen,
)
from tests.examples import IMAGE, service

MIB = 1024**2


def resources(**changes: Any) -> Resources:
    return Resources(cpu="500m", memory="1Gi", gpus=2, **changes)


def with_resources(wanted: Resources) -> ServiceSpec:
    return replace(service(), resources=wanted)


def slot_pod(spec: ServiceSpec) -> dict[str, Any]:
    made = workload.slot_deployment(
        spec, slot=Slot.BLUE, workload="chat-blue", image=IMAGE, release_id="chat-v1-1"
    )
    template: dict[str, Any] = made["spec"]["template"]["spec"]
    return template


def thing(kind: str, spec: dict[str, Any], name: str = "x", **meta: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "serving", **meta}, "spec": spec}


def test_own_pod_asks_for_what_the_service_file_says() -> None:
    demand = pod_demand(slot_pod(with_resources(resources())))
    (container,) = demand.containers
    assert container.requests == {"cpu": 500, "memory": 1024 * MIB, "nvidia.com/gpu": 2}
    assert container.limits == {"memory": 1024 * MIB, "nvidia.com/gpu": 2}
    assert demand.tolerations == (
        Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),
    )
    assert (demand.spreads, demand.node_selector, demand.has_deadline) == ((), {}, False)


def test_own_pod_goes_where_the_service_file_says() -> None:
    wanted = resources(
        node_selector=(("gpu", "H100"),),
        tolerations=(
            NodeToleration(key="spot"),
            NodeToleration(key="team", value="b", effect="NoExecute"),
        ),
        zone_spread=ZoneSpread.REQUIRED,
    )
    demand = pod_demand(slot_pod(with_resources(wanted)))
    assert demand.node_selector == {"gpu": "H100"}
    assert demand.tolerations[1:] == (
        Toleration(key="spot", operator="Exists"),
        Toleration(key="team", operator="Equal", value="b", effect="NoExecute"),
    )
    assert demand.spreads == (Spread(topology_key="topology.kubernetes.io/zone", max_skew=1),)


def test_test_pod_has_a_deadline_and_is_spread_over_nothing() -> None:
    wanted = resources(zone_spread=ZoneSpread.REQUIRED)
    made = workload.test_pod(with_resources(wanted), image=IMAGE, release_id="chat-v1-1")
    demand = pod_demand(made["spec"])
    assert (demand.has_deadline, demand.spreads) == (True, ())


def test_foreign_pod_is_read_with_init_containers_sidecars_and_overhead() -> None:
    demand = pod_demand(
        {
            "initContainers": [
                {"name": "first"},
                {"name": "proxy", "restartPolicy": "Always", "resources": {}},
            ],
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}],
            "overhead": {"memory": "1Mi"},
            "tolerations": [{"operator": "Exists"}],
        }
    )
    first, proxy, serving = demand.containers
    assert (first.init, first.sidecar, proxy.sidecar, serving.init) == (True, False, True, False)
    assert serving.requests == {"cpu": 1000}, "what is only limited is requested too"
    assert demand.overhead == {"memory": MIB}
    assert demand.tolerations == (Toleration(operator="Exists"),)


def test_pods_have_the_role_that_their_labels_give_in_the_services_namespace_alone() -> None:
    spec: dict[str, Any] = {"containers": [{"name": "c"}]}
    roles = {Role.TEST: {"role": "test"}, Role.STABLE: {"slot": "blue", "name": "chat"}}
    objects = [
        thing("Pod", {**spec, "nodeName": "a"}, "one", labels={"slot": "blue", "name": "chat"}),
        thing("Pod", spec, "two", labels={"role": "test"}, deletionTimestamp="now"),
        thing("Pod", spec, "three"),
        thing("Pod", spec, "four", namespace="other", labels={"role": "test"}),
        {**thing("Pod", spec, "five"), "status": {"phase": "Succeeded"}},
        thing("Service", {}, "six"),
    ]
    found = pods_seen(objects, namespace="serving", roles=roles)
    assert [(pod.name, pod.node, pod.ours, pod.ending) for pod in found] == [
        ("one", "a", Role.STABLE, False),
        ("two", "", Role.TEST, True),
        ("three", "", Role.OTHER, False),
        ("four", "", Role.OTHER, False),
    ]


def test_nodes_are_read_with_labels_taints_and_what_they_can_allocate() -> None:
    node = {
        "kind": "Node",
        "metadata": {"name": "a", "labels": {"gpu": "H100"}},
        "spec": {"taints": [{"key": "spot", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"cpu": "1500m"}},
    }
    bare = {"kind": "Node", "metadata": {"name": "b"}, "spec": {}, "status": {}}
    first, second = nodes_seen([node, bare, thing("Pod", {})])
    assert (first.labels, first.allocatable) == ({"gpu": "H100"}, {"cpu": 1500})
    assert first.taints == (Taint(key="spot", value="", effect="NoSchedule"),)
    assert (second.labels, second.taints, second.allocatable) == ({}, (), {})


def test_cordoned_node_takes_no_pod_whether_or_not_its_taint_is_written_already() -> None:
    def node(**spec: Any) -> dict[str, Any]:
        meta = {"name": "a"}
        return {"kind": "Node", "metadata": meta, "spec": spec, "status": {}}

    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    early, late = nodes_seen([node(unschedulable=True), node(unschedulable=True, taints=[taint])])
    assert early.taints == late.taints == (Taint(key=taint["key"], value="", effect="NoSchedule"),)


def test_quotas_are_read_and_those_counted_by_what_is_unknown_are_named() -> None:
    objects = [
        {
            **thing("ResourceQuota", {"hard": {"requests.cpu": "2"}, "scopes": ["Terminating"]}),
            "status": {"used": {"requests.cpu": "500m"}},
        },
        thing("ResourceQuota", {"hard": {"pods": "1"}, "scopeSelector": {"x": 1}}, "classes"),
        thing("ResourceQuota", {"scopes": ["CrossNamespacePodAffinity"]}, "affinity"),
        thing("LimitRange", {"limits": []}),
    ]
    (quota,), unseen = quotas_seen(objects)
    assert (quota.hard, quota.used) == ({"requests.cpu": 2000}, {"requests.cpu": 500})
    assert quota.scopes == ("Terminating",)
    assert [item.what for item in unseen] == ["ResourceQuota classes", "ResourceQuota affinity"]


def test_limit_ranges_are_read_for_containers_and_pods() -> None:
    limits = [
        {
            "type": "Container",
            "min": {"cpu": "1m"},
            "max": {"cpu": "2"},
            "default": {"cpu": "1"},
            "defaultRequest": {"cpu": "100m"},
            "maxLimitRequestRatio": {"cpu": "1500m"},
        },
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}},
    ]
    (limit,) = limits_seen([thing("LimitRange", {"limits": limits}), thing("Pod", {})])
    assert limit == Limit(
        name="x",
        kind="Container",
        least={"cpu": 1},
        most={"cpu": 2000},
        default_limits={"cpu": 1000},
        default_requests={"cpu": 100},
        ratios={"cpu": Fraction(3, 2)},
    )


def test_budgets_are_those_that_select_the_pods() -> None:
    objects = [
        thing("PodDisruptionBudget", {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}),
        thing("PodDisruptionBudget", {"selector": {"matchLabels": {"a": "c"}}}, "other"),
        thing("PodDisruptionBudget", {"maxUnavailable": "10%"}, "nobody"),
        thing("PodDisruptionBudget", {"maxUnavailable": "10%", "selector": {}}, "everybody"),
        thing("Pod", {}),
    ]
    assert budgets_seen(objects, {"a": "b"}) == (
        Budget(name="x", min_available=1),
        Budget(name="everybody", max_unavailable="10%"),
    )
