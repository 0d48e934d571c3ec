"""What the commands of `slipway backup` share."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.settings import BackupSettings, backup_settings

if TYPE_CHECKING:
    from slipway.backup.sending import Progress
    from slipway.bootstrap.backups import Opened

Place = Annotated[
    str | None,
    typer.Option(
        "--repository",
        metavar="PLACE",
        help="s3://BUCKET/PREFIX or a folder; SLIPWAY_BACKUP_REPOSITORY when left out",
        show_default=False,
    ),
]
Which = Annotated[
    str, typer.Argument(metavar="VERSION", help="MODEL for its newest, or MODEL@… as listed")
]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_SHOWN_EVERY_S = 0.5


def opened(place: str | None) -> tuple[BackupSettings, Opened]:
    """Return the settings of this process and the repository that they name."""
    from slipway.bootstrap.backups import open_backups

    settings = backup_settings(place)
    return settings, open_backups(settings)


def size(size_bytes: float) -> str:
    """Return a number of bytes for people, in decimal units."""
    for unit in _UNITS:
        if abs(size_bytes) < 1_000 or unit == _UNITS[-1]:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1_000
    raise AssertionError("the last unit takes any number")


def stamp(at_ns: int | None) -> str:
    """Return a time for people, UTC; "never" for None."""
    if at_ns is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_ns // 10**9))


@contextmanager
def shown_progress(what: str, size_bytes: int = 0) -> Iterator[Progress]:
    """Give what shows bytes, rate and the time left in one line, on a terminal; else nothing.

    Args:
        what: is done.
        size_bytes: in all; 0 is not known, and no time is said.
    """
    begun_s = shown_s = time.monotonic()
    is_terminal = sys.stderr.isatty()

    def show(done_bytes: int, sent_bytes: int) -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        if not is_terminal or now_s - shown_s < _SHOWN_EVERY_S:
            return
        shown_s = now_s
        rate = done_bytes / (now_s - begun_s)
        whole = f" of {size(size_bytes)}" if size_bytes else ""
        sent = f", {size(sent_bytes)} sent" if sent_bytes else ""
        left = f", {(size_bytes - done_bytes) / rate:.0f} s left" if size_bytes and rate else ""
        sys.stderr.write(f"\r\033[K{what} {size(done_bytes)}{whole}{sent}, {size(rate)}/s{left}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        if is_terminal:
            sys.stderr.write("\r\033[K")


def say(line: str) -> None:
    """Print a line as it is."""
    typer.echo(line)
