"""A person allows a step of a canary from the command line; whoever holds the lock is told."""

from __future__ import annotations

import secrets
import time

from slipway.core.errors import InputError
from slipway.core.release.orders import OrderKind, about
from tasks.session import connected
from tasks.turn import caller


def approve_step(service: str, weight_percent: int) -> str:
    """Post a yes to a step of the canary under way; may be repeated. Returns what was done.

    Raises:
        InputError: no release is under way, or it has no such step that asks for a person.
        PermanentError: the service is not installed.
    """
    ports = connected(service)
    stored = ports.releases.load(service)
    record = stored.record if stored else None
    if record is None or record.terminal:
        raise InputError(
            f"no release of service {service} is under way",
            code="nothing-to-approve",
            hint=f"look at: slipway status {service}",
        )
    asking = [step.weight_percent for step in record.steps if step.approval]
    if weight_percent not in asking:
        raise InputError(
            f"release {record.release_id} asks nobody about {weight_percent} %",
            code="nothing-to-approve",
            hint=f"steps that ask: {', '.join(f'{one} %' for one in asking) or 'none'}",
        )
    order = about(
        record,
        OrderKind.APPROVE,
        order_id=f"approve-{secrets.token_hex(6)}",
        by=caller(),
        at_ns=time.time_ns(),
        weight_percent=weight_percent,
    )
    ports.orders.post(service, order)
    return f"{record.release_id}: {weight_percent} % allowed by {order.by}"
