"""Pure: the head of a proxy request, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from slipway.core.errors import InputError

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authorization", "te"}
)


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """What a client wants of the proxy.

    Args:
        method: CONNECT for a tunnel.
        host: name or address, without brackets.
        port: 1 to 65535.
        forwarded: the head for the origin server; b"" for a tunnel.
    """

    method: str
    host: str
    port: int
    forwarded: bytes = b""


def parse_head(head: bytes) -> ProxyRequest:
    """Return the request whose head, with its empty line, is `head`.

    One request is served a connection: the origin is told so, and the client hears it from there.

    Raises:
        InputError: it is neither CONNECT nor a request with an absolute http:// URL.
    """
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, version = lines[0].split(" ")
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise _wrong(lines[0]) from error
    if method == "CONNECT":
        if not host or not port:
            raise _wrong(lines[0])
        return ProxyRequest(method, host, port)
    if url.scheme != "http" or not host:
        raise _wrong(lines[0])
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    start = f"{method} {path} {version}"
    forwarded = "\r\n".join((start, f"Host: {url.netloc}", *_headers(lines[1:]), "", ""))
    return ProxyRequest(method, host, port or 80, forwarded.encode("latin-1"))


def _headers(lines: list[str]) -> list[str]:
    """Return what the origin gets: without Host (the URL's counts) and hop-by-hop headers."""
    named = [(line.partition(":")[0].strip().lower(), line) for line in lines if line]
    if any(name == "upgrade" for name, _ in named):
        return [line for name, line in named if not name.startswith("proxy-") and name != "host"]
    kept = [line for name, line in named if name not in _HOP_BY_HOP and name != "host"]
    return [*kept, "Connection: close"]


def _wrong(line: str) -> InputError:
    return InputError(
        f"not a proxy request: {line[:200]!r}",
        code="proxy-request-wrong",
        hint="send CONNECT host:port, or GET http://host:port/path",
    )
