"""A running fault process before toy servers, and clients that see what arrives on the wire."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from slipway.sandbox.faults.client import add_fault, remove_faults
from slipway.sandbox.faults.model import Fault, Kind, parse_target
from slipway.sandbox.faults.paths import socket_path
from tests.contract.network_toys import free_port


class ToyServer(BaseHTTPRequestHandler):
    """GET /N answers N bytes of a known pattern; PUT answers the digest of what it was sent."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(pattern(int(self.path.strip("/") or 0)))

    def do_PUT(self) -> None:
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            data = self.rfile.read(min(left, 65536))
            digest.update(data)
            left -= len(data)
        self._answer(digest.hexdigest().encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Token", self.headers.get("Authorization", ""))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        return


class QuietServer(ThreadingHTTPServer):
    """Does not print that a client broke its connection: that is what the tests do."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        begun = b""
        with contextlib.suppress(OSError):
            begun = request.recv(1, socket.MSG_PEEK)
        if not begun:  # a peer that is gone already makes `wrap_socket` leave its socket open
            return
        with self.tls.wrap_socket(request, server_side=True) as inside:
            super().finish_request(inside, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        return


def pattern(count: int) -> bytes:
    """Return `count` bytes that show where a piece is missing or doubled."""
    block = b"".join(number.to_bytes(4, "big") for number in range(16384))
    return (block * (count // len(block) + 1))[:count]


@contextlib.contextmanager
def toy_server() -> Iterator[QuietServer]:
    with QuietServer(("127.0.0.1", 0), ToyServer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass(slots=True)
class Faulty:
    """One fault process with doors by name."""

    run: Path
    ports: dict[str, int]
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline_s = time.monotonic() + 20
        while not _accepts(socket_path(self.run)):
            ended = self.process.poll() is not None
            assert not ended, self.log.read_text()
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(10) == 0
        assert "Traceback" not in self.log.read_text(), self.log.read_text()

    def add(self, target: str, kind: Kind, lasts_s: float = 0.0, **values: float) -> str:
        fault = Fault(id="", target=parse_target(target), kind=kind, **values)  # type: ignore[arg-type]  # by name
        return add_fault(self.run, fault, lasts_s).faults[0].id

    def mend(self, *ids: str) -> None:
        remove_faults(self.run, ids)

    def connect(self, name: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[name]), 20)

    def http(self, name: str) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.ports[name], timeout=20)

    def get(self, name: str, path: str = "/4") -> int:
        """Ask once on a connection of its own; return the status."""
        with contextlib.closing(self.http(name)) as client:
            client.request("GET", path)
            answer = client.getresponse()
            answer.read()
            return answer.status


@contextlib.contextmanager
def faulty(folder: Path, inner: dict[str, int], pki: Path | None = None) -> Iterator[Faulty]:
    """Run the fault process with a door before every server of `inner`, name → port."""
    run = folder / "run"
    run.mkdir()
    ports = {name: free_port() for name in inner}
    command = [
        *(sys.executable, "-m", "slipway.sandbox.faults", "--run", str(run)),
        *(w for name in inner for w in ("--door", f"{name}:{ports[name]}:{inner[name]}")),
        *("--kubeconfig", str(folder / "kubeconfig"), "--pki", str(pki or folder)),
        *("--filer", f"http://127.0.0.1:{inner.get('s3', 9)}"),
    ]
    made = Faulty(run, ports, command, folder / "faults.log")
    made.start()
    try:
        yield made
        made.stop()
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait(10)


def read_to_end(connection: socket.socket) -> tuple[bytes, bool]:
    """Return what arrives until the end, and whether the end was a reset."""
    found = bytearray()
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:
        return bytes(found), True
    return bytes(found), False


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fspath(path)) == 0
