"""Values that tests of many floors need: one honest service, record and rollout to vary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slipway.core.release.admission import Request, Start, admit
from slipway.core.release.record import Digests, Phase, ReleaseRecord, advance
from slipway.core.release.scaling import Autoscaler
from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.core.routing import Slot
from slipway.core.service import (
    AutoscalerKind,
    Autoscaling,
    BenchmarkPolicy,
    GoldenPrompt,
    QualityPolicy,
    RampStep,
    ReleasePolicy,
    Resources,
    Server,
    ServerKind,
    ServiceSpec,
    Slo,
    Strategy,
    VolumeBackup,
    Weights,
    WeightsVolume,
)
from slipway.manifests.weights import WeightsFetch

DIGEST = "sha256:" + "ab" * 32
IMAGE = f"127.0.0.1:5000/slipway/chat@{DIGEST}"


def policy() -> ReleasePolicy:
    return ReleasePolicy(
        quality=QualityPolicy(golden=(GoldenPrompt(prompt="ping", expect="pong"),)),
        benchmark=BenchmarkPolicy(requests=60, concurrency=8),
        ready_timeout_s=90.0,
        drain_timeout_s=120.0,
    )


def service(kind: ServerKind = ServerKind.SIMULATED, *, gpus: int = 1) -> ServiceSpec:
    return ServiceSpec(
        name="chat",
        model="chat-model",
        server=Server(kind=kind, image="slipway/simulated:base", args=("--extra", "1")),
        resources=Resources(cpu="500m", memory="1Gi", gpus=gpus),
        slo=Slo(ttft_p95_ms=500.0, error_rate_percent=1.0, output_tokens_per_s=20.0),
        policy=policy(),
        hosts=("chat.localhost",),
        replicas=2,
    )


def service_on_a_volume(kind: ServerKind = ServerKind.SIMULATED) -> ServiceSpec:
    volume = WeightsVolume(claim="models", sub_path="slipway", secret="reader")
    return replace(service(kind), weights=Weights.PVC, volume=volume)


def service_backed_up_on_its_volume() -> ServiceSpec:
    backup = VolumeBackup(secret="keys", snapshot_class="fast")
    volume = WeightsVolume(claim="models", sub_path="slipway", secret="reader", backup=backup)
    return replace(service_on_a_volume(), volume=volume)


def weights_fetch(volume: WeightsVolume | None = None) -> WeightsFetch:
    return WeightsFetch(
        volume=volume or WeightsVolume(claim="models", sub_path="slipway", secret="reader"),
        image=f"127.0.0.1:5000/slipway/weights@{DIGEST}",
        source="s3://mlflow/1/abc/artifacts/model",
        sha256="cd" * 32,
    )


def autoscaling(
    kind: AutoscalerKind = AutoscalerKind.HPA, *, min_replicas: int = 2, max_replicas: int = 8
) -> Autoscaling:
    """Return settings of either kind, for five requests in flight a pod."""
    hpa = kind is AutoscalerKind.HPA
    return Autoscaling(
        kind=kind,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        target_average=5.0,
        metric="requests_in_flight" if hpa else "",
        query="" if hpa else 'sum(in_flight{pod=~"$WORKLOAD-.*"})',
        server="" if hpa else "http://prometheus.monitoring:9090",
        settle_s=0.0,
    )


def holder_on(host: str) -> str:
    """Return the name of a process that holds a lock."""
    return f"{host}/1/0123abcd"


def autoscaler_seen(
    name: str = "chat-blue", *, ours: bool = True, min_replicas: int = 2, max_replicas: int = 8
) -> Autoscaler:
    return Autoscaler(
        kind="HorizontalPodAutoscaler",
        name=name,
        uid=f"uid-{name}",
        resource_version="7",
        target=name,
        ours=ours,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
    )


def record(version: str = "1", *, now_ns: int = 1_000) -> ReleaseRecord:
    """Return the record of the first release of `chat`, just requested."""
    started = admit(
        Request(service="chat", model="chat-model", version=version),
        None,
        token="t0ken",
        fence=1,
        now_ns=now_ns,
    )
    assert isinstance(started, Start)
    return started.record


def ramping(weight: int = 0, *, steps: tuple[RampStep, ...], **changes: Any) -> ReleaseRecord:
    """Return the record of a canary of green over blue that runs `DIGEST`."""
    canary = replace(
        record("2"),
        phase=Phase.RAMPING,
        candidate=Slot.GREEN,
        stable=Slot.BLUE,
        strategy=Strategy.CANARY,
        steps=steps,
        weight_percent=weight,
        digests=Digests(image=DIGEST),
    )
    return replace(canary, **changes)


def advanced(start: ReleaseRecord, *phases: Phase) -> ReleaseRecord:
    """Return the record after `phases`, one second each."""
    current = start
    for step, phase in enumerate(phases, start=1):
        current = advance(current, phase, reason=f"step {step}", now_ns=step * 1_000_000_000)
    return current


def pod(name: str = "chat-blue-1", *, ready: bool = True) -> PodObservation:
    return PodObservation(name=name, uid=f"uid-{name}", ready=ready)


def rollout(*pods: PodObservation) -> RolloutObservation:
    """Return a Deployment of two replicas whose rollout is complete, with the given pods."""
    return RolloutObservation(
        name="chat-blue",
        uid="uid-chat-blue",
        resource_version="7",
        generation=3,
        observed_generation=3,
        desired=2,
        replicas=2,
        updated=2,
        available=2,
        pods=pods or (pod("chat-blue-1"), pod("chat-blue-2")),
    )


def waiting_pod(reason: str, message: str | None = None) -> PodObservation:
    return replace(pod(ready=False), waiting_reason=reason, waiting_message=message)
