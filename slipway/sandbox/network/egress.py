"""The egress proxy: the only door from the host into the cluster's network.

    python -m slipway.sandbox.network.egress --socket PATH --listen HOST:PORT --kubeconfig FILE

The API server sends its calls to pods, services, nodes and webhooks as `CONNECT` to the socket;
flows, tests and browsers use the TCP port as an HTTP proxy. Pods, nodes, services and loopback
addresses are reached; anything else is refused with 403: nothing leaves 127.0.0.0/8.

Sources: RFC 9110 §9.3.6 (CONNECT), RFC 9112 §3.2.2 (absolute form), Kubernetes'
EgressSelectorConfiguration (`HTTPConnect`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from ipaddress import IPv4Network
from pathlib import Path

from slipway.core.errors import InputError, PermanentError, SlipwayError, TransientError
from slipway.sandbox.network.addresses import Loopback, target_of
from slipway.sandbox.network.request import parse_head
from slipway.sandbox.network.services import Endpoint, Services

_CHUNK_BYTES = 65536
_HEAD_TIMEOUT_S = 30.0
_DIAL_TIMEOUT_S = 5.0
_BACKLOG = 1024
_REASONS = {400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway", 503: "Service Unavailable"}


class Proxy:
    """Serves proxy connections, whatever socket they came in by.

    Args:
        services: looks service names up.
        service_network: the cluster addresses of services.
    """

    def __init__(self, services: Services, service_network: IPv4Network) -> None:
        """Keep what is needed to resolve a name."""
        self._services = services
        self._network = service_network
        self._live: set[asyncio.Task[object] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end; never raises for what a client or a pod does."""
        # Streams refer to their readers weakly: a half-closed tunnel that nothing else refers to
        # would be collected as garbage, in the middle of its answer (seen).
        task = asyncio.current_task()
        self._live.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return  # one of the two went away: the other sees its connection end
        finally:
            await _close(writer)
            self._live.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = None
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_TIMEOUT_S)
            request = parse_head(head)
            endpoint = await self.resolve(request.host, request.port)
            pod_reader, pod_writer = await _dial(endpoint)
        except asyncio.LimitOverrunError:
            await _refuse(writer, 400, "the request's head is too long")
            return
        except SlipwayError as error:
            where = f"{request.method} {request.host}:{request.port}: " if request else ""
            _log(f"refused: {where}{error.message}")
            await _refuse(writer, _status(error), error.message)
            return
        try:
            if request.method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                pod_writer.write(request.forwarded)
            await _join((reader, writer), (pod_reader, pod_writer))
        finally:
            await _close(pod_writer)

    async def resolve(self, host: str, port: int) -> Endpoint:
        """Return where a connection to `host`:`port` goes.

        Raises:
            PermanentError: outside the sandbox (code `outside-the-sandbox`), or no such service.
            TransientError: the service has no ready endpoint, or the API server does not answer.
        """
        target = target_of(host, self._network)
        if target is None:
            raise PermanentError(
                f"{host} is not part of the sandbox",
                code="outside-the-sandbox",
                hint="the sandbox dials nothing outside this machine",
            )
        if isinstance(target, Loopback):
            return Endpoint(target.address, port)
        return await self._services.endpoint(target, port)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _join(one: Streams, other: Streams) -> None:
    """Copy both ways until both have ended, or one broke: then the other ends too."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(one[0], other[1]))
            group.create_task(_copy(other[0], one[1]))
    except* OSError:  # a reset by either side is not an error of the proxy
        pass


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy one direction; its end is passed on as an end, the other direction stays open."""
    while data := await source.read(_CHUNK_BYTES):
        target.write(data)
        await target.drain()
    if target.can_write_eof():
        target.write_eof()


async def _dial(endpoint: Endpoint) -> Streams:
    try:
        streams = await asyncio.wait_for(
            asyncio.open_connection(endpoint.address, endpoint.port), _DIAL_TIMEOUT_S
        )
    except (OSError, TimeoutError) as error:
        raise TransientError(
            f"nothing answers at {endpoint.address}:{endpoint.port}: {error}",
            code="endpoint-silent",
            hint="does the pod still run?",
        ) from error
    return streams


async def _refuse(writer: asyncio.StreamWriter, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


def _status(error: SlipwayError) -> int:
    if isinstance(error, InputError):
        return 400
    if error.code in {"outside-the-sandbox", "service-not-found"}:  # `example.com` could be either
        return 403
    return 503 if error.code in {"service-not-ready", "api-silent"} else 502


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


async def serve(
    path: Path, host: str, port: int, kubeconfig: Path, service_network: IPv4Network
) -> None:
    """Serve on a Unix socket and on a TCP port until TERM or INT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    services = Services(kubeconfig)
    proxy = Proxy(services, service_network)
    tcp = await asyncio.start_server(
        proxy.serve, host, port, family=socket.AF_INET, backlog=_BACKLOG
    )
    unix = await asyncio.start_unix_server(proxy.serve, path, backlog=_BACKLOG)
    path.chmod(0o600)
    sys.stdout.write(f"proxying on {path} and {host}:{port}\n")
    sys.stdout.flush()
    await stop.wait()
    for server in (tcp, unix):
        server.close()
    path.unlink(missing_ok=True)
    await services.close()


def main(arguments: list[str]) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="slipway.sandbox.network.egress")
    parser.add_argument(
        "--socket", required=True, type=Path, help="Unix socket, for the API server"
    )
    parser.add_argument("--listen", required=True, help="HOST:PORT, for flows, tests and browsers")
    parser.add_argument("--kubeconfig", required=True, type=Path, help="may appear later")
    parser.add_argument("--service-network", type=IPv4Network, default=IPv4Network("10.96.0.0/16"))
    found = parser.parse_args(arguments)
    host, _, port = found.listen.rpartition(":")
    asyncio.run(serve(found.socket, host, int(port), found.kubeconfig, found.service_network))


if __name__ == "__main__":
    main(sys.argv[1:])
