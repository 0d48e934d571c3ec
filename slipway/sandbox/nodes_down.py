"""Which simulated machines are held down on purpose: `slipway sandbox node kill|revive`.

The wish lies in a file beside the sockets, so it outlives a killed supervisor; `down` forgets it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from slipway.sandbox.home import SandboxHome


def nodes_down(home: SandboxHome) -> frozenset[str]:
    """Return the names of the nodes to be held down."""
    try:
        return frozenset(json.loads(_path(home).read_text()))
    except FileNotFoundError:
        return frozenset()


def write_nodes_down(home: SandboxHome, nodes: Collection[str]) -> None:
    """Replace the wish atomically; the supervisor reads it when it starts and when told."""
    draft = _path(home).with_name(f".nodes-down.{os.getpid()}")
    draft.write_text(json.dumps(sorted(nodes)))
    draft.replace(_path(home))


def forget_nodes_down(home: SandboxHome) -> None:
    """Hold no node down any more."""
    _path(home).unlink(missing_ok=True)


def _path(home: SandboxHome) -> Path:
    return home.run / "nodes-down.json"
