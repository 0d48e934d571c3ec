"""What a person or a newer request says to the process that holds a service's lock.

An order is a value; who reads it decides what it means by the record alone, so that a process that
takes over reads the same out of it. Its effect goes into the record first, then it is removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from slipway.core.errors import PermanentError
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.service import WhenBusy
from slipway.core.strict_json import UnfitJsonError, read_as, read_object, to_json


class OrderKind(StrEnum):
    """What is asked for."""

    RELEASE = "release"
    ABORT = "abort"
    APPROVE = "approve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order; at most one is stored under an id.

    Args:
        order_id: lower-case letters, digits and hyphens; unique, and a key of its ConfigMap.
        version: RELEASE: the one that waits; else the one under the release that is meant.
        by: who ordered it.
        at_ns: Unix time, for people; what came first is told by `number`.
        number: of a RELEASE; one more than the highest found when it was ordered.
        release_id: of the release that an ABORT or APPROVE is about, empty for a RELEASE.
        weight_percent: of the canary step that an APPROVE allows, 0 otherwise.
        reason: a person's words, may be empty.
    """

    order_id: str
    kind: OrderKind
    version: str
    by: str
    at_ns: int
    number: int = 0
    release_id: str = ""
    weight_percent: int = 0
    reason: str = ""


def about(
    record: ReleaseRecord,
    kind: OrderKind,
    *,
    order_id: str,
    by: str,
    at_ns: int,
    weight_percent: int = 0,
    reason: str = "",
) -> Order:
    """Return an order about the release of `record`; the arguments are those of `Order`."""
    return Order(
        order_id=order_id,
        kind=kind,
        version=record.version,
        by=by,
        at_ns=at_ns,
        release_id=record.release_id,
        weight_percent=weight_percent,
        reason=reason,
    )


class Meaning(StrEnum):
    """What an order means for a record.

    NOTHING: not now, or not to this release. SPENT: it has had its effect, or can never have one.
    """

    ABORT = "abort"
    GIVE_WAY = "give_way"
    APPROVE = "approve"
    NOTHING = "nothing"
    SPENT = "spent"


def meaning(
    order: Order, record: ReleaseRecord, *, when_busy: WhenBusy, own: Order | None
) -> Meaning:
    """Return what `order` means for the release of `record`.

    Args:
        order: as read.
        record: of the release under way, or of the last one.
        when_busy: of the service's policy.
        own: order of the request that is under way itself; None when it was never ordered.
    """
    if order.kind is OrderKind.RELEASE:
        return _of_release(order, record, when_busy=when_busy, own=own)
    if order.release_id != record.release_id or record.terminal:
        return Meaning.SPENT
    if order.kind is OrderKind.ABORT:
        return Meaning.NOTHING if record.phase is Phase.ROLLING_BACK else Meaning.ABORT
    if order.weight_percent in {item.weight_percent for item in record.approvals}:
        return Meaning.SPENT
    asked = any(step.weight_percent == order.weight_percent for step in record.steps)
    return Meaning.APPROVE if asked else Meaning.SPENT


def _of_release(
    order: Order, record: ReleaseRecord, *, when_busy: WhenBusy, own: Order | None
) -> Meaning:
    if own is not None and not is_newer(order, own):
        return Meaning.NOTHING if order == own else Meaning.SPENT
    # From promoted on the release goes to its end: going back to an old version only to leave it
    # again would move the users twice. So does one that itself goes back to a former version.
    gives_way = (
        when_busy is WhenBusy.SUPERSEDE
        and order.version != record.version
        and record.proved is not None
        and not record.has_reached(Phase.PROMOTED)
        and not record.rollback
    )
    return Meaning.GIVE_WAY if gives_way else Meaning.NOTHING


def is_newer(order: Order, other: Order) -> bool:
    """Return whether one RELEASE order came after another; no clock is asked.

    Two that were ordered at the same moment have one number; then their ids decide, everywhere
    alike.
    """
    return (order.number, order.order_id) > (other.number, other.order_id)


def next_number(orders: Iterable[Order]) -> int:
    """Return the number of a RELEASE order that comes after all of `orders`."""
    return 1 + max((order.number for order in orders), default=0)


def overtaken_by(own: Order, orders: Iterable[Order]) -> Order | None:
    """Return the newest RELEASE order after `own`, None when ours is the newest."""
    newest = own
    for order in orders:
        if order.kind is OrderKind.RELEASE and is_newer(order, newest):
            newest = order
    return None if newest is own else newest


def stop_by(order: Order, means: Meaning, record: ReleaseRecord) -> PermanentError | None:
    """Return the error that ends a release by an order; None when the order ends none."""
    if means is Meaning.ABORT:
        return aborted(order, record)
    if means is Meaning.GIVE_WAY:
        return PermanentError(
            f"release {record.release_id} gave way to version {order.version},"
            f" asked for by {order.by}",
            code="superseded",
            hint=f"version {order.version} is released next: slipway status {record.service}",
        )
    return None


def aborted(order: Order, record: ReleaseRecord) -> PermanentError:
    """Return the error that ends a release by an order to abort it."""
    return PermanentError(
        f"release {record.release_id} was aborted by {order.by}"
        + (f": {order.reason}" if order.reason else ""),
        code="aborted",
        hint=f"to release it after all: slipway release {record.service} {record.version}",
    )


class Leftover(StrEnum):
    """What a newcomer does with the unfinished release of a process that died."""

    NONE = "none"
    REFUSE = "refuse"
    TAKE_BACK = "take_back"
    FINISH = "finish"


def leftover(record: ReleaseRecord, *, version: str, when_busy: WhenBusy) -> Leftover:
    """Return what becomes of the release of `record` when `version` has its turn.

    The same as under a holder that lives: users who were promoted to a version stay there until
    its release has ended, users who were not never get to it.

    Args:
        record: of the service's last release.
        version: asked for now.
        when_busy: of the service's policy.
    """
    if record.terminal or (record.version == version and not record.rollback):
        return Leftover.NONE
    if when_busy is WhenBusy.REFUSE:
        return Leftover.REFUSE
    return Leftover.FINISH if record.has_reached(Phase.PROMOTED) else Leftover.TAKE_BACK


def order_to_storage(order: Order) -> str:
    """Return the order as canonical JSON (sorted keys, no spaces), equal for equal orders."""
    return to_json(order)


def order_from_storage(text: str) -> Order:
    """Return the order that `text` states.

    Raises:
        PermanentError: `order-damaged`: no JSON, or a field is missing, unknown or of the wrong
            type.
    """
    try:
        order: Order = read_as(Order, read_object(text), "order")
    except UnfitJsonError as error:
        raise _damaged(str(error)) from error
    return order


def _damaged(what: str) -> PermanentError:
    return PermanentError(
        f"the order cannot be read: {what}",
        code="order-damaged",
        hint="give the order again; the damaged one is left where it is",
    )
