"""What each account may do: the release's, the watcher's, and a role for people.

Derived from what the code calls, and held against it by the API server's own log
(`tests/e2e/audit.py`): no right is here that no test uses. None touches secrets, none is `*` or
`update`, and `resourceNames` stand wherever the API honours them (create and list cannot be
restricted by name: kubernetes.io/docs/reference/access-authn-authz/rbac, "Referring to resources").
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway.core.routing import Slot
from slipway.core.service import AutoscalerKind, RouterKind, ServiceSpec
from slipway.manifests.adoption.originals import originals_name
from slipway.manifests.names import (
    Object,
    backup_job_name,
    drill_pod_name,
    sweep_pod_name,
    test_pod_name,
    workload_name,
)
from slipway.manifests.pod_policy import SECRET_GROUP, SECRET_RESOURCE, SECRET_VERB
from slipway.manifests.release_objects import lease_name, orders_name, record_name
from slipway.manifests.routes.routers import route_rules, routes_read
from slipway.manifests.routes.splitting import FILTER_NAME, needs_filter

_AUTOSCALERS = {
    AutoscalerKind.HPA: ("autoscaling", "horizontalpodautoscalers"),
    AutoscalerKind.KEDA: ("keda.sh", "scaledobjects"),
}


def release_rules(spec: ServiceSpec, *, adopted: str = "") -> tuple[Object, ...]:
    """Return every right that a release of the service needs, as rules of a Role.

    A rollback, an abort and a reconcile have the same: each may have to finish a release.

    Args:
        spec: the service.
        adopted: name of a Deployment that the service was live with before; "" without one.
    """
    slots = _slots(spec, adopted)
    made = None if spec.autoscaling is None else spec.autoscaling.kind
    return (
        rule("apps", "deployments", ("get", "patch"), slots),
        rule("apps", "deployments", ("create", "list")),
        # Whether or not the service is autoscaled today: what it was scaled by before goes, and
        # what others have made is looked for.
        *(rule(*kind, ("patch", "delete"), slots) for kind in _AUTOSCALERS.values()),
        *(
            rule(*kind, ("create", "list") if name is made else ("list",))
            for name, kind in _AUTOSCALERS.items()
        ),
        rule("", "pods", ("get", "patch", "delete"), _bare_pods(spec)),
        rule("", "pods", ("list", "create")),
        rule("", "pods/log", ("get",)),
        rule("", "events", ("create",)),
        rule("", "configmaps", ("get", "patch"), [record_name(spec.name), orders_name(spec.name)]),
        rule("", "configmaps", ("get",), [originals_name(spec.name)]),
        rule("", "configmaps", ("create",)),
        rule("", "resourcequotas", ("list",)),
        *(rule(*right) for right in route_rules(spec)),
        *_secret_rules(spec),
        rule("coordination.k8s.io", "leases", ("get", "patch"), [lease_name(spec.name)]),
    )


def preflight_rules() -> tuple[Object, ...]:
    """Return the rights to look at what a release would run into; without them it says so."""
    return (
        rule("", "limitranges", ("list",)),
        rule("policy", "poddisruptionbudgets", ("list",)),
    )


def watch_rules(spec: ServiceSpec, *, adopted: str = "") -> tuple[Object, ...]:
    """Return every right that the watcher needs: to look, to take over, to give users back.

    It deploys nothing and ends nothing; that is for the release that it starts.
    """
    slots = _slots(spec, adopted)
    return (
        rule("apps", "deployments", ("get", "patch"), slots),
        *(rule(*kind, ("patch",), slots) for kind in _AUTOSCALERS.values()),
        *(rule(*kind, ("list",)) for kind in _AUTOSCALERS.values()),
        rule("", "pods", ("list",)),
        rule("", "configmaps", ("get", "patch"), [record_name(spec.name)]),
        *(rule(group, kinds, ("get", "patch"), names) for group, kinds, names in routes_read(spec)),
        *(
            (rule("discovery.k8s.io", "endpointslices", ("list",)),)
            if spec.router.kind is RouterKind.SERVICE
            else ()
        ),
        rule("coordination.k8s.io", "leases", ("get", "patch"), [lease_name(spec.name)]),
    )


def backup_rules(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return what the flows of backups need: what is in use, and a pod that a drill asks."""
    return (
        rule("", "configmaps", ("get",), [record_name(spec.name)]),
        rule("", "pods", ("get", "patch", "delete"), [drill_pod_name(spec.name)]),
        rule("", "pods", ("create",)),
        *_volume_backup_rules(spec),
    )


def _volume_backup_rules(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return what running a Job on the volume needs; a snapshot and its claim go with the Job."""
    volume, own = spec.volume, [backup_job_name(spec.name)]
    if volume is None or volume.backup is None:
        return ()
    of_snapshots = (
        rule("", "persistentvolumeclaims", ("create",)),
        rule("", "persistentvolumeclaims", ("get",), [volume.claim, *own]),
        rule("snapshot.storage.k8s.io", "volumesnapshots", ("create",)),
        rule("snapshot.storage.k8s.io", "volumesnapshots", ("get",), own),
    )
    return (
        rule("batch", "jobs", ("create",)),
        rule("batch", "jobs", ("get", "delete"), own),
        rule("", "pods", ("list",)),
        rule("", "pods/log", ("get",)),
        *(of_snapshots if volume.backup.snapshot_class else ()),
    )


def operate_rules(spec: ServiceSpec, *, adopted: str = "") -> tuple[Object, ...]:
    """Return what `slipway status`, `approve` and `abort` need: to look, and to leave an order."""
    return (
        rule("apps", "deployments", ("get",), _slots(spec, adopted)),
        rule("", "pods", ("list",)),
        rule("", "configmaps", ("get",), [record_name(spec.name)]),
        rule("", "configmaps", ("patch",), [orders_name(spec.name)]),
        *(rule(group, kinds, ("get",), names) for group, kinds, names in routes_read(spec)),
        rule("coordination.k8s.io", "leases", ("get",), [lease_name(spec.name)]),
    )


def gateway_rules(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return what a release needs in the namespace of its gateway."""
    if not needs_filter(spec.router):
        return ()
    return (rule("networking.istio.io", "envoyfilters", ("get",), [FILTER_NAME]),)


def rule(
    group: str, resources: str | tuple[str, ...], verbs: tuple[str, ...], names: Sequence[str] = ()
) -> Object:
    """Return one rule of a Role; without names it holds for all objects."""
    made: Object = {
        "apiGroups": [group],
        "resources": [resources] if isinstance(resources, str) else list(resources),
        "verbs": list(verbs),
    }
    if names:
        made["resourceNames"] = list(names)
    return made


def _secret_rules(spec: ServiceSpec) -> tuple[Object, ...]:
    """Return the right to name the Secret of the weights; `slipway.manifests.pod_policy` asks."""
    if spec.volume is None:
        return ()
    backup = spec.volume.backup
    named = [spec.volume.secret, backup.secret if backup else ""]
    found = list(dict.fromkeys(name for name in named if name))
    return (rule(SECRET_GROUP, SECRET_RESOURCE, (SECRET_VERB,), found),) if found else ()


def _slots(spec: ServiceSpec, adopted: str) -> list[str]:
    return [*(workload_name(spec.name, slot) for slot in Slot), *([adopted] if adopted else [])]


def _bare_pods(spec: ServiceSpec) -> list[str]:
    swept = [] if spec.volume is None else [sweep_pod_name(spec.name)]
    return [test_pod_name(spec.name), *swept]
