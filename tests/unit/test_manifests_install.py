from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.core.routing import empty
from slipway.core.service import (
    AutoscalerKind,
    Router,
    RouterKind,
    ServiceSpec,
    WeightsVolume,
)
from slipway.manifests.accounts import (
    backup_rules,
    operate_rules,
    preflight_rules,
    release_rules,
    watch_rules,
)
from slipway.manifests.fence import FENCE_POLICY, LEASE_POLICY
from slipway.manifests.install import (
    beside_what_is_there,
    install_objects,
    only_when_absent,
    platform_objects,
)
from slipway.manifests.routes.istio import read_route
from tests.examples import autoscaling, service, service_on_a_volume

REGISTRIES = ("registry.example", "127.0.0.1:5000/models/")
SHAPES = (
    service(),
    service_on_a_volume(),
    *(replace(service(), router=Router(kind=kind)) for kind in RouterKind),
    *(replace(service(), autoscaling=autoscaling(kind)) for kind in AutoscalerKind),
)
NAMED = {"configmaps", "virtualservices", "destinationrules", "leases", "services"}


def by_kind(kind: str, namespace: str = "serving") -> list[dict[str, Any]]:
    return [
        item
        for item in install_objects(service())
        if item["kind"] == kind and item["metadata"]["namespace"] == namespace
    ]


def test_release_account_only_reads_the_one_filter_in_the_gateways_namespace() -> None:
    (role,), (binding,) = (by_kind(kind, "istio-ingress") for kind in ("Role", "RoleBinding"))
    (rule,) = role["rules"]
    assert (rule["resources"], rule["resourceNames"]) == (["envoyfilters"], ["slipway-split"])
    assert rule["verbs"] == ["get"]
    assert binding["subjects"][0]["namespace"] == "serving"


def platform(kind: str) -> dict[str, Any]:
    (found,) = (
        item
        for item in platform_objects(REGISTRIES)
        if item["kind"] == kind and item["metadata"]["name"] not in {FENCE_POLICY, LEASE_POLICY}
    )
    return found


def test_cluster_gets_the_policies_that_refuse_stale_writers() -> None:
    installed = [(item["kind"], item["metadata"]["name"]) for item in platform_objects(REGISTRIES)]

    for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
        assert {(kind, FENCE_POLICY), (kind, LEASE_POLICY)} <= set(installed)


def test_installed_routes_carry_no_number_so_that_the_first_release_may_write_any() -> None:
    for kind in ("VirtualService", "DestinationRule"):
        (item,) = by_kind(kind)
        assert "slipway.dev/fence" not in item["metadata"]["annotations"]


def test_service_is_installed_with_everything_a_release_needs() -> None:
    kinds = [item["kind"] for item in install_objects(service())]

    assert kinds == [
        *("ServiceAccount", "Role", "RoleBinding", "Role", "RoleBinding", "Role", "RoleBinding"),
        *("Role", "Lease", "ConfigMap", "EnvoyFilter", "Role", "RoleBinding"),
        *("Service", "DestinationRule", "VirtualService"),
    ]
    of_gateway = {
        item["kind"]
        for item in install_objects(service())
        if item["metadata"]["namespace"] != "serving"
    }
    assert of_gateway == {"EnvoyFilter", "Role", "RoleBinding"}


def test_installed_routes_are_those_of_a_service_never_released() -> None:
    (virtual_service,), (rule,) = by_kind("VirtualService"), by_kind("DestinationRule")

    assert read_route(virtual_service, rule) == empty("chat")


def test_orders_are_installed_empty_and_the_release_account_only_reads_and_patches_them() -> None:
    (orders,) = by_kind("ConfigMap")
    assert orders["metadata"]["name"] == "slipway-chat-orders"
    assert "data" not in orders
    rules = [
        rule
        for rule in release_rules(service())
        if "slipway-chat-orders" in rule.get("resourceNames", ())
    ]
    assert [(rule["verbs"], rule["resources"]) for rule in rules] == [
        (["get", "patch"], ["configmaps"])
    ]


def test_installing_again_leaves_routes_lock_and_orders_alone() -> None:
    kept = {item["kind"] for item in install_objects(service()) if only_when_absent(item)}

    assert kept == {"VirtualService", "DestinationRule", "Lease", "ConfigMap"}


@pytest.mark.parametrize("spec", SHAPES)
@pytest.mark.parametrize("rules_of", [release_rules, watch_rules, backup_rules, operate_rules])
def test_no_account_gets_secrets_wildcards_or_update(
    spec: ServiceSpec, rules_of: Callable[[ServiceSpec], tuple[dict[str, Any], ...]]
) -> None:
    for rule in rules_of(spec):
        words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not {"*", "secrets", "update", "deletecollection", "escalate", "bind"} & words


@pytest.mark.parametrize("spec", SHAPES)
@pytest.mark.parametrize("rules_of", [release_rules, watch_rules, backup_rules, operate_rules])
def test_accounts_change_only_objects_of_their_service(
    spec: ServiceSpec, rules_of: Callable[[ServiceSpec], tuple[dict[str, Any], ...]]
) -> None:
    for rule in rules_of(spec):
        if {"patch", "delete"} & set(rule["verbs"]):
            assert rule["resourceNames"], rule
            assert all("chat" in name for name in rule["resourceNames"])
            assert "create" not in rule["verbs"], "resourceNames never match a create"


def verbs(rules: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(verb, kind) for rule in rules for kind in rule["resources"] for verb in rule["verbs"]}


@pytest.mark.parametrize("spec", SHAPES)
def test_watcher_deploys_nothing_and_ends_nothing(spec: ServiceSpec) -> None:
    found = verbs(watch_rules(spec))
    assert {verb for verb, _ in found} == {"get", "list", "patch"}
    assert found < verbs(release_rules(spec))


@pytest.mark.parametrize("spec", SHAPES)
def test_people_change_nothing_but_the_orders(spec: ServiceSpec) -> None:
    changing = [rule for rule in operate_rules(spec) if {*rule["verbs"]} - {"get", "list"}]
    assert [(rule["verbs"], rule["resourceNames"]) for rule in changing] == [
        (["patch"], ["slipway-chat-orders"])
    ]


def test_role_for_people_is_bound_to_nobody() -> None:
    bound = {item["roleRef"]["name"] for item in by_kind("RoleBinding")}
    assert bound == {"slipway-release-chat", "slipway-watch-chat", "slipway-backup-chat"}
    assert "slipway-operate-chat" in {item["metadata"]["name"] for item in by_kind("Role")}


def test_release_account_reads_named_objects_by_name_only() -> None:
    for rule in release_rules(service()):
        if NAMED & set(rule["resources"]) and "get" in rule["verbs"]:
            assert rule["resourceNames"], rule


@pytest.mark.parametrize(
    ("group", "resource"),
    [("autoscaling", "horizontalpodautoscalers"), ("keda.sh", "scaledobjects")],
)
def test_release_account_changes_what_scales_its_own_slots_alone(group: str, resource: str) -> None:
    rules = [rule for rule in release_rules(service()) if rule["apiGroups"] == [group]]
    assert [rule["resources"] for rule in rules] == [[resource]] * 2
    changing, finding = rules
    assert (changing["resourceNames"], changing["verbs"]) == (
        ["chat-blue", "chat-green"],
        ["patch", "delete"],
    )
    assert finding["verbs"] == ["list"]


def test_release_account_makes_what_the_service_file_asks_for_and_no_other_autoscaler() -> None:
    kinds = {"hpa": "horizontalpodautoscalers", "keda": "scaledobjects"}
    for kind in AutoscalerKind:
        spec = replace(service(), autoscaling=autoscaling(kind))
        made = {resource for verb, resource in verbs(release_rules(spec)) if verb == "create"}
        assert made & set(kinds.values()) == {kinds[kind]}


def test_release_account_may_name_the_secret_of_the_weights_and_no_other() -> None:
    def secrets(spec: ServiceSpec) -> list[dict[str, Any]]:
        return [rule for rule in release_rules(spec) if rule["apiGroups"] == ["slipway.dev"]]

    volume = WeightsVolume(claim="models")
    assert secrets(service()) == secrets(replace(service(), volume=volume)) == []
    (rule,) = secrets(service_on_a_volume())
    assert (rule["resources"], rule["verbs"], rule["resourceNames"]) == (
        ["podsecrets"],
        ["use"],
        ["reader"],
    )


def test_release_account_may_remove_a_sweep_pod_only_where_weights_lie_on_a_volume() -> None:
    def deletable(spec: ServiceSpec) -> list[str]:
        (rule,) = (
            rule
            for rule in release_rules(spec)
            if "delete" in rule["verbs"] and rule["resources"] == ["pods"]
        )
        return list(rule["resourceNames"])

    assert deletable(service()) == ["chat-test"]
    assert deletable(replace(service(), volume=WeightsVolume(claim="models"))) == [
        "chat-test",
        "chat-sweep",
    ]


@pytest.mark.parametrize("account", ["slipway-release", "slipway-watch", "slipway-backup"])
def test_role_is_bound_to_its_account_of_the_platform_wherever_the_service_is(account: str) -> None:
    objects = install_objects(replace(service(), namespace="team"))
    name = f"{account}-chat"
    found = [item for item in objects if item["metadata"]["name"] == name]
    (role, binding) = found
    assert {item["metadata"]["namespace"] for item in found} == {"team"}
    assert role["metadata"]["name"] == binding["roleRef"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account, "namespace": "serving"}
    ]


def test_model_account_mounts_no_token() -> None:
    accounts = {
        item["metadata"]["name"]: item["automountServiceAccountToken"]
        for item in (*install_objects(service()), *platform_objects(REGISTRIES))
        if item["kind"] == "ServiceAccount"
    }

    assert accounts == {
        "slipway-release": True,
        "slipway-watch": True,
        "slipway-backup": True,
        "slipway-model": False,
    }


def test_namespace_that_others_have_made_keeps_its_pod_security() -> None:
    made, *others = platform_objects(["registry.example.com"])
    theirs = {"metadata": {"labels": {"team": "models"}}}

    marked = beside_what_is_there(made, theirs)

    assert marked["metadata"] == {"name": "serving", "labels": {"slipway.dev/serving": "true"}}
    assert beside_what_is_there(made, None) == made
    assert beside_what_is_there(made, made) == made
    assert beside_what_is_there(others[0], theirs) == others[0]


def test_namespace_enforces_pod_security_restricted() -> None:
    labels = platform("Namespace")["metadata"]["labels"]

    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["slipway.dev/serving"] == "true"


def test_admission_policy_is_bound_to_serving_namespaces_and_denies() -> None:
    binding = platform("ValidatingAdmissionPolicyBinding")["spec"]

    assert binding["policyName"] == platform("ValidatingAdmissionPolicy")["metadata"]["name"]
    assert binding["validationActions"] == ["Deny"]
    assert binding["matchResources"]["namespaceSelector"]["matchLabels"] == {
        "slipway.dev/serving": "true"
    }


def test_admission_policy_fails_closed_and_names_every_registry() -> None:
    spec = platform("ValidatingAdmissionPolicy")["spec"]

    assert spec["failurePolicy"] == "Fail"
    said = [rule["message"] for rule in spec["validations"]]
    images = "a model pod must have its images from registry.example/ or 127.0.0.1:5000/models/"
    assert images in said


def test_release_account_may_look_at_what_a_release_would_run_into() -> None:
    (role,) = (
        item for item in by_kind("Role") if item["metadata"]["name"] == "slipway-release-chat"
    )
    assert role["rules"] == [*release_rules(service()), *preflight_rules()]
    assert {tuple(rule["resources"]): rule["verbs"] for rule in preflight_rules()} == {
        ("limitranges",): ["list"],
        ("poddisruptionbudgets",): ["list"],
    }


def test_pods_of_all_namespaces_are_an_option_that_is_installed_by_hand_and_reads_them_alone() -> (
    None
):
    path = Path(__file__).parents[2] / "deployments/kubernetes/preflight-pods.yaml"
    role, binding = yaml.safe_load_all(path.read_text())
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == platform("ClusterRoleBinding")["subjects"]
    installed = {item["metadata"]["name"] for item in platform_objects(REGISTRIES)}
    assert role["metadata"]["name"] not in installed


def test_release_account_may_only_read_nodes_of_the_whole_cluster() -> None:
    (rule,) = platform("ClusterRole")["rules"]

    assert (rule["resources"], rule["verbs"]) == (["nodes"], ["list"])
    assert platform("ClusterRoleBinding")["subjects"][0]["name"] == "slipway-release"
