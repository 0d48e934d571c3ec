"""The watcher: looks at the services of this checkout once a second, as its Deployment would."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import FileReady, Part


def parts(home: SandboxHome, *, environment: Mapping[str, str]) -> tuple[Part, ...]:
    """Return the one process.

    Args:
        home: of the sandbox.
        environment: of the process.
    """
    ready = home.run / "watcher.ready"
    return (
        Part(
            name="watcher",
            command=(sys.executable, "-m", "slipway.cli", "watch", "--ready-file", str(ready)),
            environment=environment,
            ready=FileReady(ready),
            # Nothing waits for it: it must not take the processors from those that are waited for.
            after=("apiserver", "prefect-server"),
        ),
    )
