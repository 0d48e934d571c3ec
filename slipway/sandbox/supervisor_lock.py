"""One supervisor for each folder."""

from __future__ import annotations

import fcntl
from typing import IO

from slipway.core.errors import ConflictError
from slipway.sandbox.home import SandboxHome


def own_folder(home: SandboxHome) -> IO[str]:
    """Take the lock of a sandbox's folder; it is gone with the process that holds it.

    Args:
        home: the sandbox, its folder created.

    Returns:
        The open file; closing it gives the lock back.

    Raises:
        ConflictError: another supervisor holds it.
    """
    lock = (home.run / "supervisor.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ConflictError(
            f"a supervisor of the sandbox in {home.root} is already running",
            code="sandbox-already-running",
            hint="stop it first: slipway sandbox down",
        ) from error
    return lock
