"""The discovery relay: Envoy on one side, istiod on the other, raw bytes between them.

    python -m slipway.sandbox.network.relay --listen 127.0.0.1:PORT --upstream 127.0.0.1:PORT

A stock Envoy would dial pods at the addresses the API shows. The relay changes them in messages
that carry endpoints, and nothing else; both methods of the aggregated discovery service pass.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

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

Stream = Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]


def _identity(message: bytes) -> bytes:
    return message


def relayed(channel: Any, method: str) -> Stream:
    """Return the handler of one method: what Envoy sends goes up, what istiod sends comes mapped.

    A stream waits for an istiod that is still starting: Envoy's own retries grow to 30 s.
    """
    call_istiod = channel.stream_stream(
        f"/{_SERVICE}/{method}", request_serializer=_identity, response_deserializer=_identity
    )

    async def handler(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        call = call_istiod(requests, metadata=_passed_on(context), wait_for_ready=True)
        try:
            async for message in call:
                yield map_response(message)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # Envoy left
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the discovery relay ends")
        finally:
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


async def start(listen: str, upstream: str) -> tuple[Any, Any]:
    """Start the relay.

    Args:
        listen: `HOST:PORT` for Envoy.
        upstream: `HOST:PORT` of istiod's plain gRPC door.

    Returns:
        The server and the channel, to be stopped and closed by the caller.
    """
    channel = grpc.aio.insecure_channel(upstream, options=_TO_ISTIOD)
    handlers = {
        method: grpc.stream_stream_rpc_method_handler(
            relayed(channel, method),
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


async def serve(listen: str, upstream: str) -> None:
    """Relay until TERM or INT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server, channel = await start(listen, upstream)
    sys.stdout.write(f"relaying discovery from {upstream} to {listen}\n")
    sys.stdout.flush()
    await stop.wait()
    # The channel first: its streams end, and with them Envoy's, before the server must cut them.
    await channel.close()
    await server.stop(grace=_STOP_GRACE_S)


def main(arguments: list[str]) -> None:
    """Read the command line and relay."""
    parser = argparse.ArgumentParser(prog="slipway.sandbox.network.relay")
    parser.add_argument("--listen", required=True, help="HOST:PORT for Envoy")
    parser.add_argument("--upstream", required=True, help="HOST:PORT of istiod's plain gRPC door")
    found = parser.parse_args(arguments)
    asyncio.run(serve(found.listen, found.upstream))


if __name__ == "__main__":
    main(sys.argv[1:])
