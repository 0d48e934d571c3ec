"""The Orders port on its fake; on the API server: tests/e2e/test_port_contracts.py."""

from __future__ import annotations

import pytest

from tests.contract.port_suites.orders import OrdersSubject, OrdersSuite
from tests.fakes.cluster import FakeCluster
from tests.fakes.orders import FakeOrders


class TestFakeOrders(OrdersSuite):
    """The fake keeps the port's promises."""

    @pytest.fixture
    def subject(self) -> OrdersSubject:
        cluster = FakeCluster.serving("chat")
        return OrdersSubject(
            orders=FakeOrders(cluster),
            service="chat",
            missing_service="missing",
            scribble=lambda key, text: cluster.orders["chat"].update({key: text}),
        )
