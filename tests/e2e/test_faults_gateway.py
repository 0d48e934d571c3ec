"""Faults between the gateway and pods: Envoy sees them as the pod's own, and nobody else does.

The pods are threads of this process on pod addresses, as in `test_gateway`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from slipway.adapters.access_log import read_rows
from slipway.core.traffic import AccessRow
from slipway.sandbox.parts import gateway as gateway_part
from tests.e2e.conftest import Sandbox
from tests.e2e.test_gateway import Model, apply, running

NAMESPACE = "faults-test"
HOST = "faults-test.example"
PODS = {"pod-1": "9.11", "pod-2": "9.12", "pod-3": "9.13"}
EJECT_AFTER = 3


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


@dataclass(frozen=True)
class Fleet:
    """One service of three pods behind the gateway."""

    sandbox: Sandbox
    client: httpx.Client = field(repr=False)

    def fault(self, *args: str) -> str:
        done = self.sandbox.run_cli("sandbox", "fault", *args)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def mark(self) -> str:
        return uuid.uuid4().hex[:12]

    def ask(self, mark: str, count: int, path: str = "/") -> list[int]:
        """Return the statuses of `count` requests; 0 for one that broke."""
        found = []
        for _ in range(count):
            try:
                found.append(self.client.get(path, headers={"x-session-id": mark}).status_code)
            except httpx.TransportError:
                found.append(0)
        return found

    def rows(self, mark: str, count: int) -> list[AccessRow]:
        log = gateway_part.access_log(self.sandbox.home)
        deadline_s = time.monotonic() + 20
        while True:
            found = [row for row in read_rows(log) if row.session_id == mark]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline_s, f"{len(found)} rows of {count}"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def deployed(sandbox: Sandbox) -> Iterator[Fleet]:
    first = QuietServer(("127.100.9.11", 0), Model)
    port = first.server_port
    servers = [first] + [
        QuietServer((f"127.100.{tail}", port), Model) for tail in list(PODS.values())[1:]
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    for document in objects(port):
        apply(sandbox, document)
    headers = {"host": HOST}
    with httpx.Client(
        base_url=sandbox.gateway_url, headers=headers, trust_env=False, timeout=30
    ) as client:
        fleet = Fleet(sandbox, client)
        deadline_s = time.monotonic() + 20
        while fleet.ask("warm", 1) != [200]:
            assert time.monotonic() < deadline_s, "the route did not arrive"
        yield fleet
    sandbox.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def fleet(deployed: Fleet) -> Iterator[Fleet]:
    yield deployed
    listed = deployed.fault("list")
    mine = [line.split()[0] for line in listed.splitlines() if NAMESPACE in line]
    if mine:
        deployed.fault("remove", *mine)
    deadline_s = time.monotonic() + 30  # for whoever was ejected
    while set(deployed.ask("after", 10)) != {200}:
        assert time.monotonic() < deadline_s


def objects(port: int) -> tuple[dict[str, Any], ...]:
    about = {"name": "fleet", "namespace": NAMESPACE}
    host = f"fleet.{NAMESPACE}.svc.cluster.local"
    endpoints = [
        {
            "addresses": [f"100.100.{tail}"],
            "conditions": {"ready": True},
            "targetRef": {"kind": "Pod", "name": name, "namespace": NAMESPACE},
        }
        for name, tail in PODS.items()
    ]
    outliers = {
        "consecutive5xxErrors": EJECT_AFTER,
        "interval": "200ms",
        "baseEjectionTime": "1s",
        "maxEjectionPercent": 50,
    }
    rule = {"route": [{"destination": {"host": host}}], "retries": {"attempts": 0}}
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": about,
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**about, "labels": {"kubernetes.io/service-name": "fleet"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": endpoints,
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": about,
            "spec": {
                "host": host,
                "trafficPolicy": {
                    "outlierDetection": outliers,
                    "loadBalancer": {"simple": "ROUND_ROBIN"},
                },
            },
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": about,
            "spec": {
                "hosts": [HOST],
                "gateways": ["istio-ingress/slipway-gateway"],
                "http": [rule],
            },
        },
    )


def test_flaky_pod_answers_5xx_and_is_ejected(fleet: Fleet) -> None:
    fleet.fault("add", f"pod/pod-2/{NAMESPACE}", "error", "--status", "503")
    mark = fleet.mark()
    statuses = fleet.ask(mark, 60)
    failed = [row for row in fleet.rows(mark, 60) if row.status == 503]
    assert statuses.count(503) == len(failed) >= EJECT_AFTER
    assert {row.pod.rpartition(":")[0] for row in failed} == {"127.101.9.12"}
    assert {row.details for row in failed} == {"via_upstream"}
    assert len(failed) < 15  # a third of all, were it not ejected
    admin = f"http://127.0.0.1:{fleet.sandbox.home.port('gateway-admin')}"
    stats = httpx.get(f"{admin}/stats?filter=fleet.*ejections_total", trust_env=False).text
    assert int(stats.rpartition(": ")[2]) >= 1


def test_reset_cut_and_away_leave_their_own_flags(fleet: Fleet) -> None:
    pod = f"pod/pod-1/{NAMESPACE}"
    flags = {}
    for kind, more in (("reset", ()), ("away", ())):
        fault = fleet.fault("add", pod, kind, *more).split()[0]
        mark = fleet.mark()
        fleet.ask(mark, 6)
        flags[kind] = {flag for row in fleet.rows(mark, 6) for flag in row.flags}
        fleet.fault("remove", fault)
    assert flags["reset"] & {"UC", "UR"}
    assert "UF" in flags["away"]


def test_cut_stream_is_seen_as_truncated(fleet: Fleet) -> None:
    fleet.fault("add", f"service/fleet/{NAMESPACE}", "cut", "--after", "600")
    mark = fleet.mark()
    assert fleet.ask(mark, 1, "/stream?events=20") == [0]
    (row,) = fleet.rows(mark, 1)
    assert row.truncated
    assert not row.done_seen
    assert 1 <= row.token_events < 20


def test_slow_pod_is_slow_and_the_others_are_not(fleet: Fleet) -> None:
    fleet.fault("add", f"pod/pod-3/{NAMESPACE}", "latency", "--latency-ms", "800")
    mark = fleet.mark()
    fleet.ask(mark, 9)
    rows = fleet.rows(mark, 9)
    slow = [row.duration_ms for row in rows if row.pod.startswith("127.101.9.13:")]
    fast = [row.duration_ms for row in rows if not row.pod.startswith("127.101.9.13:")]
    assert min(slow) >= 800
    assert min(fast) < 800


def test_faults_that_come_and_go_fail_no_request_and_cut_no_stream(fleet: Fleet) -> None:
    stop, statuses, streams = threading.Event(), set[int](), list[bytes]()
    mark = fleet.mark()

    def ask() -> None:
        while not stop.is_set():
            statuses.update(fleet.ask(mark, 5))

    def listen() -> None:
        streams.append(fleet.client.get("/stream?events=60").content)

    with running([threading.Thread(target=work) for work in (ask, ask, listen)], stop.set):
        for _ in range(3):
            fleet.fault("add", f"service/fleet/{NAMESPACE}", "latency", "--latency-ms", "1")
            fault = fleet.fault("list").splitlines()[-1].split()[0]
            fleet.fault("remove", fault)
    assert statuses == {200}
    assert [stream.endswith(b"data: [DONE]\n\n") for stream in streams] == [True]
    doors = {row.pod.startswith("127.101.") for row in fleet.rows(mark, 50)}
    assert doors == {True, False}


def test_status_shows_what_is_wrong_on_purpose(fleet: Fleet) -> None:
    fleet.fault("add", f"service/fleet/{NAMESPACE}", "error", "--share", "0.3", "--for", "60s")
    shown = fleet.sandbox.run_cli("sandbox", "status")
    assert shown.returncode == 0, shown.stdout
    assert f"service/fleet/{NAMESPACE}  error: HTTP 503 for 30 %" in shown.stdout
    assert "s left" in shown.stdout
    stored = json.loads((fleet.sandbox.home.run / "faults.json").read_text())
    assert stored["active"]
