"""Retries of the first kind (DESIGN §5): seconds, idempotent calls only, obeying Retry-After."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from slipway.core.errors import TransientError

Result = TypeVar("Result")

ATTEMPTS = 3
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


def call_with_retries(
    call: Callable[[], Result],
    *,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Return what `call` returns, repeating it after a TransientError.

    Args:
        call: must be idempotent.
        attempts: in all; the last error is raised as it is.
    """
    wait_s = _FIRST_WAIT_S
    for _ in range(attempts - 1):
        try:
            return call()
        except TransientError as error:
            sleep(min(error.retry_after_s or wait_s, _LONGEST_WAIT_S))
            wait_s *= 2
    return call()
