"""What an administrator installs once: per cluster, and per service.

A release finds these objects or refuses to begin; it never makes them. So its own account needs
neither cluster-wide writes nor any verb on roles. No right touches secrets, none is `*` or
`update`, and `resourceNames` stand wherever the API honours them (create and list cannot be
restricted by name: kubernetes.io/docs/reference/access-authn-authz/rbac, "Referring to resources").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.core.routing import Route, Slot
from slipway.core.routing import empty as empty_route
from slipway.core.service import ServiceSpec
from slipway.manifests.adoption.originals import originals_name
from slipway.manifests.fence import fence_objects
from slipway.manifests.names import (
    MANAGED_BY_LABEL,
    MODEL_ACCOUNT,
    PREVIEW_ANNOTATION,
    RELEASE_ACCOUNT,
    RELEASE_LABEL,
    ROUTE_ANNOTATION,
    SERVING_LABEL,
    Object,
    common_labels,
    metadata,
    sweep_pod_name,
    test_pod_name,
    workload_name,
)
from slipway.manifests.release_objects import (
    free_lease,
    lease_name,
    no_orders,
    orders_name,
    record_name,
)
from slipway.manifests.routes.routers import route_objects, route_rules
from slipway.manifests.routes.splitting import FILTER_NAME, needs_filter, split_filter

POLICY_NAME = "slipway-model-pods"

_RBAC = "rbac.authorization.k8s.io"
_AUTOSCALERS = (("autoscaling", "horizontalpodautoscalers"), ("keda.sh", "scaledobjects"))
_PLATFORM_LABELS = {MANAGED_BY_LABEL: "slipway"}
_RELEASES_OWN = frozenset({"Lease", "ConfigMap"})


def install_objects(
    spec: ServiceSpec, route: Route | None = None, *, adopted: str = ""
) -> tuple[Object, ...]:
    """Return the objects of one service, in the order in which they are applied.

    Args:
        spec: the service.
        route: that a route made anew begins with; None is that of a service never released. One
            that exists is left alone: see `only_when_absent`.
        adopted: name of a Deployment that the service was live with before; "" without one.
    """
    return (
        *service_objects(spec, adopted=adopted),
        *route_objects(spec, route or empty_route(spec.name)),
    )


def service_objects(spec: ServiceSpec, *, adopted: str = "") -> tuple[Object, ...]:
    """Return what a service needs beside its routes; see `install_objects`."""
    return (
        _account(RELEASE_ACCOUNT, spec.namespace, automount=True),
        _account(MODEL_ACCOUNT, spec.namespace, automount=False),
        _role(spec, adopted),
        _role_binding(spec),
        free_lease(spec.name, spec.namespace),
        no_orders(spec.name, spec.namespace),
        *_gateway_objects(spec),
    )


def only_when_absent(manifest: Mapping[str, Any]) -> bool:
    """Return whether an installation must leave this object alone once it exists.

    Routes, locks and orders belong to the releases: writing them again would take a live service's
    users away.
    """
    annotations = manifest["metadata"].get("annotations", {})
    routes = bool({ROUTE_ANNOTATION, PREVIEW_ANNOTATION} & set(annotations))
    return routes or manifest["kind"] in _RELEASES_OWN


def platform_objects(namespace: str = "serving") -> tuple[Object, ...]:
    """Return the objects that a cluster needs once, whatever its services."""
    return (
        _namespace(namespace),
        _admission_policy(namespace),
        _admission_binding(),
        *fence_objects(namespace),
        _preflight_role(),
        _preflight_binding(namespace),
    )


def release_rules(spec: ServiceSpec, *, adopted: str = "") -> tuple[Object, ...]:
    """Return every right that a release of the service needs, as rules of a Role.

    Args:
        spec: the service.
        adopted: name of a Deployment that the service was live with before; "" without one.
    """
    workloads = [workload_name(spec.name, slot) for slot in Slot]
    workloads += [adopted] if adopted else []
    return (
        _rule("apps", "deployments", ("get", "patch"), workloads),
        _rule("apps", "deployments", ("create", "list")),
        _rule("apps", "replicasets", ("get", "list")),
        # Whether or not the service is autoscaled today: what others have made is looked for too.
        *(
            rule
            for group, resource in _AUTOSCALERS
            for rule in (
                _rule(group, resource, ("get", "patch", "delete"), workloads),
                _rule(group, resource, ("create", "list")),
            )
        ),
        _rule("", "pods", ("get", "list", "create")),
        _rule("", "pods", ("patch", "delete"), _bare_pods(spec)),
        _rule("", "pods/log", ("get",)),
        _rule("", "events", ("create",)),
        _rule("", "configmaps", ("get", "patch"), [record_name(spec.name)]),
        _rule("", "configmaps", ("get", "patch"), [orders_name(spec.name)]),
        _rule("", "configmaps", ("get",), [originals_name(spec.name)]),
        _rule("", "configmaps", ("create",)),
        _rule("", "resourcequotas", ("get", "list")),
        *(_rule(*right) for right in route_rules(spec)),
        _rule("coordination.k8s.io", "leases", ("get", "patch"), [lease_name(spec.name)]),
    )


def preflight_rules() -> tuple[Object, ...]:
    """Return the rights to look at what a release would run into; without them it says so."""
    return (
        _rule("", "limitranges", ("list",)),
        _rule("policy", "poddisruptionbudgets", ("list",)),
    )


def _bare_pods(spec: ServiceSpec) -> list[str]:
    swept = [] if spec.volume is None else [sweep_pod_name(spec.name)]
    return [test_pod_name(spec.name), *swept]


def _rule(
    group: str,
    resources: str | tuple[str, ...],
    verbs: tuple[str, ...],
    names: Sequence[str] = (),
) -> Object:
    rule: Object = {
        "apiGroups": [group],
        "resources": [resources] if isinstance(resources, str) else list(resources),
        "verbs": list(verbs),
    }
    if names:
        rule["resourceNames"] = list(names)
    return rule


def _account(name: str, namespace: str, *, automount: bool) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(name, namespace, labels=_PLATFORM_LABELS),
        "automountServiceAccountToken": automount,
    }


def _role_name(service: str) -> str:
    return f"{RELEASE_ACCOUNT}-{service}"


def _role(spec: ServiceSpec, adopted: str) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": metadata(
            _role_name(spec.name), spec.namespace, labels=common_labels(spec.name)
        ),
        "rules": [*release_rules(spec, adopted=adopted), *preflight_rules()],
    }


def _gateway_objects(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return what the gateway's namespace gets; it names no service, so all of them share it."""
    if not needs_filter(spec.router):
        return ()
    gateway = spec.router.gateway.partition("/")[0]
    name = f"slipway-split-{spec.namespace}"
    rule = _rule("networking.istio.io", "envoyfilters", ("get",), [FILTER_NAME])
    role = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": metadata(name, gateway, labels=_PLATFORM_LABELS),
        "rules": [rule],
    }
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(name, gateway, labels=_PLATFORM_LABELS),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [_release_subject(spec.namespace)],
    }
    return (split_filter(gateway), role, binding)


def _role_binding(spec: ServiceSpec) -> Object:
    name = _role_name(spec.name)
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(name, spec.namespace, labels=common_labels(spec.name)),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [_release_subject(spec.namespace)],
    }


def _release_subject(namespace: str) -> Object:
    return {"kind": "ServiceAccount", "name": RELEASE_ACCOUNT, "namespace": namespace}


def _namespace(name: str) -> Object:
    modes = ("enforce", "audit", "warn")
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                **_PLATFORM_LABELS,
                SERVING_LABEL: "true",
                **{f"pod-security.kubernetes.io/{mode}": "restricted" for mode in modes},
            },
        },
    }


def _cluster_object(api_version: str, kind: str, name: str) -> Object:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "labels": dict(_PLATFORM_LABELS)},
    }


def _admission_policy(namespace: str) -> Object:
    policy = _cluster_object(
        "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", POLICY_NAME
    )
    return {
        **policy,
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    _admission_rule("", "pods"),
                    _admission_rule("apps", "deployments"),
                ]
            },
            # Whatever the release account creates, and whatever belongs to a release no matter who
            # creates it (the pods of a Deployment are made by its controller).
            "matchConditions": [{"name": "of-a-release", "expression": _of_a_release(namespace)}],
            "variables": [
                {
                    "name": "pod",
                    "expression": "has(object.spec.template)"
                    " ? object.spec.template.spec : object.spec",
                },
                {
                    "name": "containers",
                    "expression": "variables.pod.containers + (has(variables.pod.initContainers)"
                    " ? variables.pod.initContainers : [])",
                },
                {
                    "name": "volumes",
                    "expression": "has(variables.pod.volumes) ? variables.pod.volumes : []",
                },
            ],
            "validations": [
                {
                    "expression": "variables.containers.all(c,"
                    " c.image.matches('@sha256:[0-9a-f]{64}$'))",
                    "message": "a model pod's images must be named by digest (…@sha256:…)",
                },
                {
                    "expression": "has(variables.pod.serviceAccountName) &&"
                    f" variables.pod.serviceAccountName == '{MODEL_ACCOUNT}'",
                    "message": f"a model pod must run as service account {MODEL_ACCOUNT}",
                },
                {
                    "expression": "variables.volumes.all(v, !has(v.secret) && !has(v.hostPath) &&"
                    " !has(v.projected))",
                    "message": "a model pod may mount no secret, projected or hostPath volume",
                },
            ],
        },
    }


def _of_a_release(namespace: str) -> str:
    user = f"system:serviceaccount:{namespace}:{RELEASE_ACCOUNT}"
    return (
        f"request.userInfo.username == '{user}' || (has(object.metadata.labels) &&"
        f" '{RELEASE_LABEL}' in object.metadata.labels)"
    )


def _admission_rule(group: str, resource: str) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": [resource],
    }


def _admission_binding() -> Object:
    binding = _cluster_object(
        "admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", POLICY_NAME
    )
    return {
        **binding,
        "spec": {
            "policyName": POLICY_NAME,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {SERVING_LABEL: "true"}}},
        },
    }


def _preflight_role() -> Object:
    return {
        **_cluster_object(f"{_RBAC}/v1", "ClusterRole", "slipway-preflight"),
        # Read only: how many GPUs there are, and in which zones.
        "rules": [_rule("", "nodes", ("get", "list"))],
    }


def _preflight_binding(namespace: str) -> Object:
    return {
        **_cluster_object(f"{_RBAC}/v1", "ClusterRoleBinding", "slipway-preflight"),
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "slipway-preflight"},
        "subjects": [_release_subject(namespace)],
    }
