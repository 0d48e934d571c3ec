"""Where the fault process finds everything: its command line as a value."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from slipway.sandbox.faults.answers import Dialect
from slipway.sandbox.faults.door import Way
from slipway.sandbox.faults.paths import socket_path, store_path

_LOCAL = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the process is told.

    Args:
        run: folder of the sandbox's sockets; the faults lie there, too.
        ways: the fixed doors by the name of their server.
        kubeconfig: of the API server's inner port; may appear later.
        pki: folder of the sandbox's certificates.
        filer: URL of the object store's inner door, where its disk is said to be full.
    """

    run: Path
    ways: dict[str, Way]
    kubeconfig: Path
    pki: Path
    filer: str

    @property
    def store(self) -> Path:
        """The file of the faults."""
        return store_path(self.run)

    @property
    def socket(self) -> Path:
        """The control socket."""
        return socket_path(self.run)


def parse(arguments: list[str]) -> Settings:
    """Read the command line; exits with its usage when it is wrong."""
    parser = argparse.ArgumentParser(prog="slipway.sandbox.faults")
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument("--door", action="append", default=[], help="SERVER:PORT:INNER_PORT")
    parser.add_argument("--kubeconfig", required=True, type=Path)
    parser.add_argument("--pki", required=True, type=Path)
    parser.add_argument("--filer", required=True)
    found = parser.parse_args(arguments)
    ways = {}
    for door in found.door:
        name, port, inner = door.split(":")
        ways[name] = Way(_LOCAL, int(port), _LOCAL, int(inner), Dialect(name))
    return Settings(found.run, ways, found.kubeconfig, found.pki, found.filer)
