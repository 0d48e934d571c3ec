"""A request's turn: at once when the service is free, else as its policy `when_busy` says."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from getpass import getuser

from slipway.bootstrap.releases import Ports
from slipway.core.errors import ConflictError, SlipwayError, TransientError
from slipway.core.release.orders import Order, OrderKind, next_number, overtaken_by
from slipway.core.service import WhenBusy
from slipway.ports.records import Lease
from tasks.lock import take_lock

Report = Callable[[str], None]

_LOOK_EVERY_S = 1.0
_SOMEBODY_WAS_FIRST = frozenset({"release-running", "conflict"})


@contextmanager
def turn(
    ports: Ports, version: str, *, holder: str, report: Report
) -> Iterator[tuple[Lease, Order | None]]:
    """Take the service's lock when it is this request's turn; yields it with the request's order.

    The order stands until the release has ended: so older requests that wait learn of it.

    Args:
        ports: of the service.
        version: asked for.
        holder: our name, unique to this process.
        report: told what is waited for.

    Raises:
        ConflictError: `release-running` with the policy `refuse`; `overtaken`, a newer request
            came; `queue-timeout`.
        PermanentError: the service is not installed.
    """
    service = ports.spec.name
    found = ports.orders.read(service)  # what is not installed is said before any write
    if ports.spec.policy.when_busy is WhenBusy.REFUSE:
        yield take_lock(ports.releases, service, holder=holder, report=report), None
        return
    own = Order(
        order_id=f"release-{secrets.token_hex(6)}",
        kind=OrderKind.RELEASE,
        version=version,
        by=caller(),
        at_ns=time.time_ns(),
        number=next_number(found.orders),
    )
    try:
        ports.orders.post(service, own)
        yield await_turn(ports, own, holder=holder, report=report), own
    finally:
        # One that stays behind is older than every request to come, and harms none of them.
        with suppress(SlipwayError):
            ports.orders.remove(service, own.order_id)


def await_turn(ports: Ports, own: Order, *, holder: str, report: Report) -> Lease:
    """Wait until the lock is free, or its holder dead, and take it; see `turn`."""
    until_s = time.monotonic() + ports.spec.policy.queue_timeout_s
    say = once(report)
    while True:
        _require_newest(ports, own)
        try:
            lease = take_lock(ports.releases, ports.spec.name, holder=holder, report=say)
            break
        except (ConflictError, TransientError) as error:
            if isinstance(error, ConflictError) and error.code not in _SOMEBODY_WAS_FIRST:
                raise
            if time.monotonic() > until_s:
                raise _waited_for_nothing(ports, own, error) from error
            say(f"version {own.version} waits for its turn: {error.message}")
            time.sleep(_LOOK_EVERY_S)  # between two looks; the limit above decides
    try:
        _require_newest(ports, own)
    except SlipwayError:
        with suppress(SlipwayError):
            ports.releases.release(lease)
        raise
    return lease


def caller() -> str:
    """Return who asks, for people: `USER@HOST`."""
    with suppress(OSError, KeyError):  # a container's user may have no name
        return f"{getuser()}@{socket.gethostname()}"
    return socket.gethostname()


def once(report: Report) -> Report:
    """Return a `report` that says nothing twice."""
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            report(text)

    return say


def _require_newest(ports: Ports, own: Order) -> None:
    try:
        orders = ports.orders.read(ports.spec.name).orders
    except TransientError:
        return  # asked again before the lock is taken, and after
    newer = overtaken_by(own, orders)
    if newer is None and own in orders:
        return
    # Who releases a newer version clears away the orders before its own.
    by = f"version {newer.version}, asked for by {newer.by}" if newer else "a newer request"
    raise ConflictError(
        f"the release of version {own.version} to service {ports.spec.name} was overtaken by {by}",
        code="overtaken",
        hint="of several requests that wait the newest is released; ask again if this one is meant",
    )


def _waited_for_nothing(ports: Ports, own: Order, error: SlipwayError) -> ConflictError:
    waited_s = ports.spec.policy.queue_timeout_s
    return ConflictError(
        f"version {own.version} has not had its turn within {waited_s:.0f} s: {error.message}",
        code="queue-timeout",
        hint=f"look at: slipway status {ports.spec.name}; the limit is policy.queue_timeout_s",
    )
