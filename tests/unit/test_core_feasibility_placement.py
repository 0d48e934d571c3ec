from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.core.feasibility.placement import ZONE_LABEL, Wanted, placement_shortfalls
from slipway.core.feasibility.pods import charge, is_best_effort, limits_of, requests_of
from slipway.core.feasibility.quantity import Unit
from slipway.core.feasibility.values import (
    Code,
    Container,
    NodeSeen,
    PodDemand,
    PodSeen,
    Shortfall,
    Spread,
    Taint,
    Toleration,
)

GPU = "nvidia.com/gpu"


def demand(*, gpus: int = 1, cpu: int = 1000, memory: int = 0, **changes: Any) -> PodDemand:
    requests = {"cpu": cpu, "memory": memory, GPU: gpus}
    made = Container(name="server", requests=requests, limits={GPU: gpus})
    return PodDemand(containers=(made,), **changes)


def node(name: str = "a", *, zone: str = "zone-a", gpus: int = 4, **changes: Any) -> NodeSeen:
    made = NodeSeen(
        name=name,
        labels={ZONE_LABEL: zone} if zone else {},
        taints=(),
        allocatable={"cpu": 64_000, "memory": 1024**4, GPU: gpus, "pods": 10},
    )
    return replace(made, **changes)


def pod(on: str = "a", *, gpus: int = 1) -> PodSeen:
    return PodSeen(namespace="other", name="x", node=on, demand=demand(gpus=gpus))


def short(
    wanted: Wanted, *nodes: NodeSeen, pods: tuple[PodSeen, ...] = ()
) -> tuple[Shortfall, ...]:
    return placement_shortfalls(wanted, nodes, pods, counts=lambda _: True)


def wanted(pods: int = 4, **asked: Any) -> Wanted:
    exact = asked.pop("exact", True)
    return Wanted(what=f"{pods} pods", pods=pods, demand=demand(**asked), exact=exact)


def test_pods_that_fit_lack_nothing() -> None:
    assert short(wanted(4), node()) == ()
    assert short(wanted(4, gpus=0), node(gpus=0)) == ()


def test_gpus_that_others_use_are_not_free_and_the_zone_of_the_rest_is_named() -> None:
    nodes = (node("a"), node("b", zone="zone-b"))
    (found,) = short(wanted(4), *nodes, pods=(pod("a", gpus=4), pod("b", gpus=2)))
    assert (found.code, found.needs, found.free, found.short) == (Code.GPU, 4, 2, 2)
    assert found.text == "needs 4 GPUs, 2 GPUs free in zone-b; 2 GPUs more"
    assert str(found) == f"4 pods: {found.text} [gpu-short]"


def test_gpus_of_several_zones_are_named_zone_by_zone() -> None:
    nodes = (node("a", gpus=1), node("b", zone="", gpus=1))
    (found,) = short(wanted(3), *nodes)
    assert "2 GPUs free (nodes without a zone 1 GPU, zone-a 1 GPU); 1 GPU more" in found.text
    (found,) = short(wanted(3), replace(nodes[1], name="c"))
    assert found.text == "needs 3 GPUs, 1 GPU free; 2 GPUs more"


def test_gpus_on_several_nodes_are_no_room_for_one_pod() -> None:
    nodes = [node(name) for name in "abcd"]
    used = tuple(pod(name, gpus=3) for name in "abcd")
    (found,) = short(wanted(1, gpus=4), *nodes, pods=used)
    assert (found.needs, found.free) == (4, 0)


def test_pods_that_wait_for_a_node_and_those_not_counted_take_nothing() -> None:
    assert short(wanted(4), node(), pods=(pod(""),)) == ()
    found = placement_shortfalls(wanted(4), [node()], [pod()], counts=lambda _: False)
    assert found == ()


def test_what_is_not_known_exactly_is_said_to_be_the_most() -> None:
    (found,) = short(wanted(5, exact=False), node())
    assert "at most 4 GPUs free" in found.text


def test_node_that_more_is_asked_of_than_it_has_counts_as_full() -> None:
    (found,) = short(wanted(1), node(), pods=(pod(gpus=9),))
    assert (found.needs, found.free) == (1, 0)


def test_each_resource_that_is_short_is_named_with_its_unit() -> None:
    small = node(allocatable={"cpu": 1500, "memory": 3, GPU: 4, "pods": 1, "example.com/x": 1})
    asked = Wanted(
        what="2 pods",
        pods=2,
        demand=PodDemand(
            containers=(
                Container(
                    name="c", requests={"cpu": 1000, "memory": 2, "example.com/x": 1}, limits={}
                ),
            )
        ),
    )
    found = {item.unit: item for item in short(asked, small)}
    assert set(found) == {Unit.CPU_MILLI, Unit.BYTE, Unit.PIECE, Unit.POD}
    assert {item.code for item in found.values()} == {Code.NODE_ROOM}
    assert "needs 2 CPUs, 1 CPU free" in found[Unit.CPU_MILLI].text
    assert "needs 4 bytes of memory, 2 bytes free" in found[Unit.BYTE].text
    assert "needs 2 pieces of example.com/x" in found[Unit.PIECE].text
    assert found[Unit.POD].hint == "free room for pods, or add nodes that have it"


def test_resources_that_are_free_on_different_nodes_are_no_room() -> None:
    nodes = (
        node("a", allocatable={"cpu": 1000, GPU: 4, "pods": 9}),
        node("b", allocatable={"cpu": 9000, GPU: 1, "pods": 9}),
    )
    asked = Wanted(what="3 pods", pods=3, demand=demand())
    (found,) = short(asked, *nodes)
    assert (found.unit, found.needs, found.free) == (Unit.POD, 3, 2)


def test_pod_larger_than_every_node_is_told_the_largest() -> None:
    (found,) = short(wanted(1, gpus=8), node(), node("b", gpus=2))
    assert (found.code, found.needs, found.free) == (Code.NODE_SIZE, 8, 4)
    assert found.text == ("one pod needs 8 GPUs on one node, the largest has 4 GPUs; 4 GPUs more")


def test_labels_that_no_node_has_are_named() -> None:
    asked = wanted(1, node_selector={"gpu": "H100"})
    (found,) = short(asked, node(), node("b"))
    assert found.code is Code.LABELS
    assert found.text == "needs a node with gpu=H100, 0 of 2 nodes have it; 1 more"
    assert short(asked, node(labels={"gpu": "H100"})) == ()


def test_cluster_without_nodes_has_no_room() -> None:
    (found,) = short(wanted(1))
    assert (found.code, found.hint) == (Code.LABELS, "add nodes")


def test_taint_that_no_pod_tolerates_is_named_and_a_wish_is_none() -> None:
    taints = (
        Taint(key="reserved", value="", effect="NoSchedule"),
        Taint(key="team", value="b", effect="NoExecute"),
    )
    (found,) = short(wanted(1), node(taints=taints))
    assert (found.code, found.unit) == (Code.TAINTS, Unit.NODE)
    assert "every one tainted (reserved:NoSchedule, team=b:NoExecute); 1 more" in found.text
    wish = (Taint(key="x", value="", effect="PreferNoSchedule"),)
    assert short(wanted(1), node(taints=wish)) == ()


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        (Toleration(key="team", value="b"), True),
        (Toleration(key="team", value="a"), False),
        (Toleration(key="team", operator="Exists"), True),
        (Toleration(key="team", operator="Exists", effect="NoExecute"), False),
        (Toleration(operator="Exists"), True),
        (Toleration(value="b"), False),
        (Toleration(key="other", operator="Exists"), False),
    ],
)
def test_toleration_is_read_as_kubernetes_does(toleration: Toleration, tolerates: bool) -> None:
    taint = Taint(key="team", value="b", effect="NoSchedule")
    assert toleration.tolerates(taint) is tolerates
    found = short(wanted(1, tolerations=(toleration,)), node(taints=(taint,)))
    assert (found == ()) is tolerates


SPREAD = (Spread(topology_key=ZONE_LABEL, max_skew=1),)


def test_spread_pods_are_limited_by_the_zone_with_the_least_room() -> None:
    nodes = (node("a"), node("b", zone="zone-b", gpus=0, allocatable={"pods": 9}))
    (found,) = short(wanted(3, spreads=SPREAD), *nodes)
    assert (found.code, found.needs, found.free) == (Code.ZONES, 3, 1)
    assert "(room: zone-a 4, zone-b 0), 1 fit so; 2 more" in found.text


def test_spread_counts_a_tainted_zone_and_leaves_out_nodes_without_a_zone() -> None:
    closed = node("b", zone="zone-b", taints=(Taint(key="x", value="", effect="NoSchedule"),))
    (found,) = short(wanted(2, spreads=SPREAD), node(), closed)
    assert (found.code, found.free) == (Code.ZONES, 1)
    (found,) = short(wanted(2, spreads=SPREAD), node(zone=""))
    assert "(room: none), 0 fit so" in found.text
    assert short(wanted(2, spreads=SPREAD), node(), node("b", zone="zone-b")) == ()


def test_pod_requests_what_runs_at_once() -> None:
    def container(name: str, cpu: int, **kind: bool) -> Container:
        return Container(name=name, requests={"cpu": cpu}, limits={"memory": cpu}, **kind)

    made = PodDemand(
        containers=(
            container("first", 900, init=True),
            container("proxy", 100, init=True, sidecar=True),
            container("second", 850, init=True),
            container("server", 500),
            container("logs", 50),
        ),
        overhead={"cpu": 7},
    )
    # second beside the proxy is more than all that serve.
    assert requests_of(made) == {"cpu": 957}
    assert limits_of(made) == {"memory": 950}


def test_pod_is_charged_by_the_names_of_quotas() -> None:
    made = PodDemand(
        containers=(
            Container(
                name="c", requests={"cpu": 1, "memory": 2, GPU: 3}, limits={"memory": 4, GPU: 3}
            ),
        )
    )
    assert charge(made) == {
        "pods": 1,
        "count/pods": 1,
        "cpu": 1,
        "requests.cpu": 1,
        "memory": 2,
        "requests.memory": 2,
        "requests.nvidia.com/gpu": 3,
        "limits.memory": 4,
    }


def test_pod_without_cpu_and_memory_is_best_effort() -> None:
    nothing = PodDemand(containers=(Container(name="c", requests={GPU: 1}, limits={}),))
    assert is_best_effort(nothing)
    assert not is_best_effort(demand())
