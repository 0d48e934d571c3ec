"""What this machine permits, and what the sandbox loses where it does not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from slipway.core.errors import PermanentError

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
