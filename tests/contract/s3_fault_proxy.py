"""Stands between a client and an S3 server, counts what passes, and does wrong what it is told."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>%s</Message></Error>"
_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})


class Wrong(Enum):
    """What goes wrong with one request."""

    BUSY = auto()
    TOO_MANY = auto()
    BROKEN = auto()
    RESET = auto()
    RESET_AFTERWARDS = auto()
    """The server has done it; the answer is lost."""
    SLOW = auto()
    FLIPPED_DOWN = auto()
    FLIPPED_UP = auto()
    OTHER_BODY = auto()
    CUT = auto()
    GOOD_WITH_ERROR = auto()
    EXPIRED = auto()
    SKEWED = auto()
    NO_BUCKET = auto()
    FULL = auto()


_STATUS = {
    Wrong.BUSY: (503, b"SlowDown"),
    Wrong.TOO_MANY: (429, b"TooManyRequests"),
    Wrong.BROKEN: (500, b"InternalError"),
    Wrong.GOOD_WITH_ERROR: (200, b"InternalError"),
    Wrong.EXPIRED: (400, b"ExpiredToken"),
    Wrong.SKEWED: (403, b"RequestTimeTooSkewed"),
    Wrong.NO_BUCKET: (404, b"NoSuchBucket"),
    Wrong.FULL: (507, b"XMinioStorageFull"),
}

Plan = Callable[[str, str], Wrong | None]
"""Method and path of a request → what goes wrong with it."""


@dataclass
class Proxy:
    """A running proxy.

    Args:
        plan: asked for each request; may be changed at any time.
        up_bytes: bodies of PUT that reached the server.
        down_bytes: bodies of GET that came from it.
    """

    endpoint: str
    plan: Plan = lambda _method, _path: None
    requests: list[tuple[str, str, Wrong | None]] = field(default_factory=list)
    up_bytes: int = 0
    down_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sometimes(self, share: float, kinds: tuple[Wrong, ...], seed: int) -> None:
        """Let a share of the requests go wrong, drawn by a seed."""
        rng = random.Random(seed)

        def plan(_method: str, _path: str) -> Wrong | None:
            return rng.choice(kinds) if rng.random() < share else None

        self.plan = plan

    def once(self, kind: Wrong, *, method: str, part: str, times: int = 1) -> None:
        """Let the next requests of a method whose path has a part in it go wrong."""
        left = [times]

        def plan(asked: str, path: str) -> Wrong | None:
            if asked == method and part in path and left[0] > 0:
                left[0] -= 1
                return kind
            return None

        self.plan = plan


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle_any(self) -> None:
        proxy = self.server.proxy
        with proxy.lock:
            wrong = proxy.plan(self.command, self.path)
            proxy.requests.append((self.command, self.path, wrong))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if wrong in _STATUS:
            status, code = _STATUS[wrong]
            self._answer(status, {"Content-Type": "application/xml"}, _ERROR % (code, code))
            return
        if wrong is Wrong.SLOW:
            time.sleep(0.3)  # what the fault is; nobody waits for it to be over
        if wrong is Wrong.FLIPPED_UP and body:
            body = _flipped(body)
        if wrong is not Wrong.RESET:
            status, headers, content = self._forwarded(body)
        if wrong in {Wrong.RESET, Wrong.RESET_AFTERWARDS}:
            self._reset()
            return
        if wrong is Wrong.FLIPPED_DOWN and content:
            content = _flipped(content)
        if wrong is Wrong.OTHER_BODY:
            content = b"x" * len(content)
        self._answer(status, headers, content, cut=wrong is Wrong.CUT)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def _forwarded(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        proxy = self.server.proxy
        connection = http.client.HTTPConnection(urlsplit(self.server.upstream).netloc, timeout=60)
        try:
            # Signed for this proxy's address, which the server takes from the header `Host`.
            connection.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        with proxy.lock:
            proxy.up_bytes += len(body) if self.command == "PUT" else 0
            proxy.down_bytes += len(content) if self.command == "GET" else 0
        headers = {
            name: value for name, value in answer.headers.items() if name.lower() not in _HOP
        }
        return answer.status, headers, content

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        length = str(len(content))
        if self.command == "HEAD":
            length = headers.get("Content-Length", "0")
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._reset()

    def _reset(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.proxy = Proxy(f"http://127.0.0.1:{self.server_address[1]}")

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients give up connections; that is no error here


@contextmanager
def fault_proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy before an S3 server."""
    with _Server(upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.proxy
        finally:
            server.shutdown()
            thread.join()


def _flipped(body: bytes) -> bytes:
    at = len(body) // 2
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
