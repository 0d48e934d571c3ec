"""The name under which a process holds a service's lock."""

from __future__ import annotations

import re

from slipway.core.errors import PermanentError

_NAME = re.compile(r"[^/\s]+/[0-9]+/[0-9a-f]{8}")


def holder_name(host: str, pid: int, token: str) -> str:
    """Return the name of a process as a holder of locks.

    Args:
        host: on which it runs.
        pid: its number there.
        token: eight hexadecimal digits that make it unique.
    """
    return f"{host}/{pid}/{token}"


def refuse_stranger(service: str, holder: str) -> None:
    """Refuse a lock that something other than Slipway holds: nobody knows what it means by that.

    Args:
        service: whose lock.
        holder: of the lock, empty when it is free.

    Raises:
        PermanentError: `lock-foreign`.
    """
    if not holder or _NAME.fullmatch(holder):
        return
    raise PermanentError(
        f"the lock of service {service} is held by {holder!r}, which is no process of Slipway",
        code="lock-foreign",
        hint=f"find out who writes the Lease slipway-{service}; when nobody does any more, clear"
        " its spec.holderIdentity as an administrator",
    )
