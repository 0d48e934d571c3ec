"""What a fresh cluster of the sandbox needs before anybody works in it.

Custom resources of Istio and the Gateway API, the policy that shows pod addresses outside of
loopback, three namespaces, and two nodes that are Ready.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.network.addresses import kubelet_address, shown_address
from slipway.sandbox.nodes_down import nodes_down
from slipway.sandbox.parts.istiod import ROOT_NAMESPACE
from slipway.sandbox.parts.kubernetes import NODES

SERVING_NAMESPACE = "serving"
GATEWAY_NAMESPACE = "istio-ingress"
FIELD_MANAGER = "slipway-sandbox"
CONTENT_HASH = "slipway.dev/content-hash"

_ADMISSION = "/apis/admissionregistration.k8s.io"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_WORKERS = 4
_POLL_S = 0.1
# Seconds on a machine at rest; with a load of 29 on 2 cores 30 s were not enough.
_NODES_READY_S = 180.0
_ESTABLISHED_S = 180.0
_SERVICE_ACCOUNT_S = 180.0
_FORGOTTEN_S = 15.0
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)

_T = TypeVar("_T")


def set_up(home: SandboxHome, crds: Path) -> None:
    """Bring a cluster whose API server is ready to its starting state; twice equals once.

    Args:
        home: the running sandbox.
        crds: folder of the custom resources, one JSON file each (`slipway.sandbox.build.crds`).

    Raises:
        InputError: the folder holds no custom resources.
        TransientError: the API server does not answer, or a node is not Ready in time.
        PermanentError: the API server refuses an object.
    """
    api = KubernetesApi(str(home.kubeconfig))
    for manifest in base_objects():
        apply(api, manifest)
    apply_crds(api, crds)
    _wait(lambda: _missing_account(api), _SERVICE_ACCOUNT_S)
    _wait(lambda: _readdress(api, home), _NODES_READY_S)
    _wait(lambda: _unready_nodes(api, nodes_down(home)), _NODES_READY_S)


def base_objects() -> tuple[dict[str, Any], ...]:
    """Return the namespaces and the address policy, in the order they are applied."""
    restricted = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")
    }
    return (
        _namespace(ROOT_NAMESPACE, {}),
        _address_policy(),
        _address_binding(),
        _namespace(SERVING_NAMESPACE, restricted),
        _namespace(GATEWAY_NAMESPACE, {}),
    )


def apply(api: KubernetesApi, manifest: dict[str, Any]) -> None:
    """Server-side apply one of the sandbox's own objects.

    Raises:
        TransientError: the API server does not answer.
        PermanentError: it refuses the object.
    """
    path = {
        "Namespace": "/api/v1/namespaces",
        "MutatingAdmissionPolicy": f"{_ADMISSION}/v1/mutatingadmissionpolicies",
        "MutatingAdmissionPolicyBinding": f"{_ADMISSION}/v1/mutatingadmissionpolicybindings",
    }[manifest["kind"]]
    try:
        _apply_at(api, f"{path}/{manifest['metadata']['name']}", json.dumps(manifest))
    except PermanentError as error:
        # An API server of 1.34 or 1.35 (`tests/skew`) has these policies as v1beta1 only.
        if error.code != "not-found" or _ADMISSION not in path:
            raise
        older = json.dumps({**manifest, "apiVersion": "admissionregistration.k8s.io/v1beta1"})
        place = path.replace("/v1/", "/v1beta1/")
        _apply_at(api, f"{place}/{manifest['metadata']['name']}", older)


def apply_crds(api: KubernetesApi, folder: Path) -> None:
    """Apply the custom resources that are missing or differ, and wait until they are served.

    Raises:
        InputError: the folder holds no custom resources.
        TransientError: the API server does not answer, or does not serve one in time.
        PermanentError: it refuses one.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(
            f"{folder} holds no custom resource definitions",
            code="crds-missing",
            hint="unset SLIPWAY_CONTROLPLANE, or put the folder `crds` beside the binary",
        )
    served = _served_hashes(api)
    with ThreadPoolExecutor(_WORKERS) as pool:
        # list() lets the first error out.
        applied = list(pool.map(lambda file: _apply_crd(api, file, served), files))
    # After all of them, because the API server takes them up one by one while others arrive.
    for name in filter(None, applied):
        _wait(partial(_not_established, api, name), _ESTABLISHED_S)


def _apply_crd(api: KubernetesApi, file: Path, served: dict[str, str]) -> str | None:
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    name = file.stem
    if served.get(name) == digest:
        return None
    manifest = json.loads(content)
    manifest["metadata"].setdefault("annotations", {})[CONTENT_HASH] = digest
    _apply_at(api, f"{_CRDS}/{name}", json.dumps(manifest))
    return name


def _served_hashes(api: KubernetesApi) -> dict[str, str]:
    listed = _patiently(lambda: api.call("GET", _CRDS))
    return {
        item["metadata"]["name"]: item["metadata"].get("annotations", {}).get(CONTENT_HASH, "")
        for item in listed["items"]
        if _is_established(item)
    }


def _apply_at(api: KubernetesApi, path: str, body: str) -> None:
    _patiently(
        lambda: api.call(
            "PATCH",
            path,
            body=body,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            content_type="application/apply-patch+yaml",
        )
    )


def _not_established(api: KubernetesApi, name: str) -> str | None:
    found = api.call("GET", f"{_CRDS}/{name}")
    if _is_established(found):
        return None
    if _is_forgotten(found):
        # An API server that was ended between accepting the names and serving them never comes back
        # to it (1.36.3, seen): its successor looks only at definitions whose names it must accept.
        names = dict.fromkeys(("singular", "listKind", "shortNames", "categories"))
        status = {"conditions": None, "acceptedNames": {**names, "plural": "", "kind": ""}}
        api.call(
            "PATCH",
            f"{_CRDS}/{name}/status",
            body={"status": status},
            content_type="application/merge-patch+json",
        )
    return f"{name} is not served yet"


def _is_forgotten(definition: dict[str, Any]) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    if not _is_true(conditions, "NamesAccepted"):
        return False
    since = max(datetime.fromisoformat(item["lastTransitionTime"]) for item in conditions)
    return (datetime.now(UTC) - since).total_seconds() > _FORGOTTEN_S


def _is_established(definition: dict[str, Any]) -> bool:
    # A definition that nobody looked at yet says `conditions: null`.
    return _is_true(definition.get("status", {}).get("conditions") or [], "Established")


def _missing_account(api: KubernetesApi) -> str | None:
    path = f"/api/v1/namespaces/{SERVING_NAMESPACE}/serviceaccounts/default"
    return None if api.get(path) else f"no service account in namespace {SERVING_NAMESPACE}"


def _readdress(api: KubernetesApi, home: SandboxHome) -> str | None:
    """Give each Node the address that its kubelet has now: it registers with it only once."""
    listed = api.call("GET", "/api/v1/nodes")["items"]
    shown = {item["metadata"]["name"]: item["status"].get("addresses", []) for item in listed}
    for node in NODES:
        address = shown_address(kubelet_address(home.slice_of(node.name)))
        entries = shown.get(node.name)
        if entries is None:
            return f"node {node.name} has not registered"
        if any(entry["address"] == address for entry in entries):
            continue
        status = {"addresses": [{"type": "InternalIP", "address": address}]}
        api.call(
            "PATCH",
            f"/api/v1/nodes/{node.name}/status",
            body={"status": status},
            # Entries are merged by their type, so the host name stays.
            content_type="application/strategic-merge-patch+json",
        )
    return None


def _unready_nodes(api: KubernetesApi, down: frozenset[str]) -> str | None:
    listed = api.call("GET", "/api/v1/nodes")["items"]
    conditions = {item["metadata"]["name"]: item["status"].get("conditions", []) for item in listed}
    for node in (node for node in NODES if node.name not in down):
        found = conditions.get(node.name)
        if found is None:
            return f"node {node.name} has not registered"
        if not _is_true(found, "Ready"):
            reasons = [c["message"] for c in found if c["type"] == "Ready"]
            return f"node {node.name} is not Ready: {' '.join(reasons) or 'no status yet'}"
    return None


def _is_true(conditions: list[dict[str, Any]], kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def _wait(shortfall: Callable[[], str | None], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while (reason := _patiently(shortfall)) is not None:
        if time.monotonic() > deadline:
            raise TransientError(
                f"the cluster of the sandbox was not ready after {timeout_s:.0f} s: {reason}",
                code="cluster-not-ready",
                hint="look at `slipway sandbox status` and `slipway sandbox logs PART`",
            )
        time.sleep(_POLL_S)


def _patiently(call: Callable[[], _T]) -> _T:
    # Every call here may be repeated. An API server that has just started, on a busy machine,
    # answers some of them too late.
    for pause_s in _PAUSES_S:
        try:
            return call()
        except TransientError:
            time.sleep(pause_s)
    return call()


def _namespace(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }


def _address_policy() -> dict[str, Any]:
    """Return the policy that shows pods at 100.100.a.b (shared address space, RFC 6598).

    Their processes listen at 127.100.a.b, but EndpointSlices refuse loopback addresses. Same length
    on purpose: the discovery relay replaces one by the other in Envoy's messages.
    """
    # One patch a field: a list of objects as a patch's value makes the API server panic (1.36.3).
    shown = "object.status.podIP.replace('127.100.', '100.100.')"
    patch = ", ".join(
        f'JSONPatch{{op: "replace", path: "/status/{field}", value: {shown}}}'
        for field in ("podIP", "podIPs/0/ip")
    )
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "slipway-pod-addresses"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["UPDATE"],
                        "resources": ["pods/status"],
                    }
                ]
            },
            "matchConditions": [
                {
                    "name": "has-loopback-address",
                    "expression": "has(object.status.podIP) && size(object.status.podIPs) == 1"
                    " && object.status.podIP.startsWith('127.100.')",
                }
            ],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": f"[{patch}]"}}],
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
        },
    }


def _address_binding() -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "slipway-pod-addresses"},
        "spec": {"policyName": "slipway-pod-addresses"},
    }
