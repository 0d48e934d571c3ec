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
        *platform_objects(),
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
    foreign["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] = "other"
    foreign["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] = "other"

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
