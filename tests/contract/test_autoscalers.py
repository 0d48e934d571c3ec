"""The Autoscalers port on its fake; on the API server: tests/e2e/test_port_contracts.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slipway.core.service import AutoscalerKind
from tests.contract.port_suites.autoscalers import AutoscalersSubject, AutoscalersSuite
from tests.examples import autoscaling
from tests.fakes.autoscalers import FakeAutoscalers
from tests.fakes.cluster import FakeCluster


def _wait(look: Callable[[], bool]) -> None:
    assert look()


class TestFakeAutoscalers(AutoscalersSuite):
    """The fake keeps the port's promises, for both kinds of objects."""

    @pytest.fixture(params=list(AutoscalerKind))
    def subject(self, request: pytest.FixtureRequest) -> AutoscalersSubject:
        return AutoscalersSubject(
            autoscalers=FakeAutoscalers(FakeCluster.serving("chat")),
            service="chat",
            namespace="serving",
            settings=autoscaling(request.param),
            wait=_wait,
        )
