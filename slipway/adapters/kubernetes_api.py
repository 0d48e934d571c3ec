"""The one place that talks to the Kubernetes API: paths, time limits, and errors with names.

Built on the official client's connection (authentication, TLS, pooling); answers stay plain JSON,
so a server newer than the client's models is no problem.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, KubeConfigMerger

from slipway.core.errors import (
    ConflictError,
    InputError,
    PermanentError,
    SlipwayError,
    TransientError,
)
from slipway.manifests.fence import STALE
from slipway.manifests.names import FENCE_ANNOTATION

MERGE_PATCH = "application/merge-patch+json"

FIELD_MANAGER = "slipway-release"
"""Owner of every field a release writes (server-side apply)."""

SCALE_MANAGER = "slipway-scale"
"""Owner of the number of pods that a release sets: never by apply where an autoscaler goes on."""

INSTALL_MANAGER = "slipway-install"
"""Owner of what an administrator installs."""

# Not there, not to be read, no YAML, or YAML of something else.
_UNUSABLE = (
    ConfigException,
    OSError,
    UnicodeDecodeError,
    yaml.YAMLError,
    AttributeError,
    TypeError,
)
_CONNECT_TIMEOUT_S = 3.0
_READ_TIMEOUT_S = 30.0
_BY_ROLES = ' is forbidden: User "'
_NOT_IN_SCHEMA = "field not declared in schema"

# kind → (path prefix of its group, plural). Only what a release touches.
_KINDS: Mapping[str, tuple[str, str]] = {
    "ConfigMap": ("/api/v1", "configmaps"),
    "Event": ("/api/v1", "events"),
    "LimitRange": ("/api/v1", "limitranges"),
    "Namespace": ("/api/v1", "namespaces"),
    "Node": ("/api/v1", "nodes"),
    "Pod": ("/api/v1", "pods"),
    "ResourceQuota": ("/api/v1", "resourcequotas"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "Job": ("/apis/batch/v1", "jobs"),
    "VolumeSnapshot": ("/apis/snapshot.storage.k8s.io/v1", "volumesnapshots"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "ScaledObject": ("/apis/keda.sh/v1alpha1", "scaledobjects"),
    "SelfSubjectAccessReview": ("/apis/authorization.k8s.io/v1", "selfsubjectaccessreviews"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "ValidatingAdmissionPolicy": (
        "/apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicies",
    ),
    "ValidatingAdmissionPolicyBinding": (
        "/apis/admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
    ),
    "VirtualService": ("/apis/networking.istio.io/v1", "virtualservices"),
    "DestinationRule": ("/apis/networking.istio.io/v1", "destinationrules"),
    "Gateway": ("/apis/networking.istio.io/v1", "gateways"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "HTTPRoute": ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
    "EnvoyFilter": ("/apis/networking.istio.io/v1alpha3", "envoyfilters"),
}


def object_path(kind: str, namespace: str | None, name: str | None = None) -> str:
    """Return the API path of an object, or of the collection when `name` is None."""
    return _path(*_KINDS[kind], namespace, name)


def path_of(manifest: Mapping[str, Any]) -> str:
    """Return the API path of an object by its own apiVersion: two groups know a `Gateway`."""
    metadata, version = manifest["metadata"], str(manifest["apiVersion"])
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    _, plural = _KINDS[manifest["kind"]]
    return _path(prefix, plural, metadata.get("namespace"), metadata["name"])


def _path(prefix: str, plural: str, namespace: str | None, name: str | None) -> str:
    scope = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{prefix}{scope}/{plural}" + (f"/{quote(name)}" if name else "")


class KubernetesApi:
    """A connection to one cluster.

    Args:
        kubeconfig: path; None uses KUBECONFIG, else the pod's own service account.
        context: of the kubeconfig; None takes the current one.

    Raises:
        InputError: there is no such context, or no kubeconfig that can be read.
    """

    def __init__(self, kubeconfig: str | None = None, *, context: str | None = None) -> None:
        configuration = client.Configuration()
        try:
            if kubeconfig is None and context is None and not _has_kubeconfig():
                config.load_incluster_config(client_configuration=configuration)
            else:
                _require_context(kubeconfig, context)
                config.load_kube_config(
                    config_file=kubeconfig, context=context, client_configuration=configuration
                )
        except _UNUSABLE as error:
            raise InputError(
                f"no usable kubeconfig{f' {kubeconfig}' if kubeconfig else ''}: {error}",
                code="kubeconfig-missing",
                hint="set KUBECONFIG, or start the sandbox: slipway sandbox up",
            ) from error
        # Retries have one owner per layer (DESIGN §5); urllib3 would add hidden ones of its own.
        configuration.retries = False
        # A proxy of the user's environment must not see calls to the loopback cluster.
        if "//127." in str(configuration.host) or "//localhost" in str(configuration.host):
            configuration.proxy = None
            configuration.no_proxy = "*"
        self._client = client.ApiClient(configuration)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """Return the object or list at `path`; None when there is none."""
        try:
            return self.call("GET", path, query=query)
        except PermanentError as error:
            if error.code == "not-found":
                return None
            raise

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Return what the API server answers at `path` as text, for example a log."""
        return self._send("GET", path, None, query, "application/json").decode(errors="replace")

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request and return the decoded answer.

        Raises:
            TransientError: no connection, 429 or 5xx.
            ConflictError: 409.
            PermanentError: every other refusal, with the server's message.
        """
        raw = self._send(method, path, body, query, content_type)
        decoded: dict[str, Any] = json.loads(raw) if raw else {}
        return decoded

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, str] | None,
        content_type: str,
    ) -> bytes:
        """Send a request; what no Role allows only counts when the server knows its Roles.

        One that has just started refuses everybody until it has read them
        (https://github.com/kubernetes/kubernetes/issues/121635): at `/readyz`, which Kubernetes
        lets everybody ask who has an account, it refuses, too, or says that it is not ready. Where
        an administrator has taken that right away, a refusal is repeated before it counts.
        """
        try:
            return self._once(method, path, body, query, content_type)
        except PermanentError as error:
            if error.code != "forbidden" or _BY_ROLES not in error.message:
                raise
            try:
                self._once("GET", "/readyz", None, None, "application/json")
            except (PermanentError, TransientError) as starting:
                if starting.code == "not-found":
                    raise error from None
                raise TransientError(
                    f"{error.message}; the API server is not ready",
                    code="api-busy",
                    hint="the API server is starting; the call is repeated",
                ) from starting
        return self._once(method, path, body, query, content_type)

    def _once(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, str] | None,
        content_type: str,
    ) -> bytes:
        what = f"{method} {path}"
        url = path + ("?" + urlencode(query) if query else "")
        try:
            serialized = self._client.param_serialize(
                method,
                url,
                header_params={"Accept": "*/*", "Content-Type": content_type},
                auth_settings=["BearerToken"],
            )
            answer = self._client.rest_client.request(
                serialized[0],
                serialized[1],
                headers=serialized[2],
                body=body,  # the client serialises JSON bodies, strings pass as they are
                _request_timeout=(_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S),
            )
            raw = bytes(answer.read())
        except client.ApiException as error:
            raise map_api_error(error.status, error.body, {}, what) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(
                f"{what}: no answer from the API server ({type(error).__name__}: {error})",
                code="api-unreachable",
                hint="check that the cluster is up: kubectl get --raw /readyz",
            ) from error
        if not 200 <= int(answer.status) < 300:
            raise map_api_error(answer.status, raw, dict(answer.headers or {}), what)
        return raw

    def stamp(
        self, kind: str, namespace: str, name: str, *, fence: int, dry_run: bool = False
    ) -> None:
        """Put a fencing number on an object, and change nothing else of it.

        Raises:
            ConflictError: `lock-lost`, a higher number stands there.
            PermanentError: `not-found`, there is no such object.
        """
        self.call(
            "PATCH",
            object_path(kind, namespace, name),
            body={"metadata": {"annotations": {FENCE_ANNOTATION: str(fence)}}},
            query={"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})},
            content_type=MERGE_PATCH,
        )

    def apply(
        self,
        manifest: Mapping[str, Any],
        *,
        dry_run: bool = False,
        manager: str = FIELD_MANAGER,
    ) -> dict[str, Any]:
        """Server-side apply with strict validation, taking over fields we own by design."""
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return self.call(
            "PATCH",
            path_of(manifest),
            body=json.dumps(manifest),
            query=query,
            content_type="application/apply-patch+yaml",
        )


def _require_context(kubeconfig: str | None, context: str | None) -> None:
    """Refuse a context that the kubeconfig does not have, with the names of those it has.

    Raises:
        InputError: there is no such context.
    """
    if context is None:
        return
    # Not by `list_kube_config_contexts`: it wants a current context, which nobody needs who names
    # another one.
    merged = KubeConfigMerger(kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION).config
    if merged is None:
        raise ConfigException("no configuration found")
    known = sorted(item["name"] for item in merged["contexts"])
    if context not in known:
        raise InputError(
            f"the kubeconfig has no context {context!r}",
            code="context-unknown",
            hint=f"choose one of: {', '.join(known)} (--context, SLIPWAY_CONTEXT)",
        )


def _has_kubeconfig() -> bool:
    import os
    from pathlib import Path

    return bool(os.environ.get("KUBECONFIG")) or (Path.home() / ".kube" / "config").exists()


def map_api_error(
    status: int | None, body: Any, headers: Mapping[str, str], what: str
) -> SlipwayError:
    """Turn an HTTP status of the API server into the error of our taxonomy."""
    message = _server_message(body)
    text = f"{what}: {message}"
    if STALE in message:
        return ConflictError(
            text,
            code="lock-lost",
            hint="nothing was written: another release has taken over; look at its record, then run"
            " the release again",
        )
    # Server-side apply answers 500 for a field that the schema does not have; it never passes.
    unknown_field = _NOT_IN_SCHEMA in message
    if not unknown_field and (status == 429 or (status is not None and status >= 500)):
        after = headers.get("Retry-After") or headers.get("retry-after")
        return TransientError(
            text,
            code="api-busy",
            hint="the API server is overloaded or restarting; the call is repeated",
            retry_after_s=float(after) if after and after.isdigit() else None,
        )
    if status == 409:
        return ConflictError(
            text, code="conflict", hint="the object changed meanwhile; read it again"
        )
    return _refusal(status, message, text)


def _refusal(status: int | None, message: str, text: str) -> PermanentError:
    """Return what the same call would get again."""
    if status == 404:
        return PermanentError(
            text, code="not-found", hint="install the service first: slipway install SERVICE"
        )
    if status == 403 and "exceeded quota" in message:
        return PermanentError(
            text, code="quota-exceeded", hint="raise the ResourceQuota or free capacity"
        )
    if status in {401, 403}:
        return PermanentError(
            text,
            code="forbidden",
            hint="grant the permission, or ask an administrator: slipway install",
        )
    return PermanentError(
        text, code="refused-by-cluster", hint="correct what the server's message names"
    )


def _server_message(body: Any) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    if not text:
        return "no message"
    try:
        decoded = json.loads(text)
    except ValueError:
        return text[:500]
    return str(decoded.get("message", text))[:2000] if isinstance(decoded, dict) else text[:500]
