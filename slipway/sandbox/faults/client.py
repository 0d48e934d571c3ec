"""The other side of the control socket: for the command line and for tests."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import (
    ConflictError,
    InputError,
    PermanentError,
    SlipwayError,
    TransientError,
)
from slipway.sandbox.faults.disks import mark_nodes
from slipway.sandbox.faults.model import Fault
from slipway.sandbox.faults.paths import socket_path, store_path
from slipway.sandbox.faults.store import fault_from_json, read_faults

_TIMEOUT_S = 30.0
_KINDS: dict[str, type[SlipwayError]] = {
    kind.__name__: kind for kind in (InputError, TransientError, ConflictError, PermanentError)
}


@dataclass(frozen=True, slots=True)
class Done:
    """What a change came to.

    Args:
        faults: that were added, removed or listed.
        pods: addresses of all pods that the gateway reaches through a door now.
    """

    faults: tuple[Fault, ...]
    pods: tuple[str, ...]
    hits: Mapping[str, int]
    """Requests that each fault in force has hit since its process began, by id."""


def add_fault(run: Path, fault: Fault, lasts_s: float = 0.0) -> Done:
    """Put a fault in force.

    Args:
        run: the sandbox's `run` folder.
        fault: without id and times.
        lasts_s: how long; 0 for until it is removed.

    Raises:
        InputError: it makes no sense.
        TransientError: the sandbox does not run, or cannot apply it.
        ConflictError: the target carries too many.
    """
    return _ask(run, {"verb": "add", "fault": asdict(fault), "lasts_s": lasts_s})


def remove_faults(run: Path, ids: Iterable[str] = ()) -> Done:
    """Take faults back; all of them without ids.

    Raises:
        InputError: there is no such fault.
        TransientError: the sandbox does not run.
    """
    return _ask(run, {"verb": "remove", "ids": list(ids)})


def list_faults(run: Path) -> Done:
    """Return the faults in force with the number of requests that each has hit.

    Raises:
        TransientError: the sandbox does not run.
    """
    return _ask(run, {"verb": "list"})


def active_faults(run: Path) -> tuple[Fault, ...]:
    """Return the faults in force, in the order they were added."""
    return read_faults(store_path(run)).active


def forget_faults(run: Path) -> None:
    """Leave nothing for the next start; for a sandbox that is down."""
    store_path(run).unlink(missing_ok=True)
    mark_nodes(run, frozenset())


def _ask(run: Path, question: dict[str, object]) -> Done:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(socket_path(run)))
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer: dict[str, Any] = json.loads(file.readline())
    except (OSError, ValueError) as error:
        is_down = isinstance(error, FileNotFoundError)
        raise TransientError(
            f"no sandbox runs in {run.parent}"
            if is_down
            else f"the fault process of the sandbox does not answer: {error}",
            code="faults-unreachable",
            hint="slipway sandbox status says whether it runs; start it: slipway sandbox up",
        ) from error
    if "error" in answer:
        kind, message = (answer["error"].pop(name) for name in ("kind", "message"))
        raise _KINDS[kind](message, **answer["error"])
    faults = tuple(fault_from_json(item) for item in answer["faults"])
    return Done(faults, tuple(answer["pods"]), answer.get("hits", {}))
