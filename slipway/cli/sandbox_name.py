"""The option `--name` of every command that means one sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from slipway.sandbox.home import SandboxHome

Name = Annotated[
    str | None,
    typer.Option(help="which of your sandboxes; several run side by side", show_default=False),
]
"""Option of every command that means a sandbox."""


def home_of(name: str | None) -> SandboxHome:
    """Return the sandbox that a command line means (`slipway.sandbox.home`).

    Raises:
        PermanentError: there can be none, this is not Linux.
        InputError: the name is none, or contradicts `SLIPWAY_HOME`.
    """
    from slipway.sandbox.home import SandboxHome
    from slipway.sandbox.machine import require_linux

    require_linux()
    return SandboxHome.default(name)
