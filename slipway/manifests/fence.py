"""The admission policies that refuse writes of a release whose lock another one has taken since.

Every change of a lock's holder raises its number, `leaseTransitions` of the service's Lease. A
release writes its number on whatever it writes, and stamps it on every guarded object before its
first decision. From then on the API server itself refuses a smaller number, whatever the writer
believes of its lock (M. Kleppmann, "How to do distributed locking", 2016: fencing tokens).

Two rules, because only one of them needs the Lease:

- `slipway-fence`: the number on an object never falls and never goes. It is decided on the object
  alone, under the same resourceVersion as the write: there is no gap.
- `slipway-fence-lease`: the first number of an object is not below that of the service's Lease.
  Lease objects reach policies through the API server's watch cache, so this one may be some
  milliseconds late; it is for objects that did not exist when the heir stamped them.

Subresources are left out on purpose: controllers write `status`, an autoscaler `scale`.
"""

from __future__ import annotations

from slipway.manifests.names import (
    FENCE_ANNOTATION,
    MANAGED_BY_LABEL,
    RELEASE_ACCOUNT,
    SERVICE_LABEL,
    SERVING_LABEL,
    Object,
)

FENCE_POLICY = "slipway-fence"
LEASE_POLICY = "slipway-fence-lease"

STALE = "stale fencing number"
"""How a refusal begins that means: another process holds the lock now."""

_API = "admissionregistration.k8s.io/v1"
# Eighteen digits always fit into CEL's int; a conversion that cannot fail needs no error handling.
_NUMBER = "^[0-9]{1,18}$"


def fence_objects(namespace: str) -> tuple[Object, ...]:
    """Return both policies with their bindings; `namespace` is that of the release account."""
    return (
        _policy(FENCE_POLICY, _never_falls()),
        _binding(FENCE_POLICY, {}),
        _policy(LEASE_POLICY, _not_below_the_lease(namespace)),
        _binding(
            LEASE_POLICY,
            {
                "paramRef": {
                    "selector": {"matchLabels": {MANAGED_BY_LABEL: "slipway"}},
                    # Without a Lease nobody holds a lock, and no release begins. `Deny` would hold
                    # for every write in a namespace that has none yet, or none any more: whoever
                    # lives there could make no pod.
                    "parameterNotFoundAction": "Allow",
                }
            },
        ),
    )


def _never_falls() -> Object:
    kept = f"the annotation {FENCE_ANNOTATION} must stay, as a whole number"
    # Without the label it is no object of a service any more: given back to whom it was taken from.
    # No release takes the label off.
    given_back = (
        f"!(has(object.metadata.labels) && '{SERVICE_LABEL}' in object.metadata.labels)"
        f" && !({_carries('object')})"
    )
    return {
        "matchConstraints": {"resourceRules": _rules("UPDATE")},
        "matchConditions": [{"name": "fenced-already", "expression": _carries("oldObject")}],
        "variables": [
            _variable("after", _text("object")),
            # What somebody wrote by hand before the policy was there must not block for ever.
            _variable("before", _number(_text("oldObject"))),
        ],
        "validations": [
            {
                "expression": f"variables.after.matches('{_NUMBER}') || ({given_back})",
                "message": kept,
            },
            {
                "expression": f"!variables.after.matches('{_NUMBER}') ||"
                " int(variables.after) >= variables.before",
                "message": f"{STALE}: another release has taken over",
                "messageExpression": f"'{STALE} ' + variables.after + ': ' + object.metadata.name +"
                " ' is at ' + string(variables.before)",
                "reason": "Forbidden",
            },
        ],
    }


def _not_below_the_lease(namespace: str) -> Object:
    account = f"system:serviceaccount:{namespace}:{RELEASE_ACCOUNT}"
    service, leased = f"'{SERVICE_LABEL}'", "params.spec.leaseTransitions"
    ours = (
        f"has(params.metadata.labels) && {service} in params.metadata.labels &&"
        f" params.metadata.labels[{service}] == variables.service"
    )
    return {
        "paramKind": {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"},
        "matchConstraints": {"resourceRules": _rules("CREATE", "UPDATE")},
        "matchConditions": [
            {
                # For an object that had one the other policy decides, and never both: which one's
                # words a refusal has would be chance.
                "name": "number-is-new",
                "expression": f"({_carries('object')} && (request.operation == 'CREATE' ||"
                f" !({_carries('oldObject')}))) || (request.operation == 'CREATE' &&"
                f" request.userInfo.username == '{account}')",
            }
        ],
        "variables": [
            _variable("after", _text("object")),
            _variable(
                "service",
                f"has(object.metadata.labels) && {service} in object.metadata.labels ?"
                f" object.metadata.labels[{service}] : ''",
            ),
            _variable("leased", f"has(params.spec) && has({leased}) ? int({leased}) : 0"),
        ],
        "validations": [
            {
                "expression": f"variables.after.matches('{_NUMBER}') && variables.service != ''",
                "message": f"what a release writes must carry the annotation {FENCE_ANNOTATION}, a"
                f" whole number, and the label {SERVICE_LABEL}",
            },
            {
                "expression": f"!({ours}) || !variables.after.matches('{_NUMBER}') ||"
                " int(variables.after) >= variables.leased",
                "message": f"{STALE}: another release has taken over",
                "messageExpression": f"'{STALE} ' + variables.after + ': the lock of service ' +"
                " variables.service + ' is at ' + string(variables.leased)",
                "reason": "Forbidden",
            },
        ],
    }


def _carries(it: str) -> str:
    return f"has({it}.metadata.annotations) && '{FENCE_ANNOTATION}' in {it}.metadata.annotations"


def _text(it: str) -> str:
    return f"({_carries(it)} ? {it}.metadata.annotations['{FENCE_ANNOTATION}'] : '')"


def _number(text: str) -> str:
    return f"{text}.matches('{_NUMBER}') ? int({text}) : 0"


def _variable(name: str, expression: str) -> Object:
    return {"name": name, "expression": expression}


def _rules(*operations: str) -> list[Object]:
    # A request by another version of the same API is converted before it is looked at.
    groups = {
        ("", "v1"): ["configmaps", "pods", "services"],
        ("apps", "v1"): ["deployments"],
        ("autoscaling", "v2"): ["horizontalpodautoscalers"],
        ("gateway.networking.k8s.io", "v1"): ["httproutes"],
        ("keda.sh", "v1alpha1"): ["scaledobjects"],
        ("networking.istio.io", "v1"): ["virtualservices", "destinationrules"],
    }
    return [
        {
            "apiGroups": [group],
            "apiVersions": [version],
            "operations": list(operations),
            "resources": resources,
        }
        for (group, version), resources in groups.items()
    ]


def _policy(name: str, spec: Object) -> Object:
    return {
        **_cluster_object("ValidatingAdmissionPolicy", name),
        "spec": {"failurePolicy": "Fail", **spec},
    }


def _binding(name: str, more: Object) -> Object:
    return {
        **_cluster_object("ValidatingAdmissionPolicyBinding", name),
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {SERVING_LABEL: "true"}}},
            **more,
        },
    }


def _cluster_object(kind: str, name: str) -> Object:
    return {
        "apiVersion": _API,
        "kind": kind,
        "metadata": {"name": name, "labels": {MANAGED_BY_LABEL: "slipway"}},
    }
