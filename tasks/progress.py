"""What a person sees of a release while it runs: stages, times, and what is waited for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

_LOG = logging.getLogger("slipway.release")


def _log() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return the log of the flow or task run this is called in, so that its page shows the line."""
    try:
        return get_run_logger()
    except MissingContextError:
        return _LOG


class Progress:
    """Writes lines a person can follow, to the terminal and to the run's log.

    Args:
        title: printed before each line, for example `smollm v2`.
        stream: terminal; None writes only to the log (a worker's flow run).
    """

    def __init__(self, title: str, *, stream: TextIO | None = sys.stderr) -> None:
        self._title = title
        self._stream = stream
        self._stage = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Mark everything said meanwhile as belonging to the stage `name`."""
        outer, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = outer

    def say(self, text: str) -> None:
        """Tell what is going on or waited for."""
        self._write("·", self._stage, text)

    def done(self, stage: str, seconds: float, proof: str) -> None:
        """Tell that a stage ended well, with its time and proof."""
        self._write("✓", stage, f"{seconds:5.1f} s  {proof}")

    def failed(self, stage: str, reason: str) -> None:
        """Tell that a stage failed."""
        self._write("✗", stage, reason)

    def _write(self, mark: str, stage: str, text: str) -> None:
        _log().info("%s %s: %s", mark, stage or "release", text)
        if self._stream is None:
            return
        # A terminal that was closed must not end a release half way.
        with suppress(OSError):
            for line in text.splitlines() or [""]:
                self._stream.write(f"  {self._title:<16} {mark} {stage:<10} {line}\n")
