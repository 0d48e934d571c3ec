"""What a pod network promises, through the API server, the egress proxy and real pods."""

from __future__ import annotations

import base64
import datetime
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from slipway.sandbox.images import BASE_TAG, SIMULATED
from tests.e2e.conftest import Sandbox

PATIENCE_S = float(os.environ.get("SLIPWAY_TEST_PATIENCE_S", "90"))
# Says on 8000 which pod it is; on 8443, with TLS, it is a webhook that refuses names with `no-`.
SERVER = """
import http.server, json, os, ssl, threading
address, name = os.environ["POD_IP"], os.environ["POD_NAME"]
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(name.encode())
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        review = {"uid": asked["uid"], "allowed": not asked["name"].startswith("no-")}
        review["status"] = {"message": "refused by " + name}
        asked = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": review}
        self.answer(json.dumps(asked).encode())
    def log_message(self, *_):
        pass
plain = http.server.ThreadingHTTPServer((address, 8000), Handler)
threading.Thread(target=plain.serve_forever, daemon=True).start()
secure = http.server.ThreadingHTTPServer((address, 8443), Handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
secure.socket = context.wrap_socket(secure.socket, server_side=True)
secure.serve_forever()
"""


def certificate(host: str) -> tuple[bytes, bytes]:
    """Return a self-signed certificate for a host, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return signed.public_bytes(serialization.Encoding.PEM), private


class Network:
    """Two pods behind services, in a namespace of their own.

    Args:
        sandbox: where they are.
        namespace: of their own.
    """

    def __init__(self, sandbox: Sandbox, namespace: str) -> None:
        self.sandbox = sandbox
        self.namespace = namespace
        proxy = sandbox.environment["SLIPWAY_CLUSTER_PROXY"]
        self.through = httpx.Client(proxy=proxy, trust_env=False, timeout=60)

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        done = self.sandbox.kubectl("-n", self.namespace, *args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, *manifests: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("create", "--validate=ignore", "-f", "-", stdin=json.dumps(items))

    def get(self, *what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *what, "-o", "json"))
        return found

    def says(self, host: str) -> str:
        """Return what answers at a host of the cluster, for a process of this machine."""
        answer = self.through.get(f"http://{host}/")
        assert answer.status_code == 200, answer.text
        return answer.text

    def everybody(self, host: str) -> set[str]:
        """Return the pods that answered one of several requests."""
        return {self.says(host) for _ in range(4)}

    def addresses(self) -> dict[str, str]:
        pods = self.get("pods")["items"]
        return {item["metadata"]["name"]: item["status"]["podIP"] for item in pods}


def pod(sandbox: Sandbox, name: str) -> dict[str, Any]:
    image = f"127.0.0.1:{sandbox.home.port('registry')}/{SIMULATED}:{BASE_TAG}"
    fields = {"POD_IP": "status.podIP", "POD_NAME": "metadata.name"}
    main = {
        "name": "main",
        "image": image,
        "command": ["python3", "-c", SERVER],
        "env": [
            {"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for key, path in fields.items()
        ],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [main],
            "volumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
        },
    }


def service(name: str, ports: dict[int, int], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": "web"},
            "ports": [
                {"name": f"p{port}", "port": port, "targetPort": target}
                for port, target in ports.items()
            ],
            **spec,
        },
    }


PODS = {"web-1", "web-2"}


@pytest.fixture(scope="module")
def network(sandbox: Sandbox) -> Iterator[Network]:
    found = Network(sandbox, f"net-{uuid.uuid4().hex[:8]}")
    assert sandbox.kubectl("create", "namespace", found.namespace).returncode == 0
    account = ("-n", found.namespace, "get", "serviceaccount", "default")
    eventually(lambda: sandbox.kubectl(*account).returncode == 0)
    public, private = certificate(f"web.{found.namespace}.svc")
    files = {"tls.crt": public, "tls.key": private}
    found.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "tls"},
            "data": {name: base64.b64encode(data).decode() for name, data in files.items()},
        },
        *(pod(sandbox, name) for name in sorted(PODS)),
        service("web", {80: 8000, 443: 8443}),
        service("headless", {80: 8000}, clusterIP="None"),
    )
    ready = ("wait", "pods", "--all", "--for=condition=Ready", "--timeout=180s")
    found.kubectl(*ready)
    eventually(lambda: all(_endpoints(found, name) == 2 for name in ("web", "headless")))
    yield found
    found.through.close()
    assert sandbox.kubectl("delete", "namespace", found.namespace, "--wait=false").returncode == 0


def _endpoints(network: Network, service: str) -> int:
    slices = network.get("endpointslices", "-l", f"kubernetes.io/service-name={service}")["items"]
    return sum(
        bool(endpoint["conditions"]["ready"])
        for one in slices
        for endpoint in one.get("endpoints") or []
    )


def eventually(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S} s"
        time.sleep(0.1)


def test_service_is_reached_by_name_and_by_address(network: Network) -> None:
    address = network.get("service", "web")["spec"]["clusterIP"]
    for host in (f"web.{network.namespace}", f"web.{network.namespace}.svc.cluster.local", address):
        assert network.everybody(host) == PODS


def test_headless_service_is_reached_at_the_port_of_its_pods(network: Network) -> None:
    assert network.everybody(f"headless.{network.namespace}:8000") == PODS


def test_each_pod_is_reached_at_its_own_address(network: Network) -> None:
    addresses = network.addresses()
    assert set(addresses) == PODS
    for name, address in addresses.items():
        assert network.says(f"{address}:8000") == name


def test_api_server_passes_requests_on_to_pods_and_services(network: Network) -> None:
    base = f"/api/v1/namespaces/{network.namespace}"
    assert network.kubectl("get", "--raw", f"{base}/pods/web-1:8000/proxy/") == "web-1"
    assert network.kubectl("get", "--raw", f"{base}/services/web:80/proxy/") in PODS


def test_api_server_reaches_every_node(network: Network) -> None:
    for node in network.get("nodes")["items"]:
        path = f"/api/v1/nodes/{node['metadata']['name']}/proxy/healthz"
        assert network.kubectl("get", "--raw", path) == "ok"


def test_webhook_in_a_pod_decides_what_the_api_server_admits(network: Network) -> None:
    secret = network.get("secret", "tls")
    hook = {
        "name": "web.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {
            "caBundle": secret["data"]["tls.crt"],
            "service": {"name": "web", "namespace": network.namespace, "path": "/", "port": 443},
        },
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": network.namespace}},
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["configmaps"],
            }
        ],
    }
    network.create(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": network.namespace},
            "webhooks": [hook],
        }
    )
    create = ("-n", network.namespace, "create", "configmap")
    try:
        # The API server uses a new webhook after a moment.
        eventually(lambda: "refused by web-" in network.sandbox.kubectl(*create, "no-1").stderr)
        assert network.sandbox.kubectl(*create, "no-2").returncode != 0
        assert network.sandbox.kubectl(*create, "yes").returncode == 0
    finally:
        network.kubectl("delete", "validatingwebhookconfiguration", network.namespace)
