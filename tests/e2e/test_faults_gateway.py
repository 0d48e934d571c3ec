"""Faults between the gateway and pods: Envoy sees them as the pod's own, and nobody else does.

The pods are threads of this process on pod addresses, as in `test_gateway`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from slipway.adapters.access_log import read_rows
from slipway.core.traffic import AccessRow
from slipway.sandbox.faults.client import active_faults
from slipway.sandbox.faults.gateway import add_and_wait, remove_and_wait
from slipway.sandbox.faults.model import Fault, Kind, parse_target
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
    port: int
    client: httpx.Client = field(repr=False)

    def fault(self, target: str, kind: Kind, **values: Any) -> str:
        """Put a fault on a service of this namespace; return its id."""
        where = parse_target(f"service/{target}/{NAMESPACE}")
        fault = Fault(id="", target=where, kind=kind, **values)
        return add_and_wait(self.sandbox.home, fault).faults[0].id

    def mend(self) -> None:
        mine = active_faults(self.sandbox.home.run)
        ids = [one.id for one in mine if one.target.namespace == NAMESPACE]
        if ids:
            remove_and_wait(self.sandbox.home, ids)

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
        fleet = Fleet(sandbox, port, client)
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
    deployed.mend()
    deadline_s = time.monotonic() + 30  # for whoever was ejected
    while set(deployed.ask("after", 10)) != {200}:
        assert time.monotonic() < deadline_s


def endpoint_slice(port: int, service: str, *tails: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": service,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [f"100.100.{tail}"], "conditions": {"ready": True}} for tail in tails
        ],
    }


def objects(port: int) -> tuple[dict[str, Any], ...]:
    about = {"name": "fleet", "namespace": NAMESPACE}
    host = f"fleet.{NAMESPACE}.svc.cluster.local"
    # istiod leaves out an endpoint whose pod it does not know, so these name none: a fault on one
    # of them is put on a service of its own, which has this endpoint only.
    slices = [
        endpoint_slice(port, "fleet", *PODS.values()),
        *(endpoint_slice(port, name, tail) for name, tail in PODS.items()),
    ]
    outliers = {
        "consecutive5xxErrors": EJECT_AFTER,
        "interval": "200ms",
        "baseEjectionTime": "1s",
        "maxEjectionPercent": 50,
        "minHealthPercent": 1,  # as in `slipway.manifests.routes.istio`
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
        *slices,
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
    fleet.fault("pod-2", Kind.ERROR, status=503)
    mark = fleet.mark()
    asked = failed = 0
    deadline_s = time.monotonic() + 60
    while (statuses := fleet.ask(mark, 12)) != [200] * 12:  # each pod in turn: one is left out
        asked += 12
        failed += statuses.count(503)
        assert time.monotonic() < deadline_s
    rows = [row for row in fleet.rows(mark, asked + 12) if row.status == 503]
    assert len(rows) == failed >= EJECT_AFTER
    assert {row.pod.rpartition(":")[0] for row in rows} == {"127.101.9.12"}
    assert {row.details for row in rows} == {"via_upstream"}


def test_last_pod_is_asked_though_it_was_ejected(fleet: Fleet) -> None:
    rule = next(one for one in objects(fleet.port) if one["kind"] == "DestinationRule")
    ejecting = deepcopy(rule)
    ejecting["spec"]["trafficPolicy"]["outlierDetection"]["baseEjectionTime"] = "30s"
    mark = fleet.mark()
    deadline_s = time.monotonic() + 60
    try:
        apply(fleet.sandbox, ejecting)
        fleet.fault("pod-2", Kind.ERROR, status=503)
        while fleet.ask(mark, 24) != [200] * 24:
            assert time.monotonic() < deadline_s
        apply(fleet.sandbox, endpoint_slice(fleet.port, "fleet", PODS["pod-2"]))
        while set(fleet.ask(mark, 6)) != {503}:
            assert time.monotonic() < deadline_s
        alone = fleet.mark()
        assert fleet.ask(alone, 20) == [503] * 20
        assert {row.details for row in fleet.rows(alone, 20)} == {"via_upstream"}
    finally:
        apply(fleet.sandbox, rule)
        apply(fleet.sandbox, endpoint_slice(fleet.port, "fleet", *PODS.values()))


def test_reset_and_away_leave_their_own_flags(fleet: Fleet) -> None:
    flags = {}
    for kind in (Kind.RESET, Kind.AWAY):
        fleet.fault("pod-1", kind)
        mark = fleet.mark()
        fleet.ask(mark, 6)
        flags[kind] = {flag for row in fleet.rows(mark, 6) for flag in row.flags}
        fleet.mend()
    assert flags[Kind.RESET] & {"UC", "UR"}
    assert "UF" in flags[Kind.AWAY]


def test_cut_stream_is_seen_as_truncated(fleet: Fleet) -> None:
    fleet.fault("fleet", Kind.CUT, after_bytes=600)
    mark = fleet.mark()
    assert fleet.ask(mark, 1, "/stream?events=20") == [0]
    (row,) = fleet.rows(mark, 1)
    assert row.truncated
    assert not row.done_seen
    assert 1 <= row.token_events < 20


def test_slow_pod_is_slow_and_the_others_are_not(fleet: Fleet) -> None:
    fleet.fault("pod-3", Kind.LATENCY, latency_ms=800)
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
            fleet.fault("fleet", Kind.LATENCY, latency_ms=1)
            fleet.mend()
    assert statuses == {200}
    assert [stream.endswith(b"data: [DONE]\n\n") for stream in streams] == [True]
    doors = {row.pod.startswith("127.101.") for row in fleet.rows(mark, 50)}
    assert doors == {True, False}


def test_command_line_puts_shows_and_takes_back_a_fault(fleet: Fleet) -> None:
    cli = fleet.sandbox.run_cli
    target = f"service/fleet/{NAMESPACE}"
    added = cli("sandbox", "fault", "add", target, "error", "--share", "0.3", "--for", "600s")
    assert added.returncode == 0, added.stderr
    shown = cli("sandbox", "status")
    assert shown.returncode == 0, shown.stdout
    assert f"{target}  error: HTTP 503 for 30 %" in shown.stdout
    assert "s left" in shown.stdout
    removed = cli("sandbox", "fault", "remove", added.stdout.split()[0])
    assert removed.returncode == 0, removed.stderr
    assert set(fleet.ask(fleet.mark(), 20)) == {200}
    unknown = cli("sandbox", "fault", "add", "etcd", "error")
    assert unknown.returncode == 3
    assert "fault-target-unknown" in unknown.stderr
