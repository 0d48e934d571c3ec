"""A small HTTP/1.1 server protocol for asyncio: what a model server needs, and cheap per chunk.

It parses requests (RFC 9112: Content-Length and chunked bodies, keep-alive, pipelining) and writes
whole or chunked responses. One request of a connection is answered at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

_LARGEST_HEAD_BYTES = 64 * 1024
_LARGEST_BODY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are lower-case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class MalformedRequestError(Exception):
    """The bytes are no request we can read; carries the status to answer with."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class RequestParser:
    """Cuts requests out of a byte stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._bytes += data

    def next_request(self) -> tuple[Request, bool] | None:
        """Return the next whole request and whether its connection stays open; None: wait for more.

        Raises:
            MalformedRequestError: not HTTP/1.x, or too large.
        """
        end = self._bytes.find(b"\r\n\r\n")
        if end < 0:
            if len(self._bytes) > _LARGEST_HEAD_BYTES:
                raise MalformedRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return None
        method, path, version, headers = _head(bytes(self._bytes[:end]))
        if "chunked" in headers.get("transfer-encoding", "").lower():
            found = _chunked(self._bytes, end + 4)
        else:
            found = _sized(self._bytes, end + 4, headers.get("content-length", "0"))
        if found is None:
            return None
        body, consumed = found
        del self._bytes[:consumed]
        connection = headers.get("connection", "").lower()
        keep_alive = (
            "keep-alive" in connection if version == "HTTP/1.0" else "close" not in connection
        )
        return Request(method, path, headers, body), keep_alive


def _head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise MalformedRequestError(HTTPStatus.BAD_REQUEST)
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise MalformedRequestError(HTTPStatus.BAD_REQUEST)
        headers[name.lower()] = value.strip()
    return words[0], words[1], words[2], headers


def _sized(data: bytearray, start: int, stated: str) -> tuple[bytes, int] | None:
    if not stated.isascii() or not stated.isdigit():
        raise MalformedRequestError(HTTPStatus.BAD_REQUEST)
    size_bytes = int(stated)
    if size_bytes > _LARGEST_BODY_BYTES:
        raise MalformedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if len(data) < start + size_bytes:
        return None
    return bytes(data[start : start + size_bytes]), start + size_bytes


def _chunked(data: bytearray, position: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while True:
        end = data.find(b"\r\n", position)
        if end < 0:
            return None
        try:
            size_bytes = int(data[position:end].split(b";")[0], 16)
        except ValueError as error:
            raise MalformedRequestError(HTTPStatus.BAD_REQUEST) from error
        if size_bytes < 0 or len(body) + size_bytes > _LARGEST_BODY_BYTES:
            raise MalformedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        position = end + 2
        if size_bytes == 0:
            return _after_trailers(data, position, bytes(body))
        if len(data) < position + size_bytes + 2:
            return None
        body += data[position : position + size_bytes]
        position += size_bytes + 2


def _after_trailers(data: bytearray, position: int, body: bytes) -> tuple[bytes, int] | None:
    while (end := data.find(b"\r\n", position)) >= 0:
        if end == position:
            return body, end + 2
        position = end + 2
    return None


class Connection(asyncio.Protocol):
    """One client connection.

    Args:
        handle: called with each request and this connection; it must answer, now or later.
        closing: tells whether answers should ask the client to close (the server drains).
        connections: the open connections of the server; this one adds and removes itself.
    """

    def __init__(
        self,
        handle: Callable[[Request, Connection], None],
        closing: Callable[[], bool],
        connections: set[Connection],
    ) -> None:
        self._handle = handle
        self._closing = closing
        self._connections = connections
        self._parser = RequestParser()
        self._transport: asyncio.Transport | None = None
        self._busy = False
        self._keep_alive = True
        self.writable = True
        self.on_lost: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._connections.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        """See `asyncio.Protocol`; tells the request in progress through `on_lost`."""
        self._transport = None
        self._connections.discard(self)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.feed(data)
        self._advance()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self.writable = False

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`; a stream that waited goes on."""
        self.writable = True
        if self.on_writable is not None:
            self.on_writable()

    def _advance(self) -> None:
        while not self._busy and self._transport is not None:
            try:
                found = self._parser.next_request()
            except MalformedRequestError as error:
                self._keep_alive = False
                self.respond(error.status, b"", "text/plain", {})
                return
            if found is None:
                return
            request, self._keep_alive = found
            self._busy = True
            self._handle(request, self)

    def respond(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str]
    ) -> None:
        """Answer with a whole body."""
        framing = {**headers, "content-length": str(len(body))}
        self.write(self._head(status, content_type, framing) + body)
        self.finish()

    def start_stream(self, content_type: str, headers: Mapping[str, str]) -> None:
        """Answer 200 with a body of chunks to come."""
        self.write(self._head(200, content_type, {**headers, "transfer-encoding": "chunked"}))

    def start_sized(self, content_type: str, size_bytes: int, headers: Mapping[str, str]) -> None:
        """Answer 200 with a body of a stated size to come."""
        self.write(self._head(200, content_type, {**headers, "content-length": str(size_bytes)}))

    def write(self, data: bytes) -> None:
        """Send bytes as they are; a connection that is gone swallows them."""
        if self._transport is not None:
            self._transport.write(data)

    def write_chunk(self, data: bytes) -> None:
        """Send one chunk of a stream."""
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """End the response; the next request of the connection may come."""
        self.on_lost = self.on_writable = None
        self._busy = False
        if not self._keep_alive or self._closing():
            self.close()
        else:
            asyncio.get_running_loop().call_soon(self._advance)

    def close(self) -> None:
        """Close after what was written has been sent."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _head(self, status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
        if self._closing():
            self._keep_alive = False
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"content-type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if not self._keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
