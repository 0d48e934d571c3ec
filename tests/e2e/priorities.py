"""Users first: on a cluster the path of their requests shares no processor with a release.

On two cores it does, and at hundreds of streams a second the start of a command starves gateway and
servers for seconds: their answer, 503 by overload, is right and says nothing about routes.
"""

from __future__ import annotations

import os
from pathlib import Path

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.supervisor_status import read_status

_NICENESS = 10
BEHIND = ("nice", "-n", str(_NICENESS))
"""Put before a command that must not hinder users."""

_ON_THE_WAY = ("cri-node-", "gateway", "relay")
"""Parts that requests pass, or whose children answer them."""


def put_users_first(home: SandboxHome) -> None:
    """Let the parts of a sandbox that no request of a user passes stand back, to its end."""
    status = read_status(home)
    assert status is not None
    for part in status.parts:
        if not part.name.startswith(_ON_THE_WAY) and part.process is not None:
            for thread in Path(f"/proc/{part.process.pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICENESS)
