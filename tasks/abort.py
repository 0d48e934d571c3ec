"""A person stops a release: whoever holds the lock is told, and when nobody lives we do it."""

from __future__ import annotations

import secrets
import time
from typing import Any

from slipway.bootstrap.releases import Ports
from slipway.core.errors import ConflictError, SlipwayError, TransientError
from slipway.core.release.orders import Order, OrderKind, aborted, about
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.ports.records import Lease
from tasks.lock import take_lock
from tasks.progress import Progress
from tasks.reporting import reported
from tasks.rollback import rolled_back_on_failure
from tasks.session import (
    ReleaseSession,
    cleared_orders,
    connected,
    lock_is_lost,
    new_holder,
    taken_over,
)
from tasks.turn import caller, once

_LOOK_EVERY_S = 1.0
_PATIENCE_S = 900.0
"""Beyond the drain: a benchmark under way is not broken off."""

_LIVES = frozenset({"release-running", "conflict"})


def abort_release(service: str, *, reason: str = "") -> dict[str, Any]:
    """Stop the release under way and wait until it has been taken back; may be repeated.

    Returns:
        `release`, `phase` and `reason` of the record at the end; `aborted`, whether this release
        was stopped: False when there was none, or it had ended before.

    Raises:
        TransientError: `abort-unconfirmed`, it has not been taken back in time; the order stands.
        PermanentError: the service is not installed.
    """
    ports, progress = connected(service), Progress(f"{service} abort")
    record = _record(ports)
    if record is None or record.terminal:
        return _outcome(record)
    order = about(
        record,
        OrderKind.ABORT,
        order_id=f"abort-{secrets.token_hex(6)}",
        by=caller(),
        at_ns=time.time_ns(),
        reason=reason,
    )
    ports.orders.post(service, order)
    _await_end(ports, order, progress)
    ports.orders.remove(service, order.order_id)  # its effect is in the record
    ended = _record(ports)
    # Somebody's next release may have begun meanwhile: ours has ended, and that is what was asked.
    return _outcome(ended if ended and ended.release_id == order.release_id else record)


def abort_unfinished(service: str, *, reason: str = "") -> dict[str, Any] | None:
    """Abort the release under way as `abort_release` does; None when there is none to abort.

    A rollback that was left unfinished is none: going back is what it does.
    """
    record = _record(connected(service))
    if record is None or record.terminal or record.rollback:
        return None
    return abort_release(service, reason=reason)


def _await_end(ports: Ports, order: Order, progress: Progress) -> None:
    say = once(progress.say)
    until_s = time.monotonic() + _PATIENCE_S + ports.spec.policy.drain_timeout_s
    holder = new_holder()
    while (record := _unfinished(ports, order)) is not None:
        if time.monotonic() > until_s:
            raise TransientError(
                f"release {order.release_id} has not been taken back yet: phase {record.phase}",
                code="abort-unconfirmed",
                hint="the order stands and will be obeyed; look at:"
                f" slipway status {ports.spec.name}",
            )
        say(f"release {record.release_id} is in phase {record.phase}: waiting for its end")
        try:
            lease = take_lock(ports.releases, ports.spec.name, holder=holder, report=say)
        except (ConflictError, TransientError) as error:
            if isinstance(error, ConflictError) and error.code not in _LIVES:
                raise
            time.sleep(_LOOK_EVERY_S)  # between two looks; the limit above decides
            continue
        _take_back(ports, lease, order, progress)


def _unfinished(ports: Ports, order: Order) -> ReleaseRecord | None:
    record = _record(ports)
    ended = record is None or record.terminal or record.release_id != order.release_id
    return None if ended else record


def _take_back(ports: Ports, lease: Lease, order: Order, progress: Progress) -> None:
    """Take the release back ourselves: nobody lives who holds its lock."""
    with taken_over(ports, lease, progress) as (keeper, stored):
        if stored is None or _unfinished(ports, order) is None:
            return
        session = ReleaseSession(ports, stored, keeper, progress)
        try:
            with cleared_orders(session), reported(session), rolled_back_on_failure(session):
                raise aborted(order, session.record)
        except SlipwayError as error:
            if lock_is_lost(error) or not session.record.terminal:
                raise


def _record(ports: Ports) -> ReleaseRecord | None:
    stored = ports.releases.load(ports.spec.name)
    return None if stored is None else stored.record


def _outcome(record: ReleaseRecord | None) -> dict[str, Any]:
    if record is None:
        return {"release": "", "phase": "", "reason": "never released", "aborted": False}
    return {
        "release": record.release_id,
        "phase": str(record.phase),
        "reason": record.reason,
        "aborted": record.phase is Phase.ROLLED_BACK and record.failure_code == "aborted",
    }
