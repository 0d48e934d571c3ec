"""Serve one node's kubelet: `python -m slipway.sandbox.runtime --node node-a --socket …`."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import os
import signal
import site
import sys
import sysconfig
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import grpc

from slipway.sandbox.faults.paths import full_disk_path
from slipway.sandbox.home import MARKER_VARIABLE
from slipway.sandbox.runtime.engine import Engine
from slipway.sandbox.runtime.process import Host
from slipway.sandbox.runtime.service import ImageService, RuntimeService

_SYSTEM = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_BLOCKING_CALLS = 64
"""Threads for exec probes and pulls: a hook that sleeps must not delay another pod's probe."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line: what it means stands in `parse`."""

    node: str
    socket: Path
    root: Path
    network: IPv4Network
    registry: str
    api: str
    grace_s: float


def parse(arguments: list[str]) -> Options:
    """Read the command line; exits with its usage when it is wrong."""
    parser = argparse.ArgumentParser(prog="slipway.sandbox.runtime", description=__doc__)
    parser.add_argument("--node", required=True, help="name of the node, for messages")
    parser.add_argument("--socket", required=True, type=Path, help="Unix socket to serve CRI on")
    parser.add_argument("--root", required=True, type=Path, help="folder of images and containers")
    parser.add_argument("--pod-network", required=True, type=IPv4Network, help="within 127.0.0.0/8")
    parser.add_argument("--registry", required=True, help="HOST:PORT of the only registry")
    parser.add_argument("--api", required=True, help="HOST:PORT of the API server, for containers")
    parser.add_argument(
        "--grace", type=float, default=2.0, help="seconds containers get when this process ends"
    )
    found = parser.parse_args(arguments)
    return Options(
        node=found.node,
        socket=found.socket.resolve(),
        root=found.root.resolve(),
        network=found.pod_network,
        registry=found.registry,
        api=found.api,
        grace_s=found.grace,
    )


def this_host(api: str) -> Host:
    """Return what containers get from this machine and this interpreter."""
    prefix = os.path.realpath(sys.base_prefix)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    hidden = {
        *site.getsitepackages([sys.base_prefix, prefix]),
        *(f"{prefix}/lib/python{version}/{name}-packages" for name in ("site", "dist")),
        f"{prefix}/lib/python3/dist-packages",
        f"/usr/local/lib/python{version}/dist-packages",
        sysconfig.get_path("purelib", vars={"base": prefix, "platbase": prefix}),
    }
    return Host(
        system=tuple(folder for folder in _SYSTEM if os.path.lexists(folder)),
        prefix="" if prefix in ("/", "/usr", "/usr/local") else prefix,
        binaries=f"{prefix}/bin",
        hidden=tuple(sorted(hidden)),
        api=api,
    )


async def serve(options: Options) -> None:
    """Serve until TERM or INT, then end every container; a crash leaves them to the next start."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(_BLOCKING_CALLS))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    host = this_host(options.api)
    # Keepers carry the sandbox's marker, containers do not: they end with their keeper.
    marker = os.environ.get(MARKER_VARIABLE)
    environment = {MARKER_VARIABLE: marker} if marker else {}
    engine = Engine(options.root, options.network, host, options.registry, environment)
    engine.adopt()
    server = grpc.aio.server()
    images = ImageService(engine, full_disk_path(options.socket.parent, options.node))
    service_handlers = (RuntimeService(engine).handler(), images.handler())
    server.add_generic_rpc_handlers(service_handlers)
    server.add_insecure_port(f"unix:{options.socket}")
    await server.start()
    without = f"; containers without namespaces: {engine.forbidden}" if engine.forbidden else ""
    sys.stdout.write(f"{options.node}: serving CRI on {options.socket}{without}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop(grace=0.5)
    await engine.stop_everything(options.grace_s)
    engine.close()


if __name__ == "__main__":
    asyncio.run(serve(parse(sys.argv[1:])))
