"""Adapters that repeat what may be repeated (retries of the first kind, DESIGN §5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.retries import call_with_retries


class RetryingKubernetesApi(KubernetesApi):
    """A connection whose reads, applies, stamps and deletes are repeated after a passing failure.

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

    def stamp(
        self, kind: str, namespace: str, name: str, *, fence: int, dry_run: bool = False
    ) -> None:
        """Put a fencing number on an object; see `KubernetesApi.stamp`. Twice equals once."""

        def once() -> None:
            KubernetesApi.stamp(self, kind, namespace, name, fence=fence, dry_run=dry_run)

        call_with_retries(once)
