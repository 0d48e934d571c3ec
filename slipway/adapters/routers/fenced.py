"""Fencing numbers on the objects of a route, whichever they are."""

from __future__ import annotations

from collections.abc import Iterable

from slipway.adapters.kubernetes import require_object
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.core.errors import ConflictError


def stamp_all(
    api: KubernetesApi, namespace: str, objects: Iterable[tuple[str, str]], *, fence: int
) -> None:
    """Put a fencing number on each object, `(kind, name)`; see `slipway.ports.Traffic.stamp`."""
    for kind, name in objects:
        require_object(api, kind, namespace, name)
        api.stamp(kind, namespace, name, fence=fence)


def refused(api: KubernetesApi, kind: str, namespace: str, name: str, *, fence: int) -> bool:
    """Ask the API server by a dry run; see `slipway.ports.Traffic.refuses`."""
    require_object(api, kind, namespace, name)
    try:
        api.stamp(kind, namespace, name, fence=fence, dry_run=True)
    except ConflictError as error:
        if error.code != "lock-lost":
            raise
        return True
    return False
