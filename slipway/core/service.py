"""A service: one model endpoint that users call, as its file states it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class ServerKind(StrEnum):
    """Which program serves the model."""

    LLAMA_CPP = "llama_cpp"
    SIMULATED = "simulated"
    VLLM = "vllm"
    TRITON = "triton"


class Weights(StrEnum):
    """Where the model files come from: a layer of the image, or a volume."""

    IMAGE = "image"
    PVC = "pvc"


class Strategy(StrEnum):
    """How traffic moves from stable to candidate."""

    BLUE_GREEN = "blue_green"
    CANARY = "canary"


class WhenBusy(StrEnum):
    """What becomes of a request that meets a release of the same service under way."""

    QUEUE = "queue"
    SUPERSEDE = "supersede"
    REFUSE = "refuse"


class WhenFull(StrEnum):
    """What becomes of a release for whose pods there is no room."""

    QUEUE = "queue"
    REFUSE = "refuse"


class ZoneSpread(StrEnum):
    """Whether the pods of a slot must be spread over the zones, or had better be."""

    PREFERRED = "preferred"
    REQUIRED = "required"


class AutoscalerKind(StrEnum):
    """Which object scales a slot."""

    HPA = "hpa"
    KEDA = "keda"


class RouterKind(StrEnum):
    """Which objects say who gets the users' requests."""

    ISTIO = "istio"
    GATEWAY_API = "gateway_api"
    SERVICE = "service"


class Implementation(StrEnum):
    """Whose gateway stands behind the objects of the Gateway API."""

    ISTIO = "istio"
    OTHER = "other"


class Wish(StrEnum):
    """Whether a release goes without what its router cannot do."""

    REQUIRED = "required"
    WANTED = "wanted"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """How the users' requests reach a slot.

    Args:
        kind: Istio's VirtualService and DestinationRule, the Gateway API's HTTPRoute, or the
            selector of a plain Service, which cannot divide the users.
        gateway: `NAMESPACE/NAME` of the Gateway object, of the kind's own API, that the users come
            in by; not used by kind `service`.
        implementation: of kind `gateway_api`: with `istio`, limits of connections and outlier
            detection are DestinationRules of ours; with `other` they are the administrator's.
        sticky: a session that reached the candidate stays with it while the weight rises.
        fall_back: while the users are divided, the stable slot answers for a candidate none of
            whose pods does.
        access_log: users come in by a gateway whose access log tells of them. Only kind `service`
            may do without one: a bake watches pods alone then, and says so.
        propagation_s: of kind `service`: so long after the endpoints changed, every client is
            taken to know. Nothing reports it.
        port: of the Kubernetes Services that users are brought in by.
    """

    kind: RouterKind = RouterKind.ISTIO
    gateway: str = "istio-ingress/slipway-gateway"
    implementation: Implementation = Implementation.ISTIO
    sticky: Wish = Wish.WANTED
    fall_back: Wish = Wish.WANTED
    access_log: bool = True
    propagation_s: float = 10.0
    port: int = 80


def divides_like_istio(router: Router) -> bool:
    """Return whether a gateway of Istio divides the users."""
    return router.kind is RouterKind.ISTIO or (
        router.kind is RouterKind.GATEWAY_API and router.implementation is Implementation.ISTIO
    )


def keeps_sessions(router: Router) -> bool:
    """Return whether sessions stay with the candidate, where the gateway has what it needs."""
    return router.sticky is not Wish.OFF and divides_like_istio(router)


def falls_back(router: Router) -> bool:
    """Return whether the stable slot answers for a dead candidate."""
    return router.fall_back is not Wish.OFF and divides_like_istio(router)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The model server.

    Args:
        kind: which program.
        image: base image the model layer is appended to, `repository:tag` or `repository@sha256:…`,
            in the registry of the installation.
        args: further command line arguments of the server.
        port: that it serves HTTP on.
    """

    kind: ServerKind
    image: str
    args: tuple[str, ...] = ()
    port: int = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeBackup:
    """How versions on a volume are backed up: by a Job that mounts it, with keys of its own.

    Args:
        secret: name of a Secret whose keys become environment variables of the Job
            (`SLIPWAY_BACKUP_REPOSITORY`, `AWS_ACCESS_KEY_ID`, …); nobody else reads it.
        image: with Slipway, whose entrypoint is `slipway`, in the registry of the installation.
        snapshot_class: VolumeSnapshotClass of the claim's driver; a snapshot of the claim is read
            then. Empty: the claim itself is, and files that change meanwhile are refused.
    """

    secret: str
    image: str = "slipway/backup:base"
    snapshot_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsVolume:
    """Where the model files lie with `weights: pvc`.

    Args:
        claim: name of a PersistentVolumeClaim in the service's namespace that pods on every node
            can mount at once (ReadWriteMany); Slipway neither makes nor deletes it.
        sub_path: folder on it that is the service's to use; empty is its top.
        secret: name of a Secret whose keys become environment variables of the container that
            fetches the files (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …); empty when the pods'
            service account is enough.
        artifacts: `s3://BUCKET[/PREFIX]` where the registry's server keeps what it calls
            `mlflow-artifacts:/`; empty when its versions name S3 themselves.
        fetcher: image of the program that fetches and checks the files, in the registry of the
            installation.
        backup: how versions on it are backed up; without it they are fetched from the registry.
    """

    claim: str
    sub_path: str = ""
    secret: str = ""
    artifacts: str = ""
    fetcher: str = "slipway/weights:base"
    backup: VolumeBackup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeToleration:
    """A taint of nodes that the pods may run on nevertheless.

    Args:
        key: of the taint.
        value: of the taint; empty tolerates every one.
        effect: `NoSchedule` or `NoExecute`; empty tolerates both.
    """

    key: str
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one replica asks for, in Kubernetes quantities.

    Args:
        cpu: for example `500m`.
        memory: for example `512Mi`; request and limit are equal.
        gpus: whole GPUs per replica, ≥ 0.
        gpu_resource: the extended resource's name.
        node_selector: labels that its node must carry, as pairs.
        tolerations: taints of nodes that it may run on.
        zone_spread: whether the replicas must be spread over the zones.
        price_usd_per_hour: of one replica; None when nobody stated it.
    """

    cpu: str
    memory: str
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[NodeToleration, ...] = ()
    zone_spread: ZoneSpread = ZoneSpread.PREFERRED
    price_usd_per_hour: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaling:
    """How many pods a slot has, when its load decides it.

    Args:
        kind: a HorizontalPodAutoscaler, or a ScaledObject of KEDA.
        min_replicas: pods of a slot that serves, at least.
        max_replicas: pods of a slot, at most.
        target_average: of the metric per pod: above it the slot grows, below it shrinks.
        metric: name of a custom metric of pods; of kind `hpa` alone.
        query: PromQL that names the slot by `$WORKLOAD`; of kind `keda` alone.
        server: address of the Prometheus that is asked; of kind `keda` alone.
        scale_down_window_s: the highest need of so many seconds counts before a slot shrinks.
        settle_s: after users have moved it takes so long until the metric shows them: the number
            that serves them is not let go before.
    """

    kind: AutoscalerKind
    min_replicas: int
    max_replicas: int
    target_average: float
    metric: str = ""
    query: str = ""
    server: str = ""
    scale_down_window_s: int = 300
    settle_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """When a replica counts as started, ready and alive.

    Args:
        path: HTTP path that answers 200 once the model can serve.
        startup_budget_s: longest time from container start to the first passing probe.
        period_s: seconds between probes.
    """

    path: str = "/health"
    startup_budget_s: int = 120
    period_s: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What users were promised.

    Args:
        ttft_p95_ms: 95th percentile of time to first token, at most.
        error_rate_percent: failed or truncated requests of all, at most.
        output_tokens_per_s: tokens per second of one stream (1000 / mean ITL), at least.
    """

    ttft_p95_ms: float
    error_rate_percent: float
    output_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenPrompt:
    """A prompt whose answer is known.

    Args:
        prompt: the user's message.
        expect: regular expression that the answer must match somewhere (case-insensitive).
    """

    prompt: str
    expect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPolicy:
    """The limits of the model test.

    Args:
        golden: prompts with known answers; never empty.
        accuracy_min: share of golden prompts answered right, 0..1, at least.
        max_tokens: length of each answer.
    """

    golden: tuple[GoldenPrompt, ...]
    accuracy_min: float = 0.85
    max_tokens: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkPolicy:
    """The short benchmark of a candidate before it gets users.

    Args:
        requests: how many, after the warm-up.
        concurrency: streams in flight.
        warmup_requests: sent first, never judged.
        max_tokens: output tokens asked of each request.
        prompts: cycled through.
        slowdown_max: how many times as long as the stable slot a request may take, at most.
    """

    requests: int
    concurrency: int
    warmup_requests: int = 4
    max_tokens: int = 32
    prompts: tuple[str, ...] = ("Tell me about the sea.",)
    slowdown_max: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RampStep:
    """One step of a canary.

    Args:
        weight_percent: of the users' requests that the candidate gets, 1..99. The step to 100 is
            the promotion.
        bake_s: shortest time at this weight.
        approval: a person must allow the step before it is taken.
    """

    weight_percent: int
    bake_s: float
    approval: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RampPolicy:
    """How a canary rises, and what stops it.

    Args:
        steps: weights that rise; without them the candidate gets everybody at once.
        requests_min: of users to each slot at a weight, before the next one.
        error_ratio_max: candidate's error rate against the stable slot's, at most; an error rate
            within the SLO never fails.
        ttft_ratio_max: candidate's p95 time to first token against the stable slot's, at most.
        data_timeout_s: longest wait at a weight for `requests_min`, or for the pods of the next
            one, before the release is held.
        hold_timeout_s: longest time that a release is held, before it is taken back.
    """

    steps: tuple[RampStep, ...] = ()
    requests_min: int = 50
    error_ratio_max: float = 2.0
    ttft_ratio_max: float = 1.5
    data_timeout_s: float = 600.0
    hold_timeout_s: float = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePolicy:
    """How a release of this service goes.

    Args:
        strategy: how traffic moves.
        ramp: the steps of a canary.
        when_busy: what becomes of a request that meets a release under way.
        when_full: what becomes of a release for whose pods there is no room.
        queue_timeout_s: longest wait of such a request for its turn, or for room.
        overlap_budget_usd: most that two slots at once may cost; None when there is no limit.
        bake_s: shortest time at full traffic before the release is done.
        rollback_window_s: for how long the old slot stays warm after that; 0 retires it at once.
        ready_timeout_s: longest wait for all replicas of the candidate to be ready.
        drain_timeout_s: longest wait for open streams before the old slot is scaled down.
        quality: limits of the model test.
        benchmark: the short benchmark.
    """

    quality: QualityPolicy
    benchmark: BenchmarkPolicy
    strategy: Strategy = Strategy.BLUE_GREEN
    ramp: RampPolicy = RampPolicy()
    when_busy: WhenBusy = WhenBusy.REFUSE
    when_full: WhenFull = WhenFull.REFUSE
    overlap_budget_usd: Decimal | None = None
    queue_timeout_s: float = 3600.0
    bake_s: float = 30.0
    rollback_window_s: float = 0.0
    ready_timeout_s: float = 600.0
    drain_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One service as its file states it.

    Args:
        name: DNS label; names every object of the service.
        model: name of the registered model whose versions are released.
        namespace: where its objects live.
        hosts: host names users call it by, at the gateway.
        path_prefixes: HTTP paths that are routed to it.
        alias: registry alias that follows the traffic.
        replicas: pods of each slot; with autoscaling, of the first release.
        volume: where the model files lie; stated exactly when `weights` is `pvc`.
        autoscaling: what decides how many pods a slot has; None when `replicas` does.
        router: how the users' requests reach a slot.
    """

    name: str
    model: str
    server: Server
    resources: Resources
    slo: Slo
    policy: ReleasePolicy
    hosts: tuple[str, ...]
    path_prefixes: tuple[str, ...] = ("/v1",)
    weights: Weights = Weights.IMAGE
    replicas: int = 1
    probes: Probes = Probes()
    namespace: str = "serving"
    alias: str = "live"
    volume: WeightsVolume | None = None
    autoscaling: Autoscaling | None = None
    router: Router = Router()
