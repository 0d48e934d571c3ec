"""A small service for tests: quick limits, no waiting."""

from __future__ import annotations

from slipway.core.service import (
    BenchmarkPolicy,
    GoldenPrompt,
    QualityPolicy,
    ReleasePolicy,
    Resources,
    Server,
    ServerKind,
    ServiceSpec,
    Slo,
)

BASE_IMAGE = "slipway/simulated:base"


def small_service(
    name: str = "chat", *, replicas: int = 2, namespace: str = "serving"
) -> ServiceSpec:
    """Return a service of the simulated server whose release waits for nothing."""
    return ServiceSpec(
        name=name,
        model="demo",
        server=Server(kind=ServerKind.SIMULATED, image=BASE_IMAGE),
        resources=Resources(cpu="50m", memory="64Mi"),
        slo=Slo(ttft_p95_ms=500, error_rate_percent=1, output_tokens_per_s=20),
        policy=ReleasePolicy(
            quality=QualityPolicy(golden=(GoldenPrompt(prompt="ping", expect="pong"),)),
            benchmark=BenchmarkPolicy(requests=20, concurrency=2),
            bake_s=0.0,
            ready_timeout_s=30.0,
            drain_timeout_s=30.0,
        ),
        hosts=(f"{name}.localhost",),
        replicas=replicas,
        namespace=namespace,
    )
