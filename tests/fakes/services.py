"""A small service for tests: quick limits, no waiting."""

from __future__ import annotations

from dataclasses import replace

from slipway.core.service import BenchmarkPolicy, Resources, ServiceSpec
from tests.examples import service

BASE_IMAGE = "slipway/simulated:base"


def small_service(
    name: str = "chat", *, replicas: int = 2, namespace: str = "serving"
) -> ServiceSpec:
    """Return a service of the simulated server whose release waits for nothing."""
    made = service()
    return replace(
        made,
        name=name,
        model="demo",
        server=replace(made.server, image=BASE_IMAGE, args=()),
        resources=Resources(cpu="50m", memory="64Mi"),
        policy=replace(
            made.policy,
            benchmark=BenchmarkPolicy(requests=20, concurrency=2),
            bake_s=0.0,
            ready_timeout_s=30.0,
            drain_timeout_s=30.0,
        ),
        hosts=(f"{name}.localhost",),
        replicas=replicas,
        namespace=namespace,
    )
