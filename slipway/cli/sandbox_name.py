"""The option `--name` of every command that means one sandbox."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from slipway.sandbox.home import SandboxHome

Name = Annotated[
    str | None,
    typer.Option(help="which of your sandboxes; several run side by side", show_default=False),
]
"""Option of every command that means a sandbox."""


_MEANT: ContextVar[SandboxHome | None] = ContextVar("_MEANT", default=None)
_COMMAND = re.compile(r"\bslipway sandbox (?!list\b)(?:(?:fault|node) )?[a-z]+\b(?! --name)")


def home_of(name: str | None) -> SandboxHome:
    """Return the sandbox that a command line means (`slipway.sandbox.home`).

    Raises:
        PermanentError: there can be none, this is not Linux.
        InputError: the name is none, or contradicts `SLIPWAY_HOME`.
    """
    from slipway.sandbox.home import SandboxHome
    from slipway.sandbox.machine import require_linux

    require_linux()
    home = SandboxHome.default(name)
    _MEANT.set(home)
    return home


def spelled_out(text: str) -> str:
    """Let the commands that a message names mean the sandbox that the command line meant."""
    home = _MEANT.get()
    option = home.option() if home else ""
    return _COMMAND.sub(rf"\g<0>{option}", text)
