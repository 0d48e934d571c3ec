"""One HTTP/1.1 connection that streams server-sent events, with a time stamp on every event.

Nothing is parsed as JSON while events arrive: a parser that runs between two reads would be
measured as latency of the server.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

from slipway.bench.values import Target

Sink = Callable[[int, bytes], None]
"""Gets (monotonic ns, data of one event) as events arrive."""

_HTTP_OK = 200
_KEPT_BODY_BYTES = 300
_MAX_CONNECT_ANSWER_BYTES = 8192


@dataclass(slots=True)
class Exchange:
    """What one request got.

    Args:
        sent_ns: monotonic, just before the bytes were handed to the socket.
        ended_ns: monotonic, end of the answer or of the connection.
        http_status: 0 when no answer began.
        complete: the answer came to its end as HTTP sees it.
        failure: why the connection broke, empty when it did not.
    """

    sent_ns: int
    sink: Sink
    ended_ns: int = 0
    http_status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    failure: str = ""
    body: bytearray = field(default_factory=bytearray)
    _rest: bytes = b""
    _data: list[bytes] = field(default_factory=list)

    def feed(self, chunk: bytes) -> None:
        """Take body bytes; every event that is complete now goes to the sink."""
        now_ns = time.monotonic_ns()
        if len(self.body) < _KEPT_BODY_BYTES:
            self.body += chunk[: _KEPT_BODY_BYTES - len(self.body)]
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            # WHATWG HTML §9.2.6: LF or CRLF end a line, an empty line ends an event.
            self._line(line.removesuffix(b"\r"), now_ns)

    def close(self) -> None:
        """Take the end of the answer: a last event without its empty line counts all the same."""
        self._line(b"", time.monotonic_ns())

    def _line(self, line: bytes, now_ns: int) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            self.sink(now_ns, b"\n".join(self._data))
            self._data.clear()


class Connection(asyncio.Protocol):
    """A kept-alive connection, one request at a time; callbacks of asyncio and httptools."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._done: asyncio.Future[None] | None = None
        self.reusable = True

    async def request(self, data: bytes, sink: Sink, *, timeout_s: float) -> Exchange:
        """Send one request and return what came; never raises for what the other side does."""
        transport = self._transport
        self._done = asyncio.get_running_loop().create_future()
        self._exchange = exchange = Exchange(sent_ns=time.monotonic_ns(), sink=sink)
        if transport is None or transport.is_closing():
            exchange.failure = "the connection was closed while it was idle"
            exchange.ended_ns = exchange.sent_ns
            return exchange
        transport.write(data)
        await asyncio.wait((self._done,), timeout=timeout_s)
        if not self._done.done():
            self._end(f"no complete answer within {timeout_s:g} s")
            self.close()
        return exchange

    def close(self) -> None:
        """Close the connection at once."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember what to write to (asyncio)."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what a stream socket gives
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse what arrived (asyncio)."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"the answer is not HTTP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that was under way (asyncio)."""
        self.reusable = False
        self._end("connection reset" if exc else "connection closed")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (httptools)."""
        if self._exchange is not None:
            self._exchange.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Keep the status (httptools)."""
        if self._exchange is not None:
            self._exchange.http_status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Stamp the events of a chunk (httptools)."""
        if self._exchange is not None:
            self._exchange.feed(body)

    def on_message_complete(self) -> None:
        """End the request (httptools)."""
        if not self._parser.should_keep_alive():
            self.reusable = False
        if self._exchange is not None:
            self._exchange.complete = True
        self._end("")

    def _end(self, failure: str) -> None:
        exchange, done = self._exchange, self._done
        if exchange is None or done is None or done.done():
            return
        exchange.close()
        exchange.failure = failure
        exchange.ended_ns = time.monotonic_ns()
        self._exchange = None
        done.set_result(None)


def without_connection(error: OSError) -> str:
    """Return why there was no exchange; a `TimeoutError` has no words of its own."""
    return f"no connection: {str(error) or type(error).__name__}"


async def connect(target: Target, *, timeout_s: float) -> Connection:
    """Open a connection to the target, through its proxy when it has one.

    Raises:
        OSError: no connection (`TimeoutError` among them).
    """
    loop = asyncio.get_running_loop()
    url = urlsplit(target.url)
    secure = url.scheme == "https"
    host, port = url.hostname or "", url.port or (443 if secure else 80)
    tls = ssl.create_default_context() if secure else None
    name = host if secure else None
    async with asyncio.timeout(timeout_s):
        if target.proxy is None:
            _, direct = await loop.create_connection(
                Connection, host, port, ssl=tls, server_hostname=name
            )
            return direct
        tunnel = await _tunnel(target.proxy, host, port)
        try:
            _, connection = await loop.create_connection(
                Connection, sock=tunnel, ssl=tls, server_hostname=name
            )
        except BaseException:
            tunnel.close()
            raise
        return connection


async def _tunnel(proxy: str, host: str, port: int) -> socket.socket:
    """Return a socket that a CONNECT has tied to `host`:`port` (RFC 9110 §9.3.6)."""
    loop = asyncio.get_running_loop()
    url = urlsplit(proxy)
    address = (url.hostname or "", url.port or 80)
    family, kind, number, _, peer = (await loop.getaddrinfo(*address, type=socket.SOCK_STREAM))[0]
    tunnel = socket.socket(family, kind, number)
    tunnel.setblocking(False)
    try:
        await loop.sock_connect(tunnel, peer)
        await loop.sock_sendall(
            tunnel, f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        )
        status = await _status_line(tunnel)
    except BaseException:
        tunnel.close()
        raise
    if status.split(" ")[1:2] != [str(_HTTP_OK)]:
        tunnel.close()
        raise ConnectionError(f"the proxy {proxy} gives no tunnel to {host}:{port}: {status}")
    return tunnel


async def _status_line(tunnel: socket.socket) -> str:
    """Read the head of an answer and return its first line, empty when it broke off."""
    answer = b""
    # Byte by byte: what follows the empty line belongs to the tunnel.
    while not answer.endswith(b"\r\n\r\n") and len(answer) < _MAX_CONNECT_ANSWER_BYTES:
        byte = await asyncio.get_running_loop().sock_recv(tunnel, 1)
        if not byte:
            return ""
        answer += byte
    return answer.split(b"\r\n", 1)[0].decode("latin-1")
