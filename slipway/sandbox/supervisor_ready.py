"""Ready probes: one look at a part, from outside, as `part.Ready` describes it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import httpx

from slipway.sandbox.part import FileReady, HttpReady, Ready, SocketReady, TcpReady

_PROBE_TIMEOUT_S = 2.0
"""A server that takes longer for its health page is not ready; the next probe asks again."""


def probe(ready: Ready) -> Callable[[], bool]:
    """Return a function that looks once, for two seconds at most; away means False."""
    match ready:
        case HttpReady():
            return _http_probe(ready)
        case TcpReady(host, port):
            return lambda: _connects(socket.AF_INET, (host, port))
        case SocketReady(path):
            return lambda: _connects(socket.AF_UNIX, str(path))
        case FileReady(path):
            return path.exists


def forget_old(ready: Ready) -> None:
    """Remove what a former run left and would make the part look ready, or keep it from binding."""
    match ready:
        case FileReady(path) | SocketReady(path):
            path.unlink(missing_ok=True)
        case _:
            pass


def _http_probe(ready: HttpReady) -> Callable[[], bool]:
    headers = {"Authorization": f"Bearer {ready.bearer}"} if ready.bearer else {}

    def once() -> bool:
        # A client per look: parts write their CA bundle while they start, and a kept-alive
        # connection to a server that restarts its listener would only add a failure.
        try:
            with httpx.Client(
                trust_env=False, verify=_trust(ready.verify), timeout=_PROBE_TIMEOUT_S
            ) as client:
                code = client.get(ready.url, headers=headers).status_code
        except (httpx.TransportError, OSError):
            return False
        return code < HTTPStatus.BAD_REQUEST or code in ready.accept

    return once


def _trust(bundle: Path | None) -> ssl.SSLContext | bool:
    return False if bundle is None else ssl.create_default_context(cafile=str(bundle))


def _connects(family: socket.AddressFamily, address: tuple[str, int] | str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(_PROBE_TIMEOUT_S)
        try:
            client.connect(address)
        except OSError:
            return False
    return True
