"""Full disks: the object store refuses writes by itself, a node's runtime refuses to pull.

Nothing is filled. SeaweedFS takes a rule for its folder of buckets while it runs (`filer.conf`,
`readOnly`); measured with 4.48: within a second every upload is answered 500 InternalError, reads
and deletes go on, and what was there stays. The runtime of a node sees a file and answers a pull as
the kernel would: no space left on device.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from slipway.core.errors import TransientError
from slipway.sandbox.faults.model import Fault, Kind, Place
from slipway.sandbox.faults.paths import full_disk_path

S3 = "s3"
_RULES = "/etc/seaweedfs/filer.conf"
_TIMEOUT_S = 5.0


def full_nodes(faults: Iterable[Fault]) -> frozenset[str]:
    """Return the nodes whose disk is said to be full."""
    return frozenset(
        fault.target.name
        for fault in faults
        if fault.kind is Kind.DISK_FULL and fault.target.place is Place.NODE
    )


def is_s3_full(faults: Iterable[Fault]) -> bool:
    """Whether the object store's disk is said to be full."""
    return any(fault.kind is Kind.DISK_FULL and fault.target.name == S3 for fault in faults)


def mark_nodes(run: Path, names: frozenset[str]) -> None:
    """Let exactly these nodes be full."""
    for path in run.glob(full_disk_path(run, "*").name):
        name = path.name.removeprefix(full_disk_path(run, "").name)
        if name != S3 and name not in names:
            path.unlink(missing_ok=True)
    for name in names:
        full_disk_path(run, name).touch(mode=0o600)


async def set_s3(run: Path, filer: str, *, full: bool) -> None:
    """Let the object store refuse writes, or take them again; does nothing when it does already.

    Raises:
        TransientError: the object store does not answer.
    """
    mark = full_disk_path(run, S3)
    if not full and not mark.exists():
        return
    mark.touch(mode=0o600)  # first, so that a killed process leaves word of what it began
    locations = [{"locationPrefix": "/buckets/", "readOnly": True}] if full else []
    import httpx  # heavy, and hardly ever needed

    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
            answer = await client.put(
                f"{filer}{_RULES}", content=json.dumps({"version": 1, "locations": locations})
            )
            answer.raise_for_status()
    except httpx.HTTPError as error:
        raise TransientError(
            f"the object store does not take the rule that its disk is full: {error!r}",
            code="fault-not-applied",
            hint="slipway sandbox logs s3",
        ) from error
    if not full:
        mark.unlink(missing_ok=True)
