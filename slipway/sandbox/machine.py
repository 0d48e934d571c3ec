"""What this machine permits, and what the sandbox loses where it does not."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

from slipway.core.errors import PermanentError, SlipwayError

NEEDED_BYTES = 500_000_000
"""An empty sandbox writes about half of it in its first minute (etcd and S3 allocate ahead)."""

_FULL_BYTES = 20_000_000
_KERNEL_LOG = Path("/dev/kmsg")


def require_linux(platform: str = sys.platform) -> None:
    """Refuse systems on which no sandbox runs.

    Args:
        platform: as `sys.platform` names it.

    Raises:
        PermanentError: it is not Linux; says what works there.
    """
    if platform != "linux":
        raise PermanentError(
            f"the sandbox needs Linux, and this is {platform}: its parts are built for Linux, and "
            "containers and their addresses rest on Linux namespaces and loopback",
            code="system-unsupported",
            hint="what works here: releases to a cluster of yours (docs/how-to/real-cluster.md) "
            "and `make test-unit`; for the sandbox take a Linux machine or a virtual one "
            "(on Windows: WSL 2)",
        )


def losses(folder: Path) -> tuple[str, ...]:
    """Return what containers and kubelets go without on this machine, a sentence each.

    Args:
        folder: empty, for a short-lived mount.
    """
    from slipway.sandbox.runtime.keeper import probe

    folder.mkdir(exist_ok=True)
    return told_losses(probe(folder), kernel_log=_kernel_log_or_namespace())


def told_losses(forbidden: str, *, kernel_log: bool) -> tuple[str, ...]:
    """Return what is lost, a sentence each.

    Args:
        forbidden: what a container would need and may not have; "" when all is permitted.
        kernel_log: whether kubelets may read the kernel's log, or run in a user namespace.
    """
    told = []
    if forbidden:
        # What the kernel says when the number of user namespaces is limited (user_namespaces(7)).
        reason = forbidden.replace(os.strerror(errno.ENOSPC), "their permitted number is reached")
        told.append(
            f"containers run without namespaces ({reason}): they see this machine's files and "
            "processes, their images may be written to, mounts are never read-only, and a program "
            "that opens a path its command line and environment do not name finds this machine's. "
            "An administrator permits namespaces by `sysctl user.max_user_namespaces=10000`, on "
            "Ubuntu also `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
        )
    if not kernel_log:
        told.append(
            "kubelets report no events (they may neither read the kernel's log nor run in a user "
            "namespace): `kubectl describe` shows those of the other controllers only"
        )
    return tuple(told)


def _kernel_log_or_namespace() -> bool:
    """Try what a kubelet tries at its start (`controlplane/host.go`)."""
    try:
        _KERNEL_LOG.open("rb").close()
    except OSError:
        command = ("unshare", "--user", "--map-current-user", "true")
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False
    return True


def require_space(folder: Path) -> None:
    """Refuse to start a sandbox that would stop for want of disk space.

    Args:
        folder: of the sandbox; it exists.

    Raises:
        PermanentError: its file system has less room than an empty sandbox needs.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < NEEDED_BYTES:
        raise _full(folder, free_bytes)


def explained(error: SlipwayError | OSError, folder: Path) -> PermanentError | None:
    """Return what a full disk did, None where an error has another cause.

    Parts tell of a full disk each in words of their own, many lines deep.

    Args:
        error: what stopped a start.
        folder: of the sandbox.
    """
    out_of_space = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if not out_of_space and not is_full(folder):
        return None
    return _full(folder, shutil.disk_usage(folder).free)


def is_full(folder: Path) -> bool:
    """Return whether hardly anything more can be written where a folder is."""
    return shutil.disk_usage(folder).free < _FULL_BYTES


def _full(folder: Path, free_bytes: int) -> PermanentError:
    return PermanentError(
        f"the disk is full: {free_bytes / 1e6:.0f} MB are free for {folder}",
        code="disk-full",
        hint=f"make room: a sandbox needs {NEEDED_BYTES / 1e6:.0f} MB, and each version of a model "
        "its size four times (registry, image, unpacked image, object store); or choose another "
        "disk by SLIPWAY_HOME",
    )
