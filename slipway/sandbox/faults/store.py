"""The faults of one sandbox in one file; only the fault process writes it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from slipway.sandbox.faults.model import Fault, Kind, Place, Target


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong on purpose.

    Args:
        active: in the order they were added.
        added: how many were added so far: gives the next id.
    """

    active: tuple[Fault, ...] = ()
    added: int = 0


def read_faults(path: Path) -> Faults:
    """Return what the file says; nothing when it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
        active = tuple(fault_from_json(item) for item in content["active"])
        return Faults(active, int(content["added"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Faults()


def write_faults(path: Path, faults: Faults) -> None:
    """Write the file whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    content = {"active": [asdict(fault) for fault in faults.active], "added": faults.added}
    with draft.open("w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def fault_from_json(item: dict[str, object]) -> Fault:
    """Return a fault from what `dataclasses.asdict` made of it.

    Raises:
        ValueError, KeyError, TypeError: it was not made so.
    """
    fields: dict[str, object] = dict(item)
    where = fields.pop("target")
    if not isinstance(where, dict):
        raise TypeError(where)
    target = Target(Place(where["place"]), str(where["name"]), str(where["namespace"]))
    kind = Kind(str(fields.pop("kind")))
    return Fault(target=target, kind=kind, **fields)  # type: ignore[arg-type]  # names are checked
