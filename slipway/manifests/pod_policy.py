"""The admission policy that limits what the account of releases may deploy.

Who may create a pod may read, by way of it, every Secret of the namespace, and use every service
account (kubernetes.io/docs/concepts/security/rbac-good-practices, "Workload creation"). So what no
Role can say is said here: whose account a pod runs as, where its images come from, and which
Secrets it may name.

A Secret may be named where the release account has the verb `use` on it, as a `podsecrets` of the
API group `slipway.dev`: no such object exists, nobody can call it, and it is no right to read one.
The Role of a service grants it for the Secrets of its file.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway.manifests.names import (
    BACKUP_ACCOUNT,
    MANAGED_BY_LABEL,
    MODEL_ACCOUNT,
    RELEASE_ACCOUNT,
    RELEASE_LABEL,
    SERVING_LABEL,
    WATCH_ACCOUNT,
    Object,
)

POLICY_NAME = "slipway-model-pods"

SECRET_GROUP, SECRET_RESOURCE, SECRET_VERB = "slipway.dev", "podsecrets", "use"
"""The right by which pods may name a Secret; see above."""

# Numbers of pods and of locks are written on Deployments whose pods somebody else chose, too: those
# that a service was adopted with.
_DEPLOYS = (
    "!(request.operation == 'UPDATE' && has(object.spec.template) &&"
    " object.spec.template.spec == oldObject.spec.template.spec)"
)
_API = "admissionregistration.k8s.io/v1"


def pod_policy_objects(namespace: str, registries: Sequence[str]) -> tuple[Object, ...]:
    """Return the policy and its binding to the namespaces that serve models.

    Args:
        namespace: of the accounts of releases and of the watcher.
        registries: `host[:port][/path]` that images may come from.
    """
    return (
        {
            **_cluster_object("ValidatingAdmissionPolicy"),
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "resourceRules": [
                        _matched("", "pods"),
                        _matched("apps", "deployments"),
                        _matched("batch", "jobs"),
                    ]
                },
                # Whatever our accounts write, and whatever belongs to a release no matter who
                # writes it (the pods of a Deployment are made by its controller).
                "matchConditions": [
                    {"name": "of-a-release", "expression": _of_a_release(namespace)},
                    {"name": "deploys-something", "expression": _DEPLOYS},
                ],
                "variables": _variables(),
                "validations": [
                    {"expression": expression, "message": f"a model pod {message}"}
                    for message, expression in _rules(namespace, registries).items()
                ],
            },
        },
        {
            **_cluster_object("ValidatingAdmissionPolicyBinding"),
            "spec": {
                "policyName": POLICY_NAME,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {"matchLabels": {SERVING_LABEL: "true"}}},
            },
        },
    )


def _rules(namespace: str, registries: Sequence[str]) -> dict[str, str]:
    """Return what must hold, by what is said when it does not."""
    begins = [f"{registry.rstrip('/')}/" for registry in registries]
    may_name = _may_name(namespace)
    return {
        "must name its images by digest (…@sha256:…)": "variables.containers.all(c,"
        " c.image.matches('@sha256:[0-9a-f]{64}$'))",
        f"must have its images from {' or '.join(begins)}": "variables.containers.all(c,"
        f" {begins!r}.exists(r, c.image.startsWith(r)))",
        f"must run as service account {MODEL_ACCOUNT}": "has(variables.pod.serviceAccountName) &&"
        f" variables.pod.serviceAccountName == '{MODEL_ACCOUNT}'",
        "may have volumes of the kinds emptyDir and persistentVolumeClaim only": (
            "!has(variables.pod.volumes) || variables.pod.volumes.all(v,"
            " has(v.emptyDir) || has(v.persistentVolumeClaim))"
        ),
        "may use no namespace of its host": "!(has(variables.pod.hostNetwork) &&"
        " variables.pod.hostNetwork) && !(has(variables.pod.hostPID) && variables.pod.hostPID)"
        " && !(has(variables.pod.hostIPC) && variables.pod.hostIPC)",
        "may have variables of no Secret but its service's": "variables.containers.all(c,"
        " (!has(c.envFrom) || c.envFrom.all(e, !has(e.secretRef) ||"
        f" {may_name.format('e.secretRef.name')})) &&"
        " (!has(c.env) || c.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef) ||"
        f" {may_name.format('e.valueFrom.secretKeyRef.name')})))",
        "may pull its images with no Secret that is not granted": (
            "!has(variables.pod.imagePullSecrets) ||"
            f" variables.pod.imagePullSecrets.all(s, {may_name.format('s.name')})"
        ),
    }


def _may_name(namespace: str) -> str:
    # Asked of the release account, whoever writes: controllers have no rights of this kind.
    return (
        f"authorizer.serviceAccount('{namespace}', '{RELEASE_ACCOUNT}').group('{SECRET_GROUP}')"
        f".resource('{SECRET_RESOURCE}').namespace(request.namespace).name({{}})"
        f".check('{SECRET_VERB}').allowed()"
    )


def _variables() -> list[Object]:
    found = {
        "pod": "has(object.spec.template) ? object.spec.template.spec : object.spec",
        "containers": "variables.pod.containers + (has(variables.pod.initContainers)"
        " ? variables.pod.initContainers : [])",
    }
    return [{"name": name, "expression": expression} for name, expression in found.items()]


def _of_a_release(namespace: str) -> str:
    users = [f"system:serviceaccount:{namespace}:{name}" for name in _OURS]
    return (
        f"request.userInfo.username in {users!r} || (has(object.metadata.labels) &&"
        f" '{RELEASE_LABEL}' in object.metadata.labels)"
    )


_OURS = (RELEASE_ACCOUNT, WATCH_ACCOUNT, BACKUP_ACCOUNT)


def _matched(group: str, resource: str) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": [resource],
    }


def _cluster_object(kind: str) -> Object:
    return {
        "apiVersion": _API,
        "kind": kind,
        "metadata": {"name": POLICY_NAME, "labels": {MANAGED_BY_LABEL: "slipway"}},
    }
