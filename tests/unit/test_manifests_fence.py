from __future__ import annotations

import re
from typing import Any

import pytest

from slipway.manifests.fence import FENCE_POLICY, LEASE_POLICY, STALE, fence_objects
from slipway.manifests.names import with_fence

ANNOTATION = "slipway.dev/fence"


def spec_of(kind: str, name: str) -> dict[str, Any]:
    (found,) = (
        item
        for item in fence_objects("serving")
        if (item["kind"], item["metadata"]["name"]) == (kind, name)
    )
    spec: dict[str, Any] = found["spec"]
    return spec


def policy(name: str) -> dict[str, Any]:
    return spec_of("ValidatingAdmissionPolicy", name)


def test_number_is_put_beside_other_annotations_and_the_given_object_stays_as_it_is() -> None:
    given: dict[str, Any] = {
        "kind": "Pod",
        "metadata": {"name": "p", "annotations": {"a": "b"}},
        "spec": {},
    }
    bare = {"kind": "Pod", "metadata": {"name": "p"}}

    fenced = with_fence(given, 7)

    assert fenced["metadata"] == {"name": "p", "annotations": {"a": "b", ANNOTATION: "7"}}
    assert fenced["spec"] == {}
    assert given["metadata"]["annotations"] == {"a": "b"}
    assert with_fence(bare, 0)["metadata"]["annotations"] == {ANNOTATION: "0"}


def test_number_is_replaced_by_a_later_one() -> None:
    assert with_fence(with_fence({"metadata": {}}, 1), 2)["metadata"] == {
        "annotations": {ANNOTATION: "2"}
    }


@pytest.mark.parametrize(
    ("name", "operations"),
    [(FENCE_POLICY, {"UPDATE"}), (LEASE_POLICY, {"CREATE", "UPDATE"})],
)
def test_policy_looks_at_what_releases_write_and_at_no_subresource(
    name: str, operations: set[str]
) -> None:
    rules = policy(name)["matchConstraints"]["resourceRules"]

    assert {resource for rule in rules for resource in rule["resources"]} == {
        *("configmaps", "pods", "deployments", "virtualservices", "destinationrules"),
        *("horizontalpodautoscalers", "scaledobjects", "httproutes", "services"),
    }
    assert {word for rule in rules for word in rule["operations"]} == operations


@pytest.mark.parametrize("name", [FENCE_POLICY, LEASE_POLICY])
def test_policy_that_cannot_be_evaluated_refuses_in_serving_namespaces(name: str) -> None:
    binding = spec_of("ValidatingAdmissionPolicyBinding", name)

    assert policy(name)["failurePolicy"] == "Fail"
    assert (binding["policyName"], binding["validationActions"]) == (name, ["Deny"])
    assert binding["matchResources"]["namespaceSelector"]["matchLabels"] == {
        "slipway.dev/serving": "true"
    }


def test_number_that_is_new_is_compared_with_the_leases_of_the_namespace() -> None:
    assert policy(LEASE_POLICY)["paramKind"] == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
    }
    assert spec_of("ValidatingAdmissionPolicyBinding", LEASE_POLICY)["paramRef"] == {
        "selector": {"matchLabels": {"app.kubernetes.io/managed-by": "slipway"}},
        "parameterNotFoundAction": "Allow",
    }


@pytest.mark.parametrize("name", [FENCE_POLICY, LEASE_POLICY])
def test_text_is_turned_into_a_number_only_where_it_is_known_to_be_one(name: str) -> None:
    """A conversion that fails is an error of the policy, and would read like a defect of ours."""
    found = policy(name)
    expressions = [
        item["expression"]
        for part in ("matchConditions", "variables", "validations")
        for item in found[part]
    ]
    converting = [text for text in expressions if re.search(r"int\(\(|int\(variables", text)]

    assert converting
    assert all(".matches('^[0-9]{1,18}$')" in text for text in converting)


@pytest.mark.parametrize("name", [FENCE_POLICY, LEASE_POLICY])
def test_refusal_of_a_stale_number_is_told_from_that_of_a_missing_one(name: str) -> None:
    missing, stale = policy(name)["validations"]

    assert STALE not in missing["message"]
    assert stale["message"].startswith(STALE)
    assert stale["messageExpression"].startswith(f"'{STALE} ")
