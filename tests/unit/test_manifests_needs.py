from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from slipway.core.feasibility.values import Right, Role
from slipway.core.release.record import Phase, ReleaseRecord, SlotRecord
from slipway.core.routing import Slot, empty
from slipway.core.service import (
    AutoscalerKind,
    RampPolicy,
    RampStep,
    Router,
    RouterKind,
    ServiceSpec,
    WhenFull,
)
from slipway.manifests import workload
from slipway.manifests.accounts import gateway_rules, preflight_rules, release_rules
from slipway.manifests.autoscaling import autoscaler
from slipway.manifests.needs import (
    candidate_labels,
    contradictions,
    first_objects,
    other_routers,
    release_needs,
    roles_of_pods,
    taken_names,
)
from slipway.manifests.rights import access_review, release_rights, rights_of
from slipway.manifests.routes.gateway_api import http_route
from slipway.manifests.routes.istio import destination_rule, virtual_service
from slipway.manifests.routes.services import service_object
from tests.examples import IMAGE, autoscaling, record, service, service_on_a_volume

STEPS = (RampStep(weight_percent=10, bake_s=100.0), RampStep(weight_percent=50, bake_s=200.0))


def going(**changes: Any) -> ReleaseRecord:
    """Return the record of version 2 on its way from slot blue to slot green."""
    slots = (
        SlotRecord(slot=Slot.BLUE, workload="chat-blue", version="1"),
        SlotRecord(slot=Slot.GREEN, workload="chat-green"),
    )
    made = replace(record("2"), stable=Slot.BLUE, candidate=Slot.GREEN, slots=slots)
    return replace(made, **changes)


def deployment(slot: Slot = Slot.BLUE, spec: ServiceSpec | None = None) -> dict[str, Any]:
    return workload.slot_deployment(
        spec or service(),
        slot=slot,
        workload=f"chat-{slot}",
        image=IMAGE,
        release_id="chat-v1-1",
    )


def thing(kind: str, name: str, spec: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "serving", **meta}
    return {"kind": kind, "metadata": metadata, "spec": spec or {}}


def test_fixed_service_needs_all_its_pods_at_once() -> None:
    needs = release_needs(service(), going(), [deployment()], recorded=True)
    assert (needs.workload, needs.at_first, needs.at_full, needs.most) == ("chat-green", 2, 2, 0)
    assert needs.test_pod.has_deadline
    assert not needs.pod.has_deadline
    assert needs.creates == {"count/deployments.apps": 1}
    assert needs.when_full is WhenFull.REFUSE
    assert needs.test_pods == 1
    tested = release_needs(service(), going(phase=Phase.SMOKED), [], recorded=True)
    assert tested.test_pods == 0


def test_autoscaled_canary_begins_with_its_first_share() -> None:
    spec = replace(service(), autoscaling=autoscaling(min_replicas=1))
    stable = deployment(spec=spec)
    stable["spec"]["replicas"] = 6
    needs = release_needs(spec, going(steps=STEPS), [stable], recorded=False)
    assert (needs.at_first, needs.at_full, needs.most) == (1, 6, 8)
    assert needs.creates == {
        "count/deployments.apps": 1,
        "count/horizontalpodautoscalers.autoscaling": 1,
        "count/configmaps": 1,
        "configmaps": 1,
    }


def test_objects_that_are_there_are_not_made_again() -> None:
    spec = replace(service(), autoscaling=autoscaling(AutoscalerKind.KEDA))
    scaler = autoscaler(
        "chat", "serving", autoscaling(AutoscalerKind.KEDA),
        slot=Slot.GREEN, workload="chat-green", floor=2,
    )  # fmt: skip
    objects = [deployment(Slot.GREEN, spec), scaler]
    assert release_needs(spec, going(), objects, recorded=True).creates == {}
    made = release_needs(spec, going(stable=None), [], recorded=True).creates
    assert made["count/scaledobjects.keda.sh"] == 1


def test_overlap_lasts_from_the_bakes_alone_to_every_wait_at_its_limit() -> None:
    spec = service()
    policy = replace(
        spec.policy,
        bake_s=30.0,
        rollback_window_s=1000.0,
        ready_timeout_s=90.0,
        drain_timeout_s=120.0,
        ramp=RampPolicy(data_timeout_s=600.0),
        overlap_budget_usd=Decimal(9),
    )
    priced = replace(spec.resources, price_usd_per_hour=Decimal("2.49"))
    spec = replace(spec, policy=policy, resources=priced)
    needs = release_needs(spec, going(steps=STEPS), [], recorded=True)
    assert (needs.shortest_s, needs.longest_s) == (1330.0, 1330.0 + 90.0 + 2 * 600.0 + 120.0)
    assert (needs.price_usd_per_hour, needs.budget_usd) == (Decimal("2.49"), Decimal(9))
    first = release_needs(spec, going(stable=None), [], recorded=True)
    assert (first.shortest_s, first.longest_s) == (0.0, 0.0)


def test_pods_are_told_apart_by_the_labels_of_their_slots() -> None:
    roles = roles_of_pods(service(), going())
    assert list(roles) == [Role.TEST, Role.CANDIDATE, Role.STABLE]
    assert roles[Role.CANDIDATE]["slipway.dev/slot"] == "green"
    assert Role.STABLE not in roles_of_pods(service(), going(stable=None))
    assert candidate_labels(service(), going()).items() >= roles[Role.CANDIDATE].items()


def test_names_that_others_have_taken_are_told_with_their_owner() -> None:
    ours = {"app.kubernetes.io/managed-by": "slipway", "slipway.dev/service": "chat"}
    objects = [
        thing("Deployment", "chat-blue"),  # an adopted one: the record names it
        thing("Deployment", "chat-green", labels={"app.kubernetes.io/managed-by": "Helm"}),
        thing("Deployment", "other"),
        thing("Pod", "chat-test", ownerReferences=[{"kind": "Job", "name": "nightly"}]),
        thing("Service", "chat-green"),
    ]
    found = taken_names(service(), going(), objects)
    assert [(item.kind, item.name, item.owner) for item in found] == [
        ("Deployment", "chat-green", "Helm"),
        ("Pod", "chat-test", "Job nightly"),
    ]
    assert taken_names(service(), going(), [thing("Pod", "chat-test", labels=ours)]) == ()
    sweeps = [
        thing("Pod", "chat-sweep", labels={"slipway.dev/service": "x"}),
        thing("Pod", "chat-test"),
    ]
    on_a_volume = taken_names(service_on_a_volume(), going(), sweeps)
    assert [item.owner for item in on_a_volume] == ["service x", "somebody else"]
    assert [item.name for item in taken_names(service(), going(), sweeps)] == ["chat-test"]


def live() -> list[dict[str, Any]]:
    """Return what is there while version 1 serves from slot blue."""
    spec, route = service(), empty("chat")
    return [
        deployment(),
        thing("Pod", "chat-blue-1", {"containers": []}, ownerReferences=[{"kind": "ReplicaSet"}]),
        service_object(spec),
        destination_rule(spec, frozenset({Slot.BLUE})),
        virtual_service(spec, route),
    ]


def test_own_objects_beside_the_live_ones_contradict_nothing() -> None:
    assert contradictions(service(), going(), live()) == ((), ())
    on_a_volume = service_on_a_volume()
    assert contradictions(on_a_volume, going(), []) == ((), ())


def test_selector_of_another_deployment_that_matches_our_pods_is_in_the_way() -> None:
    greedy = thing(
        "Deployment",
        "greedy",
        {
            "selector": {"matchLabels": {"slipway.dev/slot": "green"}},
            "template": {"metadata": {"labels": {"slipway.dev/slot": "green"}}, "spec": {}},
        },
    )
    (fault,), notes = contradictions(service(), going(), [*live(), greedy])
    assert (fault.rule, fault.subject) == ("L4", "Deployment/serving/greedy")
    assert notes == ()


def test_adopted_deployment_is_left_before_the_slots_own_is_made() -> None:
    spec = service()
    record = going()
    held = record.slot(record.candidate)
    slots = tuple(
        replace(item, workload="by-hand", adopted=True) if item is held else item
        for item in record.slots
    )
    adopted = replace(record, slots=slots)
    theirs = deployment(record.candidate)
    theirs["metadata"]["name"] = "by-hand"

    assert contradictions(spec, adopted, [theirs])[0] == ()
    assert contradictions(spec, record, [theirs])[0] != ()
    pod, own = first_objects(spec, adopted, registry="registry.example.com")
    assert own["metadata"]["name"] == f"chat-{record.candidate}"
    for template in (pod["spec"], own["spec"]["template"]["spec"]):
        assert template["containers"][0]["image"].startswith("registry.example.com/")


def test_every_image_of_what_is_tried_first_is_of_the_registry() -> None:
    tried = first_objects(service_on_a_volume(), going(), registry="registry.example.com")

    pods = [item["spec"].get("template", item)["spec"] for item in tried]
    images = [c["image"] for pod in pods for c in [*pod["initContainers"], *pod["containers"]]]
    assert len(images) == 4
    assert all(image.startswith("registry.example.com/") for image in images)


def test_rights_name_an_adopted_deployment() -> None:
    rights = release_rights(service(), adopted="by-hand")

    named = {item.verb for item in rights if item.name == "by-hand"}
    assert {"get", "patch"} <= named
    assert len(rights) > len(release_rights(service()))


def test_faults_between_objects_of_others_are_not_ours() -> None:
    def other(name: str) -> dict[str, Any]:
        template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}
        return thing(
            "Deployment", name, {"selector": {"matchLabels": {"app": "x"}}, "template": template}
        )

    foreign = [other("chat-green-old"), other("chat-blue-old")]
    assert contradictions(service(), going(), [*live(), *foreign]) == ((), ())


def test_pod_that_has_ended_matches_nothing_any_more() -> None:
    labels = dict(candidate_labels(service(), going()))
    bare = thing("Pod", "left", {"containers": []}, labels=labels)
    (fault,), _ = contradictions(service(), going(), [bare])
    assert fault.rule == "L4"
    ended = {**bare, "status": {"phase": "Failed"}}
    assert contradictions(service(), going(), [ended]) == ((), ())


def test_own_autoscaler_of_the_candidates_former_version_goes_before_the_deployment() -> None:
    def scaler(slot: Slot, **meta: Any) -> dict[str, Any]:
        made = autoscaler(
            "chat", "serving", autoscaling(), slot=slot, workload=f"chat-{slot}", floor=2
        )
        return {**made, "metadata": {**made["metadata"], **meta}}

    both = [scaler(Slot.BLUE), scaler(Slot.GREEN)]
    assert contradictions(service(), going(), [*live(), *both]) == ((), ())
    foreign = scaler(Slot.GREEN, labels={}, name="mine")
    (fault,), _ = contradictions(service(), going(), [*live(), foreign])
    assert fault.rule == "L8"
    scaled = replace(service(), autoscaling=autoscaling())
    assert contradictions(scaled, going(), [*live(), *both]) == ((), ())


def test_autoscaler_that_keda_makes_is_part_of_its_object() -> None:
    settings = autoscaling(AutoscalerKind.KEDA)
    scaled = autoscaler("chat", "serving", settings, slot=Slot.BLUE, workload="chat-blue", floor=2)
    target = {"scaleTargetRef": {"kind": "Deployment", "name": "chat-blue"}, "maxReplicas": 8}
    made = thing(
        "HorizontalPodAutoscaler",
        "keda-hpa-chat-blue",
        target,
        ownerReferences=[{"kind": "ScaledObject", "name": "chat-blue"}],
    )
    spec = replace(service(), autoscaling=settings)
    assert contradictions(spec, going(), [*live(), scaled, made]) == ((), ())


def test_quota_that_limits_nothing_is_a_note() -> None:
    quota = thing("ResourceQuota", "team", {"hard": {"limits.nvidia.com/gpu": "1", "pods": "0"}})
    faults, notes = contradictions(service(), going(), [*live(), quota])
    assert faults == ()
    assert len(notes) == 1
    assert notes[0].startswith("ResourceQuota/serving/team: limits.nvidia.com/gpu is no quota item")


def test_every_right_of_a_release_is_asked_for_verb_by_verb() -> None:
    rights = release_rights(service())
    assert len(set(rights)) == len(rights) > 35
    said = {str(right) for right in rights}
    assert {
        "get configmaps/slipway-chat in serving",
        "create pods in serving",
        "patch virtualservices/chat in serving",
        "get pods/log in serving",
    } <= said
    at_gateway = rights_of(gateway_rules(service()), "istio-ingress")
    assert {*rights_of(release_rules(service()), "serving"), *at_gateway} == set(rights)
    assert "get envoyfilters/slipway-split in istio-ingress" in said
    assert not set(rights_of(preflight_rules(), "serving")) & set(rights)


def test_review_asks_for_a_subresource_by_its_own_field() -> None:
    asked = access_review(Right(verb="get", group="", resource="pods/log", namespace="serving"))
    assert asked["kind"] == "SelfSubjectAccessReview"
    assert asked["spec"]["resourceAttributes"] == {
        "verb": "get",
        "resource": "pods",
        "subresource": "log",
        "namespace": "serving",
    }


def test_route_of_another_router_that_is_left_is_in_the_way_and_says_how_to_delete_it() -> None:
    spec = service()
    standard = replace(spec, router=Router(kind=RouterKind.GATEWAY_API))
    left = http_route(standard, empty("chat"))

    (fault,) = other_routers(spec, [*live(), left])
    assert fault.subject == "HTTPRoute/serving/chat"
    assert fault.hint.endswith("kubectl -n serving delete httproute chat")
    assert other_routers(standard, [left]) == ()
    (fault,) = other_routers(standard, [virtual_service(spec, empty("chat")), left])
    assert fault.subject == "VirtualService/serving/chat"


def test_route_of_somebody_else_by_the_services_name_is_theirs() -> None:
    plain = replace(service(), router=Router(kind=RouterKind.SERVICE))
    theirs = {**virtual_service(service(), empty("chat"))}
    theirs["metadata"] = {**theirs["metadata"], "labels": {}}
    assert other_routers(plain, [theirs]) == ()


def test_service_that_needs_no_filter_asks_for_no_right_at_a_gateway() -> None:
    plain = replace(service(), router=Router(kind=RouterKind.SERVICE))
    assert {right.namespace for right in release_rights(plain)} == {"serving"}
