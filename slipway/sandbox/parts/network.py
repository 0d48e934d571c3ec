"""The loopback network: the egress proxy (to pods and services), the discovery relay (to Envoy)."""

from __future__ import annotations

import sys

from slipway.sandbox import pki
from slipway.sandbox.faults.paths import socket_path
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import Part, SocketReady, TcpReady

_LOCAL = "127.0.0.1"


def parts(home: SandboxHome) -> tuple[Part, ...]:
    """Return the proxy and the relay."""
    return (_egress(home), _relay(home))


def _egress(home: SandboxHome) -> Part:
    port = home.port("egress")
    socket = home.run / "egress.sock"
    return Part(
        name="egress",
        command=(
            sys.executable,
            *("-m", "slipway.sandbox.network.egress"),
            *("--socket", str(socket)),
            *("--listen", f"{_LOCAL}:{port}"),
            *("--kubeconfig", str(pki.kubeconfig_path(home, pki.NETWORK))),
        ),
        ready=SocketReady(socket),
        addresses={"HTTP proxy into the cluster": f"http://{_LOCAL}:{port}"},
        # The API server waits for its own calls to webhooks when it stops.
        stop_after=("apiserver",),
    )


def _relay(home: SandboxHome) -> Part:
    port = home.port("relay")
    return Part(
        name="relay",
        command=(
            sys.executable,
            *("-m", "slipway.sandbox.network.relay"),
            *("--listen", f"{_LOCAL}:{port}"),
            *("--upstream", f"{_LOCAL}:{home.port('istiod-grpc')}"),
            *("--faults", str(socket_path(home.run))),
        ),
        # gRPC's library reports every connection that comes to its end.
        environment={"GRPC_VERBOSITY": "ERROR"},
        ready=TcpReady(_LOCAL, port),
    )
