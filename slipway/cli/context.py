"""The option `--context` of every command: which cluster is meant, and as whom."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from slipway.settings import CONTEXT_VARIABLE

_OPTION = "--context"


def hoisted(words: Sequence[str]) -> list[str]:
    """Return a command line with its `--context NAME` in front, wherever it stood.

    No command has another option of that name, and none a use for it as a value.
    """
    rest, found = list(words), list[str]()
    end = rest.index("--") if "--" in rest else len(rest)
    at = 0
    while at < end:
        if rest[at] == _OPTION or rest[at].startswith(f"{_OPTION}="):
            length = min(2 if rest[at] == _OPTION else 1, end - at)
            found += rest[at : at + length]
            del rest[at : at + length]
            end -= length
        else:
            at += 1
    return [*found, *rest]


def command_of(words: Sequence[str]) -> str:
    """Return the first word that is no option, of a command line that `hoisted` returned."""
    after_context = 2 if words[:1] == [_OPTION] else 0
    return next((word for word in words[after_context:] if not word.startswith("-")), "")


def choose(
    context: Annotated[
        str | None,
        typer.Option(
            _OPTION,
            metavar="NAME",
            help="of the kubeconfig, before or after the command; the current one when left out",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Let the whole process, and what it starts, use a context of the kubeconfig."""
    if context is not None:
        os.environ[CONTEXT_VARIABLE] = context
