from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from slipway.core.routing import Route, Share, Slot, with_preview
from slipway.core.service import AutoscalerKind
from slipway.manifests import workload
from slipway.manifests.autoscaling import autoscaler
from slipway.manifests.install import install_objects, platform_objects
from slipway.manifests.lint import lint
from slipway.manifests.routes.istio import destination_rule, virtual_service
from slipway.manifests.routes.services import service_object
from tests.examples import IMAGE, autoscaling, service

BOTH = frozenset(Slot)
ROUTE = with_preview(
    Route(
        service="chat",
        shares=(Share(slot=Slot.BLUE, percent=90), Share(slot=Slot.GREEN, percent=10)),
        subsets=BOTH,
    ),
    Slot.GREEN,
    "t0ken",
)


def deployment(slot: Slot) -> dict[str, Any]:
    return workload.slot_deployment(
        service(), slot=slot, workload=f"chat-{slot}", image=IMAGE, release_id="chat-v1-1"
    )


def sound() -> list[dict[str, Any]]:
    """Return all objects of a service in the middle of a release."""
    return [
        *platform_objects(["127.0.0.1:5000"]),
        service_object(service()),
        deployment(Slot.BLUE),
        deployment(Slot.GREEN),
        workload.test_pod(service(), image=IMAGE, release_id="chat-v1-1"),
        destination_rule(service(), BOTH),
        virtual_service(service(), ROUTE),
    ]


def rules_found(objects: list[dict[str, Any]]) -> list[str]:
    return [finding.rule for finding in lint(objects)]


def plain(kind: str, name: str, spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, **meta}, "spec": spec}


def bare_deployment(name: str, selector: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    template = {"metadata": {"labels": labels}}
    return plain("Deployment", name, {"selector": selector, "template": template})


def test_own_objects_have_no_findings() -> None:
    assert lint(sound()) == ()
    assert lint(install_objects(service())) == ()


def test_route_to_an_undefined_subset_is_found_in_every_rule() -> None:
    objects = sound()
    objects[-2] = destination_rule(service(), frozenset({Slot.BLUE}))

    findings = lint(objects)

    assert [item.rule for item in findings] == ["L1", "L1"]
    assert findings[0].subject == "VirtualService/serving/chat"
    assert "rule preview routes to subset green of chat.serving" in findings[0].message
    assert "DestinationRule" in findings[0].hint


def test_short_host_names_are_those_of_the_objects_namespace() -> None:
    objects = sound()
    objects[-2]["spec"]["host"] = "chat"

    assert lint(objects) == ()


@pytest.mark.parametrize(
    "mirror",
    [
        {"mirror": {"host": "chat", "subset": "shadow"}},
        {"mirrors": [{"destination": {"host": "chat", "subset": "shadow"}}]},
    ],
)
def test_mirror_to_an_undefined_subset_is_found(mirror: dict[str, Any]) -> None:
    objects = sound()
    del objects[-1]["spec"]["http"][0]["name"]
    objects[-1]["spec"]["http"][0].update(mirror)

    (finding,) = lint(objects)

    assert finding.rule == "L1"
    assert "rule without name routes to subset shadow" in finding.message


def test_destination_without_a_subset_needs_no_rule() -> None:
    route = [{"destination": {"host": "chat"}}]

    assert lint([plain("VirtualService", "chat", {"http": [{"route": route}]})]) == ()
    assert lint([plain("VirtualService", "tcp-only", {})]) == ()


def test_subset_that_selects_no_pods_is_found() -> None:
    objects = sound()
    objects[-2]["spec"]["subsets"][0]["labels"] = {"slipway.dev/slot": "red"}

    (finding,) = lint(objects)

    assert (finding.rule, finding.subject) == ("L2", "DestinationRule/serving/chat")
    assert finding.message == "subset blue selects the pods of no Deployment"


def test_subset_that_selects_both_slots_is_found() -> None:
    objects = sound()
    objects[-2]["spec"]["subsets"][:2] = [{"name": "blue"}, {"name": "green"}]

    findings = lint(objects)

    assert [item.rule for item in findings] == ["L2", "L2"]
    assert "chat-blue, Deployment/serving/chat-green" in findings[0].message


def test_subset_is_judged_behind_its_services_selector_only() -> None:
    foreign = deepcopy(deployment(Slot.BLUE))
    foreign["metadata"]["name"] = "other-blue"
    foreign["spec"]["selector"]["matchLabels"]["slipway.dev/serves"] = "other"
    foreign["spec"]["template"]["metadata"]["labels"]["slipway.dev/serves"] = "other"

    assert lint([*sound(), foreign]) == ()
    without_service = [item for item in [*sound(), foreign] if item["kind"] != "Service"]
    assert rules_found(without_service) == ["L2"]


def test_service_without_a_selector_narrows_nothing() -> None:
    objects = sound()
    index = next(i for i, item in enumerate(objects) if item["kind"] == "Service")
    del objects[index]["spec"]["selector"]

    assert lint(objects) == ()


def test_workloads_of_another_namespace_are_not_selected() -> None:
    objects = sound()
    for item in objects:
        if item["kind"] == "Deployment":
            item["metadata"]["namespace"] = "elsewhere"

    assert rules_found(objects) == ["L2", "L2"]


def test_selector_that_also_matches_the_canary_is_found() -> None:
    stable = bare_deployment("stable", {"matchLabels": {"app": "llama3"}}, {"app": "llama3"})
    canary = bare_deployment(
        "canary",
        {"matchLabels": {"app": "llama3", "track": "canary"}},
        {"app": "llama3", "track": "canary"},
    )

    (finding,) = lint([stable, canary])

    assert (finding.rule, finding.subject) == ("L4", "Deployment/default/stable")
    assert "Deployment/default/canary" in finding.message
    canary["metadata"]["namespace"] = "elsewhere"
    assert lint([stable, canary]) == ()


def test_selector_that_matches_a_bare_pod_is_found() -> None:
    owner = bare_deployment("llama3", {"matchLabels": {"app": "llama3"}}, {"app": "llama3"})

    assert rules_found([owner, plain("Pod", "test", {}, labels={"app": "llama3"})]) == ["L4"]
    assert lint([owner, plain("Pod", "test", {})]) == ()


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ({"operator": "In", "values": ["blue", "green"]}, True),
        ({"operator": "In", "values": ["red"]}, False),
        ({"operator": "NotIn", "values": ["red"]}, True),
        ({"operator": "NotIn", "values": ["blue"]}, False),
        ({"operator": "Exists"}, True),
        ({"operator": "DoesNotExist"}, False),
    ],
)
def test_selectors_by_expression_are_understood(expression: dict[str, Any], matches: bool) -> None:
    selector = {"matchExpressions": [{"key": "slot", **expression}]}
    owner = bare_deployment("owner", selector, {})
    other = plain("Pod", "other", {}, labels={"slot": "blue"})

    assert bool(lint([owner, other])) is matches


def scaled_deployment() -> dict[str, Any]:
    spec = replace(service(), autoscaling=autoscaling())
    return workload.slot_deployment(
        spec, slot=Slot.BLUE, workload="chat-blue", image=IMAGE, release_id="chat-v1-1"
    )


def scaler(
    kind: AutoscalerKind = AutoscalerKind.HPA, workload: str = "chat-blue"
) -> dict[str, Any]:
    settings = autoscaling(kind)
    return autoscaler("chat", "serving", settings, slot=Slot.BLUE, workload=workload, floor=2)


def test_slot_that_one_object_scales_has_no_findings() -> None:
    assert lint([scaled_deployment(), scaler(), scaler(workload="other")]) == ()


@pytest.mark.parametrize(
    ("workload", "scalers", "said"),
    [
        (scaled_deployment(), [scaler(), scaler(AutoscalerKind.KEDA)], "chat-blue and by Scaled"),
        (deployment(Slot.BLUE), [scaler()], "chat-blue and by its own replicas"),
    ],
)
def test_number_of_pods_that_two_decide_is_found(
    workload: dict[str, Any], scalers: list[dict[str, Any]], said: str
) -> None:
    (finding,) = lint([workload, *scalers])
    assert (finding.rule, finding.subject) == ("L8", "Deployment/serving/chat-blue")
    assert said in finding.message


def test_scaler_of_another_kind_or_namespace_scales_no_deployment() -> None:
    elsewhere, other_kind = scaler(), scaler()
    elsewhere["metadata"]["namespace"] = "other"
    other_kind["spec"]["scaleTargetRef"]["kind"] = "StatefulSet"
    assert lint([deployment(Slot.BLUE), elsewhere, other_kind]) == ()


# -- the rules that need a failing and a mended case of a whole design -----------------------------


def bound(name: str, *gateways: str, target: str = "llama3") -> dict[str, Any]:
    route = [{"destination": {"host": target}}]
    return plain("VirtualService", name, {"gateways": list(gateways), "http": [{"route": route}]})


def test_canary_that_binds_to_the_mesh_alone_is_found_beside_gateway_rules() -> None:
    users, canary = bound("users", "istio/gateway"), bound("canary", "mesh")
    (finding,) = lint([users, canary])
    assert (finding.rule, finding.subject) == ("L3", "VirtualService/default/canary")
    assert "through istio/gateway go by VirtualService/default/users" in finding.message
    assert rules_found([users, bound("canary")]) == ["L3"], "no gateway at all is the mesh"


def test_rules_that_bind_to_gateway_and_mesh_alike_are_sound() -> None:
    both = bound("users", "istio/gateway", "mesh")
    assert lint([both, bound("canary", "mesh")]) == ()
    assert lint([both, bound("canary", "istio/gateway", "mesh")]) == ()
    assert lint([bound("a", "istio/gateway"), bound("b", "mesh", target="other")]) == ()
    assert lint([bound("a", "mesh"), plain("VirtualService", "tcp", {"gateways": ["g"]})]) == ()


GPUS = "requests.nvidia.com/gpu"


def quota(**hard: str) -> dict[str, Any]:
    named = {name.replace("__", "/").replace("_", "."): value for name, value in hard.items()}
    return plain("ResourceQuota", "team", {"hard": named})


def llama3(name: str = "llama3", *, replicas: int | None = 6, **spec: Any) -> dict[str, Any]:
    asked = {"cpu": "16", "memory": "128Gi", "nvidia.com/gpu": "1"}
    container = {"name": "server", "resources": {"requests": asked, "limits": {"memory": "128Gi"}}}
    labels = {"app": name}
    made = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        **spec,
    }
    if replicas is not None:
        made["replicas"] = replicas
    return plain("Deployment", name, made)


def hpa(most: int, least: int | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"scaleTargetRef": {"name": "llama3"}, "maxReplicas": most}
    if least is not None:
        spec["minReplicas"] = least
    return plain("HorizontalPodAutoscaler", "llama3", spec)


def recreated(pods: int) -> dict[str, Any]:
    return llama3("canary", replicas=pods, strategy={"type": "Recreate"})


def test_quota_of_the_reference_design_has_no_room_for_its_own_pods() -> None:
    # 6 pods, 2 that a rollout adds (a quarter, rounded up), 2 of the canary: 160 CPUs of 64.
    findings = lint([quota(requests_cpu="64"), llama3(), recreated(2)])
    assert [(item.rule, item.subject) for item in findings] == [
        ("L5", "ResourceQuota/default/team")
    ]
    assert findings[0].message == (
        "all workloads need 160 CPUs of requests.cpu at once, and it allows 64 CPUs"
    )
    assert lint([quota(requests_cpu="160"), llama3(), recreated(2)]) == ()


@pytest.mark.parametrize(
    ("strategy", "pods"),
    [
        ({"rollingUpdate": {"maxSurge": 1}}, 7),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%"}}, 9),
        ({"type": "Recreate"}, 6),
    ],
)
def test_pods_that_a_rollout_adds_are_counted(strategy: dict[str, Any], pods: int) -> None:
    workload = llama3(strategy=strategy)
    assert lint([quota(pods=f"{pods}"), workload]) == ()
    assert rules_found([quota(pods=f"{pods - 1}"), workload]) == ["L5"]


def test_autoscaler_that_may_ask_for_more_than_the_quota_is_found() -> None:
    scaled = llama3(replicas=None, strategy={"type": "Recreate"})
    (finding,) = lint([quota(pods="16"), scaled, hpa(20, 4)])
    assert finding.rule == "L5"
    assert "HorizontalPodAutoscaler/default/llama3 may ask for 20 pods of pods" in finding.message
    assert lint([quota(pods="16"), scaled, hpa(16)]) == ()
    keda = plain(
        "ScaledObject", "llama3", {"scaleTargetRef": {"name": "llama3"}, "maxReplicaCount": 17}
    )
    assert rules_found([quota(pods="16"), scaled, keda]) == ["L5"]


def test_bare_pods_and_other_namespaces_are_counted_where_they_are() -> None:
    pod = plain("Pod", "test", {"containers": [{"name": "c"}]})
    assert rules_found([quota(pods="0"), pod]) == ["L5"]
    elsewhere = plain("Pod", "test", {"containers": [{"name": "c"}]}, namespace="other")
    assert lint([quota(pods="0"), elsewhere]) == ()


def test_limit_of_an_extended_resource_in_a_quota_is_found() -> None:
    wrong = plain("ResourceQuota", "team", {"hard": {"limits.nvidia.com/gpu": "8"}})
    (finding,) = lint([wrong])
    assert (finding.rule, finding.subject) == ("L6", "ResourceQuota/default/team")
    assert finding.hint == "write requests.nvidia.com/gpu"
    right = {GPUS: "8", "limits.memory": "1Ti"}
    assert lint([plain("ResourceQuota", "team", {"hard": right})]) == ()
    assert lint([plain("ResourceQuota", "empty", {})]) == ()


def test_pod_without_requests_in_a_namespace_with_a_quota_is_found() -> None:
    bare = plain("Pod", "backup", {"containers": [{"name": "mc"}]})
    (finding,) = lint([quota(requests_cpu="64"), bare])
    assert (finding.rule, finding.subject) == ("L7", "Pod/default/backup")
    assert "container mc states no requests.cpu, and quota team" in finding.message
    default = plain(
        "LimitRange",
        "defaults",
        {"limits": [{"type": "Container", "defaultRequest": {"cpu": "1"}}]},
    )
    assert lint([quota(requests_cpu="64"), bare, default]) == ()
    assert lint([quota(requests_cpu="64"), llama3(replicas=1)]) == ()
    away = plain("LimitRange", "defaults", dict(default["spec"]), namespace="other")
    assert rules_found([quota(requests_cpu="64"), bare, away]) == ["L7"]
