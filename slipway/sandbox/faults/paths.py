"""Files of the faults in the `run` folder of a sandbox. Pure."""

from __future__ import annotations

from pathlib import Path


def store_path(run: Path) -> Path:
    """Return the file of the faults."""
    return run / "faults.json"


def socket_path(run: Path) -> Path:
    """Return the control socket."""
    return run / "faults.sock"


def full_disk_path(run: Path, name: str) -> Path:
    """Return the file that says that the disk of a node, or of `s3`, is full."""
    return run / f"disk-full-{name}"
