"""What Envoy and istiod may expect of the discovery relay: their own bytes, endpoints mapped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from slipway.sandbox.network.discovery import ENDPOINTS
from tests.contract.network_toys import free_port, wait_for_port

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHODS = ("StreamAggregatedResources", "DeltaAggregatedResources")
CLUSTERS = b"type.googleapis.com/envoy.config.cluster.v3.Cluster"


def message(type_url: bytes, resource: bytes) -> bytes:
    """Return a (delta) discovery response: field 2 the resources, field 4 the type."""
    size = len(resource)
    length = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    return b"\x12" + length + resource + b"\x22" + bytes([len(type_url)]) + type_url


class ToyIstiod:
    """Answers every request with the messages in `answers`; keeps what it was sent."""

    def __init__(self, port: int) -> None:
        self.answers: list[bytes] = []
        self.sent: queue.Queue[bytes] = queue.Queue()
        self.metadata: dict[str, Any] = {}
        executor = concurrent.futures.ThreadPoolExecutor(8)
        self._server = grpc.server(executor, options=[("grpc.max_send_message_length", -1)])
        handlers = {name: grpc.stream_stream_rpc_method_handler(self._stream) for name in METHODS}
        generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.metadata = dict(context.invocation_metadata())
        for request in requests:
            self.sent.put(request)
            if request == b"fail":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many pushes")
            yield from self.answers

    def stop(self) -> None:
        self._server.stop(0).wait()


class ToyEnvoy:
    """One discovery stream through the relay."""

    def __init__(self, port: int, method: str) -> None:
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]
        )
        self._requests: queue.Queue[bytes | None] = queue.Queue()
        call = self._channel.stream_stream(f"/{SERVICE}/{method}")
        self.answers = call(
            iter(self._requests.get, None), timeout=20, metadata=[("x-envoy", "kept")]
        )

    def send(self, request: bytes) -> None:
        self._requests.put(request)

    def close(self) -> None:
        self._requests.put(None)
        self.answers.cancel()
        self._channel.close()


@pytest.fixture
def upstream() -> int:
    return free_port()


@contextlib.contextmanager
def running_relay(upstream: int) -> Iterator[int]:
    """Run a relay; at its end it must have been quiet, and end at once."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "slipway.sandbox.network.relay"),
        *("--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{upstream}"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for_port(port)
    yield port
    process.terminate()
    assert b"Traceback" not in process.communicate(timeout=10)[1]
    assert process.returncode == 0


@pytest.fixture
def relay(upstream: int) -> Iterator[int]:
    with running_relay(upstream) as port:
        yield port


@pytest.mark.parametrize("method", METHODS)
def test_both_methods_pass_bytes_and_map_endpoints_only(
    relay: int, upstream: int, method: str
) -> None:
    """envoy/service/discovery/v3/ads.proto: state-of-the-world and delta streams."""
    endpoints = message(ENDPOINTS, b"\x0b100.100.1.5" * 900)
    clusters = message(CLUSTERS, b"\x0b100.100.1.5")
    istiod, envoy = ToyIstiod(upstream), ToyEnvoy(relay, method)
    istiod.answers = [clusters, endpoints]
    for number in range(3):
        envoy.send(f"\x0b100.100.1.5 {number}".encode())
        assert istiod.sent.get(timeout=10) == f"\x0b100.100.1.5 {number}".encode()
        assert next(envoy.answers) == clusters
        assert next(envoy.answers) == endpoints.replace(b"100.100.", b"127.100.")
    assert istiod.metadata["x-envoy"] == "kept"
    envoy.close()
    istiod.stop()


def test_message_of_many_megabytes_passes(relay: int, upstream: int) -> None:
    """GRPC refuses more than 4 MB unless told; a mesh's clusters are larger."""
    istiod, envoy = ToyIstiod(upstream), ToyEnvoy(relay, METHODS[0])
    istiod.answers = [b"\x0a" + b"\x80\x80\x80\x02" + bytes(4 << 20)]
    envoy.send(b"large")
    assert len(next(envoy.answers)) == 5 + (4 << 20)
    envoy.close()
    istiod.stop()


def test_stream_opened_before_istiod_is_served_once_it_starts(relay: int, upstream: int) -> None:
    """Envoy's own retries grow to 30 s."""
    envoy = ToyEnvoy(relay, METHODS[0])
    envoy.send(b"hello")
    time.sleep(1)  # long enough for a first attempt to fail
    istiod = ToyIstiod(upstream)
    istiod.answers = [b"welcome"]
    assert next(envoy.answers) == b"welcome"
    envoy.close()
    istiod.stop()


def test_end_of_istiod_ends_the_stream_and_the_next_one_is_served(
    relay: int, upstream: int
) -> None:
    """Envoy must see the end to ask again, and keeps its last configuration meanwhile."""
    istiod, envoy = ToyIstiod(upstream), ToyEnvoy(relay, METHODS[1])
    istiod.answers = [b"first"]
    envoy.send(b"x")
    assert next(envoy.answers) == b"first"
    istiod.stop()
    with pytest.raises(grpc.RpcError) as caught:
        next(envoy.answers)
    assert caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    envoy.close()
    again = ToyIstiod(upstream)
    again.answers = [b"second"]
    envoy = ToyEnvoy(relay, METHODS[1])
    envoy.send(b"x")
    assert next(envoy.answers) == b"second"
    envoy.close()
    again.stop()


def test_refusal_of_istiod_reaches_envoy_with_its_code(relay: int, upstream: int) -> None:
    istiod, envoy = ToyIstiod(upstream), ToyEnvoy(relay, METHODS[0])
    envoy.send(b"fail")
    with pytest.raises(grpc.RpcError) as caught:
        next(envoy.answers)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "too many pushes"
    envoy.close()
    istiod.stop()


def test_end_of_the_relay_is_quiet_and_envoy_sees_it(upstream: int) -> None:
    """UNAVAILABLE makes Envoy ask again: the supervisor starts the relay anew."""
    with running_relay(upstream) as port:
        istiod, envoy = ToyIstiod(upstream), ToyEnvoy(port, METHODS[0])
        istiod.answers = [b"x"]
        envoy.send(b"x")
        assert next(envoy.answers) == b"x"
    with pytest.raises(grpc.RpcError) as caught:
        next(envoy.answers)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    envoy.close()
    istiod.stop()
