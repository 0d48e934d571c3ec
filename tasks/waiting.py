"""Waiting for something outside to become true: monotonic clock, a limit, and out loud."""

from __future__ import annotations

import time
from collections.abc import Callable

from slipway.core.errors import PermanentError

Report = Callable[[str], None]


def wait_until(
    look: Callable[[], str | None],
    *,
    timeout_s: float,
    what: str,
    report: Report,
    poll_s: float = 0.25,
) -> float:
    """Call `look` until it returns None; what it returns instead is what is waited for.

    Returns:
        seconds waited.

    Raises:
        PermanentError: not in time; carries what was waited for last.
    """
    started = time.monotonic()
    said = ""
    while (waiting := look()) is not None:
        if waiting != said:
            report(waiting)
            said = waiting
        if time.monotonic() - started > timeout_s:
            raise PermanentError(
                f"{what} not within {timeout_s:.0f} s: {waiting}",
                code="not-in-time",
                hint="look at the events of the objects named, then run the release again",
            )
        time.sleep(poll_s)
    return time.monotonic() - started
