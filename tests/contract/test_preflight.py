"""The Preflight port on its fake; on the API server: tests/e2e/test_port_contracts.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.port_suites.preflight import PreflightSubject, PreflightSuite
from tests.fakes.cluster import FakeCluster
from tests.fakes.preflight import FakePreflight


class TestFakePreflight(PreflightSuite):
    """The fake keeps the port's promises."""

    @pytest.fixture
    def subject(self) -> PreflightSubject:
        cluster = FakeCluster.serving("chat")
        everything, limited = FakePreflight(cluster), FakePreflight(cluster)
        limited.denied = {f"{verb} secrets in serving" for verb in ("get", "list")}
        limited.hidden = {"pods", "Pod"}

        def put(made: dict[str, Any]) -> None:
            everything.others.append(made)
            limited.others.append(made)

        return PreflightSubject(
            preflight=everything,
            limited=limited,
            put=put,
            namespace="guests",
            service="chat",
        )
