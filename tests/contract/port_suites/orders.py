"""The promises of `slipway.ports.Orders`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest

from slipway.core.errors import PermanentError
from slipway.core.release.orders import Order, OrderKind
from slipway.ports.records import Orders


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdersSubject:
    """What is under test.

    Args:
        service: installed for this test alone; nobody has ordered anything.
        missing_service: name of a service that is not installed.
        scribble: stores a text under a key, past the port, as somebody's editor would.
    """

    orders: Orders
    service: str
    missing_service: str
    scribble: Callable[[str, str], None]


def an_order(order_id: str = "abort-1", **changes: Any) -> Order:
    """Return an order to abort."""
    made = Order(
        order_id=order_id,
        kind=OrderKind.ABORT,
        version="2",
        by='Zoë "on call"',
        at_ns=1_790_000_000_000_000_001,
        release_id="chat-v2-2",
        reason="answers are odd\n→ look at them",
    )
    return replace(made, **changes)


class OrdersSuite:
    """Orders stand beside each other; none is lost to another, none is guessed."""

    @pytest.fixture
    def subject(self) -> OrdersSubject:
        """Return what is under test; overridden."""
        raise NotImplementedError

    def test_service_just_installed_has_no_orders(self, subject: OrdersSubject) -> None:
        found = subject.orders.read(subject.service)
        assert (found.orders, dict(found.unreadable)) == ((), {})

    def test_orders_posted_are_read_equal_and_sorted_by_id(self, subject: OrdersSubject) -> None:
        release = an_order("release-1", kind=OrderKind.RELEASE, number=7, release_id="")
        approve = an_order("approve-1", kind=OrderKind.APPROVE, weight_percent=25)
        for order in (release, an_order(), approve):
            subject.orders.post(subject.service, order)
        assert subject.orders.read(subject.service).orders == (an_order(), approve, release)

    def test_order_posted_twice_stands_once_as_it_was_last(self, subject: OrdersSubject) -> None:
        subject.orders.post(subject.service, an_order())
        subject.orders.post(subject.service, an_order(reason="another"))
        assert subject.orders.read(subject.service).orders == (an_order(reason="another"),)

    def test_order_removed_is_gone_and_the_others_stay(self, subject: OrdersSubject) -> None:
        for order_id in ("abort-1", "abort-2"):
            subject.orders.post(subject.service, an_order(order_id))
        subject.orders.remove(subject.service, "abort-1")
        subject.orders.remove(subject.service, "abort-1")
        assert subject.orders.read(subject.service).orders == (an_order("abort-2"),)

    def test_removing_an_order_that_never_was_is_no_error(self, subject: OrdersSubject) -> None:
        subject.orders.remove(subject.service, "abort-9")
        assert subject.orders.read(subject.service).orders == ()

    def test_orders_of_many_at_once_are_all_there(self, subject: OrdersSubject) -> None:
        orders = [an_order(f"abort-{index}") for index in range(8)]
        with ThreadPoolExecutor(8) as people:
            list(people.map(lambda one: subject.orders.post(subject.service, one), orders))
        assert list(subject.orders.read(subject.service).orders) == orders

    def test_what_cannot_be_read_is_named_and_left_beside_what_can(
        self, subject: OrdersSubject
    ) -> None:
        subject.scribble("abort-0", "{ no order")
        subject.orders.post(subject.service, an_order())
        found = subject.orders.read(subject.service)
        assert found.orders == (an_order(),)
        assert list(found.unreadable) == ["abort-0"]
        subject.orders.remove(subject.service, "abort-0")
        assert dict(subject.orders.read(subject.service).unreadable) == {}

    @pytest.mark.parametrize("verb", ["read", "post", "remove"])
    def test_service_not_installed_is_refused_naming_what_to_do(
        self, subject: OrdersSubject, verb: str
    ) -> None:
        more = {"read": (), "post": (an_order(),), "remove": ("abort-1",)}[verb]
        with pytest.raises(PermanentError) as caught:
            getattr(subject.orders, verb)(subject.missing_service, *more)
        assert caught.value.code == "not-installed"
        assert caught.value.hint.endswith(f"slipway install {subject.missing_service}")
