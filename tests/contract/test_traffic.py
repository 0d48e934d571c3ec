"""The Traffic port on its fake; on Istio and Envoy: tests/e2e/test_port_contracts.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from slipway.core.routing import Slot
from slipway.manifests.names import workload_name
from slipway.manifests.workload import slot_deployment
from slipway.ports.traffic import WayIn
from tests.contract.port_suites.traffic import GatewaySuite, TrafficSubject
from tests.fakes.cluster import FakeCluster
from tests.fakes.gateway import FakeGateway, GatewayAnswer
from tests.fakes.services import small_service
from tests.fakes.traffic import FakeTraffic
from tests.fakes.workloads import FakeWorkloads


def _wait(look: Callable[[], bool]) -> None:
    assert look()


class TestFakeTraffic(GatewaySuite):
    """The fake keeps the port's promises, whether its gateway learns of routes at once or late."""

    @pytest.fixture(params=[0, 3])
    def subject(self, request: pytest.FixtureRequest) -> TrafficSubject:
        cluster = FakeCluster()
        cluster.gateway_looks_behind = request.param
        spec = small_service()
        cluster.install(spec.name)
        workloads = FakeWorkloads(cluster)
        for slot in Slot:
            name = workload_name(spec.name, slot)
            workloads.apply(
                slot_deployment(spec, slot=slot, workload=name, image="r@sha256:1", release_id="r")
            )

        gateway = FakeGateway(cluster, spec.name)

        def ask(way: WayIn, headers: Mapping[str, str]) -> GatewayAnswer:
            return gateway.ask({**way.headers, **headers})

        return TrafficSubject(
            traffic=FakeTraffic(cluster),
            service=spec.name,
            missing_service="missing",
            ask=ask,
            wait=_wait,
        )
