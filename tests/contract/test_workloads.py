"""The Workloads port on its fake; on the API server: tests/e2e/test_port_contracts.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.contract.port_suites.workloads import WorkloadsSubject, WorkloadsSuite
from tests.fakes.cluster import FakeCluster
from tests.fakes.services import small_service
from tests.fakes.workloads import FakeWorkloads

_GOOD = f"127.0.0.1:5000/models/demo@sha256:{'a' * 64}"
_MISSING = f"127.0.0.1:5000/models/demo@sha256:{'f' * 64}"


def _wait(look: Callable[[], bool]) -> None:
    assert any(look() for _ in range(20)), "not true after twenty looks"


class TestFakeWorkloads(WorkloadsSuite):
    """The fake keeps the port's promises, whether pods need looks to become ready or not."""

    @pytest.fixture(params=[0, 3])
    def subject(self, request: pytest.FixtureRequest) -> WorkloadsSubject:
        cluster = FakeCluster()
        cluster.looks_until_ready = cluster.looks_until_gone = request.param
        cluster.missing_images.add(_MISSING)
        spec = small_service()
        cluster.install(spec.name)
        return WorkloadsSubject(
            workloads=FakeWorkloads(cluster),
            spec=spec,
            image=_GOOD,
            missing_image=_MISSING,
            wait=_wait,
        )
