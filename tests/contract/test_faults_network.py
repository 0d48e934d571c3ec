"""Faults where others take part: the relay sends Envoy to doors, a full node pulls nothing new."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from slipway.sandbox.faults.paths import full_disk_path, socket_path
from slipway.sandbox.network.discovery import ENDPOINTS
from tests.contract.network_toys import free_port, wait_for_port
from tests.contract.runtime_toys import archive, toy_node
from tests.contract.test_network_relay import METHODS, ToyEnvoy, ToyIstiod, message

TOLD = message(ENDPOINTS, b"\x0b100.100.1.5\x18\x0b100.100.1.6\x18")
DIRECT = TOLD.replace(b"100.100.", b"127.100.")
DOORS = DIRECT.replace(b"127.100.1.5", b"127.101.1.5")


class ToyFaults:
    """Tells whoever asks which pods are reached through a door."""

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._told: queue.Queue[list[str] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def tell(self, *pods: str) -> None:
        self._told.put(list(pods))

    def die(self) -> None:
        self._told.put(None)
        self._thread.join()

    def _serve(self) -> None:
        with self._server, contextlib.closing(self._server.accept()[0]) as connection:
            assert json.loads(connection.recv(1000)) == {"verb": "routes"}
            while (pods := self._told.get()) is not None:
                connection.sendall(json.dumps({"pods": pods}).encode() + b"\n")


@contextlib.contextmanager
def relay(upstream: int, faults: Path) -> Iterator[int]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "slipway.sandbox.network.relay", "--faults", str(faults)),
        *("--listen", f"127.0.0.1:{port}", "--upstream", f"127.0.0.1:{upstream}"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for_port(port)
    try:
        yield port
        process.terminate()
        assert b"Traceback" not in process.communicate(timeout=10)[1]
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def asked(port: int) -> tuple[ToyEnvoy, bytes]:
    """Open a stream as Envoy does, and return it with the first answer."""
    envoy = ToyEnvoy(port, METHODS[1])
    envoy.send(b"endpoints?")
    return envoy, next(envoy.answers)


@pytest.mark.parametrize("how_it_ends", ["told", "dies"])
def test_change_of_the_doors_ends_the_stream_and_the_next_one_says_so(
    tmp_path: Path, how_it_ends: str
) -> None:
    """UNAVAILABLE makes Envoy ask again; a dead fault process means no doors."""
    istiod = ToyIstiod(upstream := free_port())
    istiod.answers = [TOLD]
    faults = ToyFaults(socket_path(tmp_path))
    with relay(upstream, socket_path(tmp_path)) as port:
        envoy, answer = asked(port)
        assert answer == DIRECT
        faults.tell("127.100.1.5")
        with pytest.raises(grpc.RpcError) as caught:
            next(envoy.answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        envoy.close()
        envoy, answer = asked(port)
        assert answer == DOORS
        if how_it_ends == "told":
            faults.tell()
        else:
            faults.die()
        with pytest.raises(grpc.RpcError):
            next(envoy.answers)
        envoy.close()
        envoy, answer = asked(port)
        assert answer == DIRECT
        envoy.close()
    if how_it_ends == "told":
        faults.die()
    istiod.stop()


def test_node_with_a_full_disk_pulls_nothing_new_and_runs_what_it_has(tmp_path: Path) -> None:
    with toy_node(tmp_path) as node:
        here = node.registry.add("here", [archive({"one": b"1"})])
        new = node.registry.add("new", [archive({"two": b"2"})])
        node.cri.pull(here)
        full = full_disk_path(tmp_path, "node-a")
        full.touch()
        with pytest.raises(grpc.RpcError) as caught:
            node.cri.pull(new)
        assert "No space left on device" in (caught.value.details() or "")
        node.cri.pull(here)
        full.unlink()
        node.cri.pull(new)
