"""What an administrator installs once: per cluster, and per service.

A release finds these objects or refuses to begin; it never makes them. So its own account needs
neither cluster-wide writes nor any verb on roles (`slipway.manifests.accounts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.core.routing import Route
from slipway.core.routing import empty as empty_route
from slipway.core.service import ServiceSpec
from slipway.manifests.accounts import (
    backup_rules,
    gateway_rules,
    operate_rules,
    preflight_rules,
    release_rules,
    rule,
    watch_rules,
)
from slipway.manifests.fence import fence_objects
from slipway.manifests.names import (
    BACKUP_ACCOUNT,
    MANAGED_BY_LABEL,
    MODEL_ACCOUNT,
    OPERATE_ROLE,
    PLATFORM_NAMESPACE,
    PREVIEW_ANNOTATION,
    RELEASE_ACCOUNT,
    ROUTE_ANNOTATION,
    SERVING_LABEL,
    WATCH_ACCOUNT,
    Object,
    common_labels,
    metadata,
)
from slipway.manifests.pod_policy import pod_policy_objects
from slipway.manifests.release_objects import free_lease, no_orders
from slipway.manifests.routes.routers import route_objects
from slipway.manifests.routes.splitting import needs_filter, split_filter

_RBAC = "rbac.authorization.k8s.io"
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
    may_release = (*release_rules(spec, adopted=adopted), *preflight_rules())
    return (
        *(() if spec.namespace == PLATFORM_NAMESPACE else (_marked_namespace(spec.namespace),)),
        _account(MODEL_ACCOUNT, spec.namespace, automount=False),
        *_granted(spec, RELEASE_ACCOUNT, may_release),
        *_granted(spec, WATCH_ACCOUNT, watch_rules(spec, adopted=adopted)),
        *_granted(spec, BACKUP_ACCOUNT, backup_rules(spec)),
        _role(spec, OPERATE_ROLE, operate_rules(spec, adopted=adopted)),
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


def beside_what_is_there(
    manifest: Mapping[str, Any], found: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Return what is applied where an object of that name stands already.

    A namespace that others have made keeps its Pod Security level: pods that live there may not
    meet ours, and could not be made again.
    """
    if manifest["kind"] != "Namespace" or found is None:
        return manifest
    labels = found["metadata"].get("labels") or {}
    ours = labels.get(MANAGED_BY_LABEL) == _PLATFORM_LABELS[MANAGED_BY_LABEL]
    return manifest if ours else _marked_namespace(manifest["metadata"]["name"])


def platform_objects(registries: Sequence[str]) -> tuple[Object, ...]:
    """Return the objects that a cluster needs once, whatever its services.

    Args:
        registries: that images of model pods may come from.
    """
    return (
        _namespace(PLATFORM_NAMESPACE),
        _account(RELEASE_ACCOUNT, PLATFORM_NAMESPACE, automount=True),
        _account(WATCH_ACCOUNT, PLATFORM_NAMESPACE, automount=True),
        _account(BACKUP_ACCOUNT, PLATFORM_NAMESPACE, automount=True),
        *pod_policy_objects(PLATFORM_NAMESPACE, registries),
        *fence_objects(PLATFORM_NAMESPACE),
        _preflight_role(),
        _preflight_binding(),
    )


def _account(name: str, namespace: str, *, automount: bool) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(name, namespace, labels=_PLATFORM_LABELS),
        "automountServiceAccountToken": automount,
    }


def _granted(spec: ServiceSpec, account: str, rules: Sequence[Object]) -> tuple[Object, Object]:
    """Return the Role of an account for one service, and its binding."""
    role = _role(spec, account, rules)
    name = role["metadata"]["name"]
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(name, spec.namespace, labels=common_labels(spec.name)),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [_subject(account)],
    }
    return role, binding


def _role(spec: ServiceSpec, begins: str, rules: Sequence[Object]) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": metadata(
            f"{begins}-{spec.name}", spec.namespace, labels=common_labels(spec.name)
        ),
        "rules": list(rules),
    }


def _gateway_objects(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return what the gateway's namespace gets; it names no service, so all of them share it."""
    if not needs_filter(spec.router):
        return ()
    gateway = spec.router.gateway.partition("/")[0]
    name = f"slipway-split-{spec.namespace}"
    role = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": metadata(name, gateway, labels=_PLATFORM_LABELS),
        "rules": list(gateway_rules(spec)),
    }
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(name, gateway, labels=_PLATFORM_LABELS),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [_subject(RELEASE_ACCOUNT)],
    }
    return (split_filter(gateway), role, binding)


def _subject(account: str) -> Object:
    return {"kind": "ServiceAccount", "name": account, "namespace": PLATFORM_NAMESPACE}


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


def _marked_namespace(name: str) -> Object:
    """Return the mark of a namespace that others have made: the admission policies hold there."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {SERVING_LABEL: "true"}},
    }


def _cluster_object(api_version: str, kind: str, name: str) -> Object:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "labels": dict(_PLATFORM_LABELS)},
    }


def _preflight_role() -> Object:
    return {
        **_cluster_object(f"{_RBAC}/v1", "ClusterRole", "slipway-preflight"),
        # Read only: how many GPUs there are, and in which zones.
        "rules": [rule("", "nodes", ("list",))],
    }


def _preflight_binding() -> Object:
    return {
        **_cluster_object(f"{_RBAC}/v1", "ClusterRoleBinding", "slipway-preflight"),
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "slipway-preflight"},
        "subjects": [_subject(RELEASE_ACCOUNT)],
    }
