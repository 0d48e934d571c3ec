"""What a pod network and an HTTP proxy promise, each rule with its source."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.contract.network_toys import ToyApi, ToyProxy, echo_pod, free_port, toy_api, toy_proxy

ONE, TWO = "127.100.8.2", "127.100.8.3"
SHOWN_ONE, SHOWN_TWO = "100.100.8.2", "100.100.8.3"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyApi]:
    with toy_api(tmp_path_factory.getbasetemp() / "kubeconfig") as started:
        yield started


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, api: ToyApi) -> Iterator[ToyProxy]:
    folder = tmp_path_factory.mktemp("p")
    with toy_proxy(folder, tmp_path_factory.getbasetemp() / "kubeconfig") as started:
        yield started


def greeting(connection: socket.socket) -> str:
    with connection:
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    return data.decode()


@pytest.mark.parametrize("unix", [True, False], ids=["unix", "tcp"])
def test_pod_is_reached_at_the_address_the_api_shows(proxy: ToyProxy, *, unix: bool) -> None:
    """Kubernetes EgressSelectorConfiguration, HTTPConnect: `CONNECT address:port`."""
    with echo_pod(ONE) as port:
        connection, status = proxy.tunnel(f"{SHOWN_ONE}:{port}", unix=unix)
        assert status.startswith("HTTP/1.1 200 ")
        assert greeting(connection) == f"{ONE}\nbye"


def test_node_name_means_this_machine(proxy: ToyProxy) -> None:
    """The API server dials kubelets by node name or address."""
    with echo_pod("127.0.0.1") as port:
        connection, _ = proxy.tunnel(f"node-a:{port}", unix=True)
        assert greeting(connection).startswith("127.0.0.1\n")


def test_half_close_ends_one_direction_only(proxy: ToyProxy) -> None:
    """RFC 9110 §9.3.6: a tunnel is closed when either side closed *and* all data were passed on."""
    payload = bytes(range(256)) * 4096
    with echo_pod(ONE) as port:
        connection, _ = proxy.tunnel(f"{SHOWN_ONE}:{port}")
        received = bytearray()

        def receive() -> None:
            while chunk := connection.recv(65536):
                received.extend(chunk)

        reader = threading.Thread(target=receive)
        reader.start()
        connection.sendall(payload)
        connection.shutdown(socket.SHUT_WR)
        reader.join(10)
        connection.close()
        assert bytes(received) == f"{ONE}\n".encode() + payload + b"bye"


def test_bytes_sent_right_after_the_head_are_not_lost(proxy: ToyProxy) -> None:
    """A client may send before it read the answer."""
    with echo_pod(ONE) as port, socket.create_connection(("127.0.0.1", proxy.port), 10) as sent:
        sent.sendall(f"CONNECT {SHOWN_ONE}:{port} HTTP/1.1\r\n\r\nearly".encode())
        assert greeting(sent).endswith("earlybye")


@pytest.mark.parametrize(
    "name",
    ["echo.serving", "echo.serving.svc", "echo.serving.svc.cluster.local", "10.96.7.7"],
)
def test_service_is_reached_through_its_ready_endpoints_in_turn(
    proxy: ToyProxy, api: ToyApi, name: str
) -> None:
    """Kubernetes, "DNS for Services"; EndpointSlice conditions: only ready ones get traffic."""
    with echo_pod(ONE) as port, echo_pod(TWO, port):
        api.add(
            *("serving", "echo", "10.96.7.7"),
            [(SHOWN_ONE, True), (SHOWN_TWO, True), ("100.100.8.9", False)],
            port,
        )
        time.sleep(1.1)  # what an earlier case asked is forgotten
        seen = {greeting(proxy.tunnel(f"{name}:80")[0]) for _ in range(4)}
        assert seen == {f"{ONE}\nbye", f"{TWO}\nbye"}


def test_headless_service_is_its_ready_pods_on_whatever_port_is_asked_for(
    proxy: ToyProxy, api: ToyApi
) -> None:
    """Kubernetes, "DNS for Services": the name is the pods' addresses; no port is translated."""
    with echo_pod(ONE) as port, echo_pod(TWO, port):
        endpoints = [(SHOWN_ONE, True), (SHOWN_TWO, True), ("100.100.8.9", False)]
        api.add("serving", "headless", "None", endpoints, 8000)
        seen = {greeting(proxy.tunnel(f"headless.serving.svc:{port}")[0]) for _ in range(4)}
        assert seen == {f"{ONE}\nbye", f"{TWO}\nbye"}


def test_port_of_a_service_becomes_the_port_of_its_pods(proxy: ToyProxy, api: ToyApi) -> None:
    """Kubernetes, "Service": port and targetPort; a port that it does not state is refused."""
    with echo_pod(ONE) as port:
        api.add("serving", "ported", "10.96.7.9", [(SHOWN_ONE, True)], port)
        assert greeting(proxy.tunnel("ported.serving:80")[0]) == f"{ONE}\nbye"
        assert " 403 " in _refusal(proxy, f"ported.serving:{port}")[1]


def test_service_is_asked_for_once_a_second_not_once_a_connection(
    proxy: ToyProxy, api: ToyApi
) -> None:
    with echo_pod(ONE) as port:
        api.add("serving", "busy", "10.96.7.8", [(SHOWN_ONE, True)], port)
        api.asked.clear()
        for _ in range(20):
            greeting(proxy.tunnel("busy.serving:80")[0])
        assert 0 < len(api.asked) <= 4


def test_api_service_is_the_api_server_itself(proxy: ToyProxy, api: ToyApi) -> None:
    """`kubernetes.default.svc`: the sandbox's API server writes no endpoints for itself."""
    spec = {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}
    metadata = {"name": "kubernetes", "namespace": "default"}
    api.services["default/kubernetes"] = {"metadata": metadata, "spec": spec}
    connection, status = proxy.tunnel("kubernetes.default.svc:443")
    assert " 200 " in status
    connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert greeting(connection).startswith("HTTP/1.1 404")


def test_service_without_a_ready_endpoint_is_503(proxy: ToyProxy, api: ToyApi) -> None:
    api.add("serving", "idle", "10.96.7.9", [(SHOWN_ONE, False)], 8000)
    _, status = _refusal(proxy, "idle.serving:80")
    assert status == "HTTP/1.1 503 Service Unavailable"


def test_pod_that_does_not_listen_is_502(proxy: ToyProxy) -> None:
    text, status = _refusal(proxy, f"{SHOWN_TWO}:{free_port()}")
    assert status == "HTTP/1.1 502 Bad Gateway"
    assert TWO in text


@pytest.mark.parametrize("host", ["8.8.8.8", "www.example.com", "example.com", "100.101.1.1"])
def test_anything_outside_is_refused_with_403_and_logged(proxy: ToyProxy, host: str) -> None:
    """DESIGN §6: everything on 127.0.0.0/8; nothing of ours dials outside."""
    _, status = _refusal(proxy, f"{host}:443")
    assert status == "HTTP/1.1 403 Forbidden"
    assert f"refused: CONNECT {host}:443: " in proxy.log.read_text()


def test_request_for_a_web_server_is_400(proxy: ToyProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert greeting(connection).startswith("HTTP/1.1 400 Bad Request")


def test_endless_head_is_refused(proxy: ToyProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        connection.sendall(b"GET http://a.b/ HTTP/1.1\r\n" + b"X: y\r\n" * 20000)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_plain_http_request_is_passed_on_in_origin_form(proxy: ToyProxy) -> None:
    """RFC 9112 §3.2.1 and §3.2.2: origin form to the server, Host from the URL."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.extend((self.path, self.headers["Host"], body.decode()))
            self.send_response(201)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"done")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            return

    with ThreadingHTTPServer((ONE, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        host = f"{SHOWN_ONE}:{server.server_address[1]}"
        client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        client.request("POST", f"http://{host}/v1/x?q=1", body="hello", headers={"Host": "other"})
        response = client.getresponse()
        assert (response.status, response.read()) == (201, b"done")
        client.close()
        server.shutdown()
        thread.join()
    assert seen == ["/v1/x?q=1", host, "hello"]


def test_thousands_of_connections_leave_nothing_open(proxy: ToyProxy) -> None:
    """A proxy that runs for weeks may not keep a descriptor a connection."""
    with echo_pod(ONE) as port:
        greeting(proxy.tunnel(f"{SHOWN_ONE}:{port}")[0])
        before = proxy.descriptors()
        for number in range(2000):
            connection, _ = proxy.tunnel(f"{SHOWN_ONE}:{port}", unix=number % 2 == 0)
            if number % 3 == 0:
                greeting(connection)
            elif number % 3 == 1:  # a reset
                option = b"\x01\0\0\0\0\0\0\0"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                connection.close()
            else:
                connection.close()
        deadline_s = time.monotonic() + 5
        while proxy.descriptors() > before + 2 and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert proxy.descriptors() <= before + 2
        log = proxy.log.read_text()
        assert "Traceback" not in log
        assert "never retrieved" not in log


def test_proxy_starts_before_the_cluster_exists(tmp_path: Path) -> None:
    """The API server needs the proxy before there is a kubeconfig that works."""
    with toy_proxy(tmp_path, tmp_path / "later") as proxy:
        assert _refusal(proxy, "echo.serving:80")[1] == "HTTP/1.1 502 Bad Gateway"
        with toy_api(tmp_path / "later") as api, echo_pod(ONE) as port:
            api.add("serving", "echo", "10.96.7.7", [(SHOWN_ONE, True)], port)
            assert greeting(proxy.tunnel("echo.serving:80")[0]) == f"{ONE}\nbye"


def _refusal(proxy: ToyProxy, target: str) -> tuple[str, str]:
    connection, status = proxy.tunnel(target)
    return greeting(connection), status
