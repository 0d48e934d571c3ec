"""A custom-metrics API of the tests: what the real HPA controller asks through the API server.

An APIService sends `custom.metrics.k8s.io` to a Service of type ExternalName, which names this
process on loopback; the API server reaches it by its egress proxy, as any extension server.

Source: kubernetes/metrics, pkg/apis/custom_metrics/v1beta2/types.go.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from slipway.adapters.kubernetes_api import KubernetesApi, object_path
from slipway.core.errors import SlipwayError
from slipway.core.traffic import user_rows
from slipway.manifests.names import SLOT_LABEL
from slipway.ports.traffic import Traffic
from tests.e2e.support import Sandbox, World

METRIC = "user_requests_per_s"
_GROUP, _VERSION = "custom.metrics.k8s.io", "v1beta2"
_NAME = f"{_VERSION}.{_GROUP}"
_SERVICE = "test-metrics"
_WINDOW_S = 8.0


@dataclass
class UsersSeen:
    """How many users' requests each slot of a service answered lately, as the gateway logged."""

    traffic: Traffic
    service: str
    _seen: deque[tuple[float, str]] = field(default_factory=deque)

    def watch(self, ended: threading.Event) -> None:
        """Read the gateway's log until `ended`."""
        position = self.traffic.access_end(self.service)
        while not ended.wait(0.5):
            try:
                tail = self.traffic.access_rows(self.service, after=position)
            except SlipwayError:
                continue  # the next look follows
            position, now_s = tail.end, time.monotonic()
            self._seen.extend((now_s, row.slot) for row in user_rows(tail.rows))
            while self._seen and self._seen[0][0] < now_s - _WINDOW_S:
                self._seen.popleft()

    def per_s(self, slot: str) -> float:
        """Return requests a second."""
        return sum(found == slot for _, found in tuple(self._seen)) / _WINDOW_S


@contextmanager
def metrics_api(world: World, service: str) -> Iterator[UsersSeen]:
    """Serve `METRIC` of the pods of a service meanwhile: its slot's users, divided by its pods."""
    seen = UsersSeen(traffic=world.ports(service).traffic, service=service)
    ended = threading.Event()
    watch = threading.Thread(target=seen.watch, args=(ended,), daemon=True)
    server = _server(world.sandbox, seen)
    serve = threading.Thread(target=server.serve_forever, daemon=True)
    for thread in (watch, serve):
        thread.start()
    try:
        with _registered(world.sandbox, server.server_port):
            yield seen
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        watch.join()


@contextmanager
def _registered(sandbox: Sandbox, port: int) -> Iterator[None]:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _SERVICE, "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "127.0.0.1"},
    }
    api = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": _NAME},
        "spec": {
            "group": _GROUP,
            "version": _VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": _SERVICE, "namespace": "default", "port": port},
        },
    }
    both = json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, api]})
    applied = sandbox.kubectl("apply", "-f", "-", stdin=both)
    assert applied.returncode == 0, applied.stderr
    try:
        ready = sandbox.kubectl(
            *("wait", "--for=condition=Available", "--timeout=60s", f"apiservice/{_NAME}")
        )
        assert ready.returncode == 0, ready.stderr
        yield
    finally:
        sandbox.kubectl("delete", f"apiservice/{_NAME}")
        sandbox.kubectl("-n", "default", "delete", f"service/{_SERVICE}")


def _server(sandbox: Sandbox, seen: UsersSeen) -> ThreadingHTTPServer:
    api = KubernetesApi(str(sandbox.home.kubeconfig))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = _answer(api, seen, self.path)
            body = json.dumps(found or {"kind": "Status", "code": 404}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (likewise)
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Any certificate does: the APIService says that it is not checked.
    pki = sandbox.home.pki
    context.load_cert_chain(pki / "scheduler.crt", pki / "scheduler.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def _answer(api: KubernetesApi, seen: UsersSeen, url: str) -> dict[str, Any] | None:
    split = urlsplit(url)
    parts = unquote(split.path).strip("/").split("/")
    if parts[:3] != ["apis", _GROUP, _VERSION]:
        return None
    match parts[3:]:
        case []:
            resource = {
                "name": f"pods/{METRIC}",
                "singularName": "",
                "namespaced": True,
                "kind": "MetricValueList",
                "verbs": ["get"],
            }
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{_GROUP}/{_VERSION}",
                "resources": [resource],
            }
        case ["namespaces", namespace, "pods", "*", metric] if metric == METRIC:
            selector = parse_qs(split.query).get("labelSelector", [""])[0]
            return _values(api, seen, namespace, selector)
        case _:
            return None


def _values(api: KubernetesApi, seen: UsersSeen, namespace: str, selector: str) -> dict[str, Any]:
    listed = api.get(object_path("Pod", namespace), {"labelSelector": selector}) or {}
    pods = listed.get("items", [])
    items = []
    for pod in pods:
        slot = pod["metadata"]["labels"].get(SLOT_LABEL, "")
        milli = round(1000 * seen.per_s(slot) / len(pods))
        items.append(
            {
                "describedObject": {
                    "kind": "Pod",
                    "namespace": namespace,
                    "name": pod["metadata"]["name"],
                    "apiVersion": "/v1",
                },
                "metric": {"name": METRIC},
                "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "windowSeconds": round(_WINDOW_S),
                "value": f"{milli}m",
            }
        )
    return {
        "kind": "MetricValueList",
        "apiVersion": f"{_GROUP}/{_VERSION}",
        "metadata": {},
        "items": items,
    }
