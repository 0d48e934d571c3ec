"""What the network's contract tests need: echo servers on pod addresses, an API server, clients."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import yaml


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)


@dataclass(slots=True)
class ToyApi:
    """Answers what the proxy asks of an API server, from `services` and `slices`."""

    port: int = 0
    services: dict[str, dict[str, object]] = field(default_factory=dict)
    slices: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(
        self, namespace: str, name: str, address: str, endpoints: list[tuple[str, bool]], port: int
    ) -> None:
        self.services[f"{namespace}/{name}"] = {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}]},
        }
        self.slices[f"{namespace}/{name}"] = [
            {
                "ports": [{"name": "http", "port": port}],
                "endpoints": [
                    {"addresses": [one], "conditions": {"ready": ready}} for one, ready in endpoints
                ],
            }
        ]

    def answer(self, path: str) -> dict[str, object] | None:
        self.asked.append(path)
        where, _, query = path.partition("?")
        parts = where.strip("/").split("/")
        if where == "/api/v1/services":
            wanted = query.replace("%3D", "=").replace("%2F", "/").partition("spec.clusterIP=")[2]
            found = [
                one
                for one in self.services.values()
                if f'"clusterIP": "{wanted}"' in json.dumps(one)
            ]
            return {"items": found}
        if "endpointslices" in where:
            name = query.replace("%2F", "/").replace("%3D", "=").partition("service-name=")[2]
            return {"items": self.slices.get(f"{parts[4]}/{name}", [])}
        return self.services.get(f"{parts[3]}/{parts[5]}") if len(parts) == 6 else None


@contextlib.contextmanager
def toy_api(kubeconfig: Path) -> Iterator[ToyApi]:
    """Serve the API over plain http and write its kubeconfig."""
    api = ToyApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        token: ClassVar[str] = "Bearer secret"

        def do_GET(self) -> None:
            answer = api.answer(self.path) if self.headers["Authorization"] == self.token else None
            body = json.dumps(answer or {}).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # the proxy keeps its connection open

    with Server(("127.0.0.1", 0), Handler) as server:
        api.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
        }
        kubeconfig.write_text(yaml.safe_dump(config))
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def echo_pod(address: str, port: int = 0) -> Iterator[int]:
    """Listen on a pod's address; echo what comes after the greeting until its end, then say bye."""
    with socket.create_server((address, port), backlog=1024) as server:
        stop = threading.Event()

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.sendall(f"{address}\n".encode())
                while data := connection.recv(65536):
                    connection.sendall(data)
                connection.sendall(b"bye")

        def accept() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError, OSError):
                    connection, _ = server.accept()
                    connection.settimeout(30)
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        server.settimeout(0.1)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@dataclass(frozen=True, slots=True)
class ToyProxy:
    """One egress proxy process."""

    port: int
    path: Path
    log: Path
    process: subprocess.Popen[bytes]

    def tunnel(self, target: str, *, unix: bool = False) -> tuple[socket.socket, str]:
        """Ask for a tunnel and return the connection with the status line."""
        if unix:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(10)
            connection.connect(str(self.path))
        else:
            connection = socket.create_connection(("127.0.0.1", self.port), 10)
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            if not byte:
                break
            head += byte
        return connection, head.split(b"\r\n")[0].decode()

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@contextlib.contextmanager
def toy_proxy(folder: Path, kubeconfig: Path) -> Iterator[ToyProxy]:
    port, path, log = free_port(), folder / "egress.sock", folder / "egress.log"
    command = [
        *(sys.executable, "-m", "slipway.sandbox.network.egress", "--socket", str(path)),
        *("--listen", f"127.0.0.1:{port}", "--kubeconfig", str(kubeconfig)),
    ]
    with log.open("wb") as file:
        environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9"}
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        wait_for_port(port)
        yield ToyProxy(port, path, log, process)
    finally:
        process.terminate()
        process.wait(10)
