"""Faults on purpose: the process that holds the ports clients dial, and passes bytes on."""

from __future__ import annotations

import sys

from slipway.sandbox import pki
from slipway.sandbox.faults.client import forget_faults
from slipway.sandbox.faults.model import PORTS
from slipway.sandbox.faults.paths import socket_path
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import Part, SocketReady


def prepare(home: SandboxHome) -> None:
    """Begin without faults; called before the parts are started, not when one is started again."""
    forget_faults(home.run)


def parts(home: SandboxHome) -> tuple[Part, ...]:
    """Return the one process."""
    doors = (f"{name}:{home.port(name)}:{home.port(f'{name}-inner')}" for name in PORTS)
    return (
        Part(
            name="faults",
            command=(
                *(sys.executable, "-m", "slipway.sandbox.faults", "--run", str(home.run)),
                *(word for door in doors for word in ("--door", door)),
                *("--kubeconfig", str(pki.kubeconfig_path(home, pki.NETWORK))),
                *("--pki", str(home.pki)),
                *("--filer", f"http://127.0.0.1:{home.port('s3-filer')}"),
            ),
            ready=SocketReady(socket_path(home.run)),
        ),
    )
