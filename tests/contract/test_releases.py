"""The Releases port on its fake; on the API server: tests/e2e/test_port_contracts.py."""

from __future__ import annotations

import pytest

from tests.contract.port_suites.releases import ReleasesSubject, ReleasesSuite
from tests.fakes.cluster import FakeCluster
from tests.fakes.releases import FakeReleases


class TestFakeReleases(ReleasesSuite):
    """The fake keeps the port's promises."""

    @pytest.fixture
    def subject(self) -> ReleasesSubject:
        cluster = FakeCluster()
        cluster.install("chat")
        return ReleasesSubject(
            releases=FakeReleases(cluster),
            service="chat",
            missing_service="missing",
            pass_time=cluster.clock.advance,
        )
