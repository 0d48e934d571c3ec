"""The container runtimes of the two nodes: what a kubelet drives, one process a node."""

from __future__ import annotations

import sys

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.network.addresses import pod_network
from slipway.sandbox.part import Part, SocketReady
from slipway.sandbox.parts.kubernetes import NODES

_CONTAINER_GRACE_S = 2.0
_STOP_GRACE_S = 15.0  # the containers' grace, and time to kill what ignores it


def parts(home: SandboxHome) -> tuple[Part, ...]:
    """Return the runtime of each node."""
    return tuple(_runtime(home, node.name) for node in NODES)


def _runtime(home: SandboxHome, node: str) -> Part:
    name = f"cri-{node}"
    socket = home.run / f"{name}.sock"
    return Part(
        name=name,
        command=(
            sys.executable,
            *("-m", "slipway.sandbox.runtime"),
            *("--node", node),
            *("--socket", str(socket)),
            *("--root", str(home.data(name))),
            *("--pod-network", pod_network(home.slice_of(node))),
            *("--registry", f"127.0.0.1:{home.port('registry')}"),
            *("--api", f"127.0.0.1:{home.port('apiserver')}"),
            *("--grace", f"{_CONTAINER_GRACE_S:g}"),
        ),
        ready=SocketReady(socket),
        # While its kubelet runs, containers that end are started again.
        stop_after=(f"kubelet-{node}",),
        stop_grace_s=_STOP_GRACE_S,
        node=node,
        keeps=home.data(name) / "containers",
    )
