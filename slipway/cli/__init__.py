"""The command line `slipway`.

Each group of commands is a module with a typer application; heavy libraries are imported by the
commands that need them, so that `slipway --help` stays quick.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from pathlib import Path

import typer

from slipway.cli import context, exit_codes
from slipway.cli.sandbox_name import spelled_out
from slipway.core.errors import PermanentError, SlipwayError

GROUPS: tuple[tuple[str, str], ...] = (
    ("sandbox", "slipway.cli.sandbox:app"),
    ("backup", "slipway.cli.backup:app"),
)
"""Name of a group of commands → MODULE:ATTRIBUTE of its typer application."""

_OTHERS = ("release", "undo", "adopt", "watch")
"""Modules of the commands that are in no group."""


def application(command: str = "") -> typer.Typer:
    """Return the command line.

    Args:
        command: a group's name loads that group alone, which halves the time until it works; any
            other word loads the whole.
    """
    app = typer.Typer(
        name="slipway",
        help="Takes a new version of a large language model from the registry to live traffic.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(context.choose)
    wanted = {command} & dict(GROUPS).keys() or dict(GROUPS).keys()
    for name, target in GROUPS:
        if name in wanted:
            module, attribute = target.split(":")
            app.add_typer(getattr(importlib.import_module(module), attribute), name=name)
    for module in () if command in wanted else _OTHERS:
        importlib.import_module(f"slipway.cli.{module}").add_to(app)
    return app


def main() -> None:
    """Run the command line; errors of Slipway become one message and an exit code."""
    try:
        sys.argv[1:] = context.hoisted(sys.argv[1:])
        application(context.command_of(sys.argv[1:]))()
    except SlipwayError as error:
        sys.stderr.write(f"slipway: {spelled_out(str(error))}\n{_disk_note()}")
        sys.exit(exit_codes.exit_code(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"slipway: the disk is full: {error} [disk-full]\n  → make room\n")
        sys.exit(exit_codes.exit_code(PermanentError("", code="disk-full", hint="")))
    except KeyboardInterrupt:
        sys.stderr.write("slipway: interrupted\n")
        sys.exit(exit_codes.INTERRUPTED)


def _disk_note() -> str:
    """Return a line that says so when the disk of this process's sandbox is full, else nothing.

    Its parts then refuse each in words of their own (503, no answer), which lead astray.
    """
    home = Path(os.environ.get("SLIPWAY_HOME") or os.devnull)
    if not home.is_dir():
        return ""
    from slipway.sandbox.machine import is_full

    return (
        f"  → make room first: the disk of the sandbox in {home} is full\n" if is_full(home) else ""
    )
