"""The gateway as Istio programs it: split, streams, evidence, and changes under traffic.

The model servers here are two threads of this process on pod addresses, announced by Services with
hand-written EndpointSlices: the tests know the truth about every answer.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from slipway.adapters.access_log import read_rows
from slipway.core.traffic import AccessRow, failures
from slipway.sandbox.parts import gateway as gateway_part
from tests.e2e.conftest import Sandbox

NAMESPACE = "gateway-test"
HOST = "gateway-test.example"
FIRST_TOKEN_S = 0.2
# Pod addresses that no node gives out: what the API shows, and where the process listens.
SERVERS = {"blue": ("100.100.9.1", "127.100.9.1"), "green": ("100.100.9.2", "127.100.9.2")}


class Model(BaseHTTPRequestHandler):
    """Streams one event every 100 ms for as many as `?events=` asks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/stream"):
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._chunk('data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n')
        time.sleep(FIRST_TOKEN_S)
        for _ in range(int(self.path.partition("events=")[2])):
            self._chunk('data: {"choices":[{"delta":{"content":"x"}}]}\n\n')
            time.sleep(0.1)
        if "cut" in self.path:
            self.close_connection = True
            return
        self._chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text.encode()))
        self.wfile.flush()


@dataclass(frozen=True)
class Models:
    """Two services behind the gateway, and what may be done with their route."""

    sandbox: Sandbox
    client: httpx.Client = field(repr=False)

    def route(self, blue: int) -> None:
        """Give `blue` percent of the requests to blue, and wait until the gateway does so."""
        revision = uuid.uuid4().hex[:8]
        apply(self.sandbox, virtual_service(blue, revision))
        deadline_s = time.monotonic() + 5
        while self.client.get("/").headers.get("x-slipway-route") != revision:
            assert time.monotonic() < deadline_s, "the route did not arrive"
            time.sleep(0.005)

    def rows(self, mark: str, count: int) -> list[AccessRow]:
        """Return the rows of the requests with that session, once there are `count`."""
        log = gateway_part.access_log(self.sandbox.home)
        deadline_s = time.monotonic() + 5
        while True:
            found = [row for row in read_rows(log) if row.session_id == mark]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline_s, f"{len(found)} rows of {count}"
            time.sleep(0.05)

    def stream(self, path: str, mark: str) -> bytes:
        return self.client.get(path, headers={"x-session-id": mark}).content


@pytest.fixture(scope="module")
def models(sandbox: Sandbox) -> Iterator[Models]:
    servers = {
        slot: ThreadingHTTPServer((address, 0), Model) for slot, (_, address) in SERVERS.items()
    }
    for server in servers.values():
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    apply(sandbox, namespace)
    for slot, server in servers.items():
        for document in service(slot, server.server_port):
            apply(sandbox, document)
    client = httpx.Client(
        base_url=sandbox.gateway_url, headers={"host": HOST}, trust_env=False, timeout=30
    )
    with client:
        made = Models(sandbox, client)
        made.route(blue=100)
        yield made
    assert sandbox.kubectl("delete", "namespace", NAMESPACE, "--wait=false").returncode == 0
    for server in servers.values():
        server.shutdown()
        server.server_close()


def apply(sandbox: Sandbox, document: dict[str, Any]) -> None:
    done = sandbox.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
    assert done.returncode == 0, done.stderr


def service(slot: str, port: int) -> tuple[dict[str, Any], dict[str, Any]]:
    shown, _ = SERVERS[slot]
    return (
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": slot, "namespace": NAMESPACE},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": slot,
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": slot},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [shown], "conditions": {"ready": True}}],
        },
    )


def virtual_service(blue: int, revision: str) -> dict[str, Any]:
    def destination(slot: str, weight: int) -> dict[str, Any]:
        return {
            "destination": {"host": f"{slot}.{NAMESPACE}.svc.cluster.local"},
            "weight": weight,
            "headers": {"response": {"set": {"x-slipway-slot": slot}}},
        }

    routes = [destination("blue", blue), destination("green", 100 - blue)]
    rule = {
        "name": "weighted",
        "route": [route for route in routes if route["weight"]],
        "headers": {"response": {"set": {"x-slipway-route": revision}}},
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "models", "namespace": NAMESPACE},
        "spec": {"hosts": [HOST], "gateways": ["istio-ingress/slipway-gateway"], "http": [rule]},
    }


def test_streamed_answer_leaves_its_token_times_in_the_log(models: Models) -> None:
    models.route(blue=100)
    models.client.get(
        "/stream?events=5", headers={"x-session-id": "tokens", "x-slipway-purpose": "smoke"}
    )
    (row,) = models.rows("tokens", 1)
    assert row.ttft_us is not None
    assert FIRST_TOKEN_S * 1e6 <= row.ttft_us < FIRST_TOKEN_S * 1e6 + 150_000
    assert row.itl_us is not None
    assert 95_000 <= row.itl_us < 150_000
    assert (row.token_events, row.done_seen, row.failed) == (5, True, False)
    assert (row.route, row.slot, row.purpose) == ("weighted", "blue", "smoke")
    assert row.service == f"blue.{NAMESPACE}.svc.cluster.local"
    assert row.pod.startswith("127.100.9.1:")


def test_stream_cut_by_its_server_is_seen_as_truncated(models: Models) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        models.stream("/stream?cut&events=2", "cut")
    (row,) = models.rows("cut", 1)
    assert (row.truncated, row.token_events, row.done_seen) == (True, 2, False)


def test_weights_split_the_requests(models: Models) -> None:
    models.route(blue=80)
    for _ in range(300):
        models.client.get("/", headers={"x-session-id": "split"})
    green = sum(row.slot == "green" for row in models.rows("split", 300))
    assert 30 <= green <= 92  # 60 expected, ± 4.5 standard deviations


def test_flipped_weights_fail_no_request_and_cut_no_stream(models: Models) -> None:
    models.route(blue=100)
    stop = threading.Event()
    streams: list[bytes] = []

    def ask() -> None:
        with httpx.Client(
            base_url=models.sandbox.gateway_url, headers={"host": HOST}, trust_env=False
        ) as client:
            while not stop.is_set():
                client.get("/", headers={"x-session-id": "flips"})

    def listen() -> None:
        streams.append(models.stream("/stream?events=30", "flips"))

    threads = [threading.Thread(target=work) for work in (ask, ask, listen, listen)]
    with running(threads, stop.set):
        for turn in range(20):
            models.route(blue=100 if turn % 2 else 0)
    rows = models.rows("flips", 200)
    assert failures(rows) == ()
    assert {row.slot for row in rows} == {"blue", "green"}
    assert [stream.endswith(b"data: [DONE]\n\n") for stream in streams] == [True, True]


def test_changed_listener_cuts_no_stream(models: Models) -> None:
    models.route(blue=100)
    streams: list[bytes] = []
    path = "/stream?events=30"
    thread = threading.Thread(target=lambda: streams.append(models.stream(path, "listener")))
    header = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "suite", "namespace": gateway_part.NAMESPACE},
        "spec": {
            "workloadSelector": {"labels": gateway_part.LABELS},
            "configPatches": [server_name("suite")],
        },
    }
    with running([thread], lambda: None):
        time.sleep(0.5)
        apply(models.sandbox, header)
        deadline_s = time.monotonic() + 5
        while httpx.get(models.sandbox.gateway_url, trust_env=False).headers["server"] != "suite":
            assert time.monotonic() < deadline_s, "the listener did not change"
        assert thread.is_alive(), "the stream ended too early to prove anything"
    deleted = models.sandbox.kubectl(
        "delete", "envoyfilter", "suite", "--namespace", gateway_part.NAMESPACE
    )
    assert deleted.returncode == 0
    assert streams[0].endswith(b"data: [DONE]\n\n")


def test_long_answers_have_no_time_limit(models: Models) -> None:
    admin = f"http://127.0.0.1:{models.sandbox.home.port('gateway-admin')}"
    dump = httpx.get(f"{admin}/config_dump", trust_env=False).json()
    routes = list(found(dump, lambda node: node.get("name") == "weighted" and "route" in node))
    assert routes
    for route in routes:
        assert route["route"]["timeout"] == "0s"
        assert route["route"].get("max_stream_duration", {}).get("max_stream_duration") in {
            None,
            "0s",
        }
    managers = list(found(dump, lambda node: node.get("stat_prefix", "").startswith("outbound_")))
    assert managers
    for manager in managers:
        assert manager["stream_idle_timeout"] == "0s"
        assert "max_stream_duration" not in manager.get("common_http_protocol_options", {})


def server_name(name: str) -> dict[str, Any]:
    manager = "envoy.filters.network.http_connection_manager"
    kind = f"{manager}.v3.HttpConnectionManager".replace("filters", "extensions.filters")
    return {
        "applyTo": "NETWORK_FILTER",
        "match": {
            "context": "GATEWAY",
            "listener": {"filterChain": {"filter": {"name": manager}}},
        },
        "patch": {
            "operation": "MERGE",
            "value": {
                "typed_config": {
                    "@type": f"type.googleapis.com/{kind}",
                    "server_name": name,
                    "server_header_transformation": "OVERWRITE",
                }
            },
        },
    }


def found(node: Any, wanted: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if wanted(node):
            yield node
        for child in node.values():
            yield from found(child, wanted)
    elif isinstance(node, list):
        for child in node:
            yield from found(child, wanted)


class running:  # noqa: N801  # reads as a word in a with statement
    """Run threads beside the body; stop and join them at its end."""

    def __init__(self, threads: list[threading.Thread], stop: Callable[[], None]) -> None:
        self._threads = threads
        self._stop = stop

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_raised: object) -> None:
        self._stop()
        for thread in self._threads:
            thread.join()
