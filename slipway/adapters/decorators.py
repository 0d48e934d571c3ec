"""Retries of the first kind (DESIGN §5): seconds, idempotent calls only, obeying Retry-After."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from slipway.adapters.kubernetes_api import KubernetesApi
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


class RetryingKubernetesApi(KubernetesApi):
    """A connection whose reads, applies and deletes are repeated after a passing failure.

    Writes guarded by a resourceVersion are not: after a lost answer a repeat would look like a
    conflict with somebody else.
    """

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request; see `KubernetesApi.call`."""

        def once() -> dict[str, Any]:
            return KubernetesApi.call(
                self, method, path, body=body, query=query, content_type=content_type
            )

        idempotent = method in {"GET", "DELETE"} or content_type == "application/apply-patch+yaml"
        return call_with_retries(once) if idempotent else once()
