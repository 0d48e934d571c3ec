"""The discovery relay: Envoy on one side, istiod on the other, raw bytes between them.

    python -m slipway.sandbox.network.relay --listen 127.0.0.1:PORT --upstream 127.0.0.1:PORT \
        [--faults SOCKET]

A stock Envoy would dial pods at the addresses the API shows. The relay changes them in messages
that carry endpoints, and nothing else; both methods of the aggregated discovery service pass. Pods
that have a fault on purpose are sent through their doors (`slipway.sandbox.faults`); when that
changes, the streams end: Envoy asks again within a second and serves on meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from slipway.sandbox.network.addresses import NODE_PREFIX
from slipway.sandbox.network.discovery import map_response

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_METHODS = ("StreamAggregatedResources", "DeltaAggregatedResources")
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_TO_ISTIOD = [
    *_UNLIMITED,
    ("grpc.enable_http_proxy", 0),  # the environment's proxies are not for loopback
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]

_STOP_GRACE_S = 1.0
_FAULTS_AGAIN_S = 0.5

Stream = Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]


def _identity(message: bytes) -> bytes:
    return message


@dataclass(slots=True)
class Doors:
    """Which pods are reached through a door, and the streams that were told so.

    Args:
        pods: the last two numbers of their addresses.
        calls: the open streams to istiod.
    """

    pods: frozenset[bytes] = frozenset()
    calls: set[Any] = field(default_factory=set)

    def change(self, addresses: list[str]) -> None:
        """Take the pods' addresses; what Envoy was told before is told anew."""
        pods = frozenset(one.removeprefix(NODE_PREFIX).encode() for one in addresses)
        if pods == self.pods:
            return
        self.pods = pods
        for call in tuple(self.calls):
            call.cancel()


def relayed(channel: Any, method: str, doors: Doors) -> Stream:
    """Return the handler of one method: what Envoy sends goes up, what istiod sends comes mapped.

    A stream waits for an istiod that is still starting: Envoy's own retries grow to 30 s.
    """
    call_istiod = channel.stream_stream(
        f"/{_SERVICE}/{method}", request_serializer=_identity, response_deserializer=_identity
    )

    async def handler(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        call = call_istiod(requests, metadata=_passed_on(context), wait_for_ready=True)
        doors.calls.add(call)
        try:
            async for message in call:
                yield map_response(message, doors.pods)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # Envoy left
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the discovery relay begins anew")
        finally:
            doors.calls.discard(call)
            call.cancel()

    return handler


def _passed_on(context: Any) -> tuple[tuple[str, Any], ...]:
    """Return Envoy's own metadata without what gRPC sets itself."""
    metadata = context.invocation_metadata() or ()
    return tuple(
        (key, value)
        for key, value in metadata
        if not key.startswith(("grpc-", ":")) and key not in ("user-agent", "content-type", "te")
    )


async def follow(path: Path, doors: Doors) -> None:
    """Keep `doors` as the fault process says, forever; while it is silent there are none."""
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(b'{"verb": "routes"}\n')
                while line := await reader.readline():
                    doors.change(json.loads(line)["pods"])
            finally:
                writer.close()
        doors.change([])
        await asyncio.sleep(_FAULTS_AGAIN_S)


async def start(listen: str, upstream: str, doors: Doors) -> tuple[Any, Any]:
    """Start the relay.

    Args:
        listen: `HOST:PORT` for Envoy.
        upstream: `HOST:PORT` of istiod's plain gRPC door.
        doors: which pods are reached through a door; may change.

    Returns:
        The server and the channel, to be stopped and closed by the caller.
    """
    channel = grpc.aio.insecure_channel(upstream, options=_TO_ISTIOD)
    handlers = {
        method: grpc.stream_stream_rpc_method_handler(
            relayed(channel, method, doors),
            request_deserializer=_identity,
            response_serializer=_identity,
        )
        for method in _METHODS
    }
    # Without this option two relays could share a port, and one would get no streams.
    server = grpc.aio.server(options=[*_UNLIMITED, ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    server.add_insecure_port(listen)
    await server.start()
    return server, channel


async def serve(listen: str, upstream: str, faults: Path | None) -> None:
    """Relay until TERM or INT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    doors = Doors()
    server, channel = await start(listen, upstream, doors)
    following = asyncio.create_task(follow(faults, doors)) if faults else None
    sys.stdout.write(f"relaying discovery from {upstream} to {listen}\n")
    sys.stdout.flush()
    await stop.wait()
    if following is not None:
        following.cancel()
    # The channel first: its streams end, and with them Envoy's, before the server must cut them.
    await channel.close()
    await server.stop(grace=_STOP_GRACE_S)


def main(arguments: list[str]) -> None:
    """Read the command line and relay."""
    parser = argparse.ArgumentParser(prog="slipway.sandbox.network.relay")
    parser.add_argument("--listen", required=True, help="HOST:PORT for Envoy")
    parser.add_argument("--upstream", required=True, help="HOST:PORT of istiod's plain gRPC door")
    parser.add_argument("--faults", type=Path, help="control socket of slipway.sandbox.faults")
    found = parser.parse_args(arguments)
    asyncio.run(serve(found.listen, found.upstream, found.faults))


if __name__ == "__main__":
    main(sys.argv[1:])
