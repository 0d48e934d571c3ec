"""The schema of a service file: pydantic models that turn into `slipway.core.service` values.

Defaults are the core's own and stand there only.
Sources of the formats: Kubernetes' API conventions (DNS labels, quantities:
apimachinery/pkg/api/resource/quantity.go) and OCI image references.
"""

from __future__ import annotations

import re
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slipway.core.service import (
    AutoscalerKind,
    Autoscaling,
    BenchmarkPolicy,
    GoldenPrompt,
    Implementation,
    NodeToleration,
    Probes,
    QualityPolicy,
    RampPolicy,
    RampStep,
    ReleasePolicy,
    Resources,
    Router,
    RouterKind,
    Server,
    ServerKind,
    ServiceSpec,
    Slo,
    Strategy,
    VolumeBackup,
    Weights,
    WeightsVolume,
    WhenBusy,
    WhenFull,
    Wish,
    ZoneSpread,
)
from slipway.manifests.autoscaling import WORKLOAD_PLACEHOLDER
from slipway.manifests.servers import health_path

_LONGEST_NAME = 40
"""Names and label values of 63 characters are made from it: `NAME-vVERSION-N`, pods' names."""

_LONGEST_DRAIN_S = 7200

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUANTITY = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<suffix>m|[kMGTPE]|[KMGTPE]i)?")
_IMAGE = re.compile(
    r"[a-z0-9]+([._/:-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})"
)

_Value = TypeVar("_Value")


def _matching(pattern: str, what: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"must be {what}")
        return value

    return AfterValidator(check)


def _quantity_text(value: Any) -> Any:
    # YAML reads `cpu: 1` as a number; a person means the quantity.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _cpu(value: str) -> str:
    return _quantity(value, suffixes=frozenset({"", "m"}), example="500m or 2")


def _memory(value: str) -> str:
    suffixes = frozenset({"Ki", "Mi", "Gi", "Ti", "k", "M", "G", "T", ""})
    return _quantity(value, suffixes=suffixes, example="512Mi or 64Gi")


def _quantity(value: str, *, suffixes: frozenset[str], example: str) -> str:
    match = _QUANTITY.fullmatch(value)
    if match is None or (match["suffix"] or "") not in suffixes or float(match["number"]) <= 0:
        raise ValueError(f"must be a Kubernetes quantity above zero, for example {example}")
    return value


def _money(value: Any) -> Any:
    """Return an amount of money exactly as it is written; YAML reads `1.10` as a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        exact = Decimal(str(value))
    except InvalidOperation:
        return value
    if not (exact.is_finite() and exact > 0):
        raise ValueError("must be an amount in USD above zero, for example 2.49")
    return exact


def _image(value: str) -> str:
    if _IMAGE.fullmatch(value) is None:
        raise ValueError("must name an image as REPOSITORY:TAG or REPOSITORY@sha256:DIGEST")
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return value


def _alias(value: str) -> str:
    # MLflow keeps these for itself (mlflow/utils/validation.py).
    if re.fullmatch(r"latest|v\d+", value, re.IGNORECASE):
        raise ValueError("must not be `latest` or a version number such as `v1`")
    return value


def _folder(value: str) -> str:
    if value and ({"", ".", ".."} & set(value.split("/"))):
        raise ValueError(
            "must be a folder of the claim, without a slash at its ends and without .."
        )
    return value


def _unique(values: tuple[_Value, ...]) -> tuple[_Value, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not name anything twice")
    return values


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
_is_label = _matching(_LABEL, "lower-case letters, digits and inner hyphens")
Label = Annotated[str, _is_label]
Name = Annotated[str, Field(max_length=_LONGEST_NAME), _is_label]
Host = Annotated[str, Field(max_length=253), _matching(_DOMAIN, "a host name in lower case")]
Subdomain = Annotated[
    str, Field(max_length=253), _matching(_DOMAIN, "the name of a Kubernetes object")
]
Usd = Annotated[Decimal, Field(strict=True), BeforeValidator(_money)]
LabelKey = Annotated[
    str,
    _matching(
        rf"({_DOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?",
        "the key of a Kubernetes label",
    ),
]
LabelValue = Annotated[
    str,
    _matching(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", "the value of a label"),
]
PathPrefix = Annotated[str, _matching(r"/[^\s?#]*", "a path that begins with /")]
ModelName = Annotated[
    str, _matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits and the signs . _ -")
]
Alias = Annotated[
    str,
    _matching(r"[A-Za-z][A-Za-z0-9_-]*", "letters, digits, _ and -, a letter first"),
    AfterValidator(_alias),
]
ExtendedResource = Annotated[
    str, _matching(rf"{_DOMAIN}/{_LABEL}", "an extended resource such as nvidia.com/gpu")
]


def _default(kind: type, field: str) -> Any:
    return next(item.default for item in fields(kind) if item.name == field)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def values(self) -> dict[str, Any]:
        """Return the fields by name, nested models as they are."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class _Server(_Strict):
    kind: ServerKind
    image: Annotated[str, AfterValidator(_image)]
    args: tuple[str, ...] = _default(Server, "args")
    # Below 1024 a server that is not root cannot listen everywhere.
    port: Annotated[int, Field(strict=True, ge=1024, le=65535)] = _default(Server, "port")


class _VolumeBackup(_Strict):
    secret: Subdomain
    image: Annotated[str, AfterValidator(_image)] = _default(VolumeBackup, "image")
    snapshot_class: Subdomain | Literal[""] = _default(VolumeBackup, "snapshot_class")


class _Volume(_Strict):
    claim: Subdomain
    sub_path: Annotated[str, AfterValidator(_folder)] = _default(WeightsVolume, "sub_path")
    secret: Subdomain | Literal[""] = _default(WeightsVolume, "secret")
    artifacts: Annotated[
        str,
        _matching(r"(s3://[a-z0-9][a-z0-9.-]+(/[^\s?#]+)?)?", "s3://BUCKET or s3://BUCKET/PREFIX"),
    ] = _default(WeightsVolume, "artifacts")
    fetcher: Annotated[str, AfterValidator(_image)] = _default(WeightsVolume, "fetcher")
    backup: _VolumeBackup | None = None

    def volume(self) -> WeightsVolume:
        backup = self.backup and VolumeBackup(**self.backup.values())
        return WeightsVolume(**{**self.values(), "backup": backup})


class _Toleration(_Strict):
    key: LabelKey
    value: LabelValue = _default(NodeToleration, "value")
    effect: Literal["NoSchedule", "NoExecute", ""] = ""


class _Resources(_Strict):
    cpu: Annotated[str, BeforeValidator(_quantity_text), AfterValidator(_cpu)]
    memory: Annotated[str, BeforeValidator(_quantity_text), AfterValidator(_memory)]
    gpus: Annotated[int, Field(strict=True, ge=0)] = _default(Resources, "gpus")
    gpu_resource: ExtendedResource = _default(Resources, "gpu_resource")
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: tuple[_Toleration, ...] = ()
    zone_spread: ZoneSpread = _default(Resources, "zone_spread")
    price_usd_per_hour: Usd | None = _default(Resources, "price_usd_per_hour")

    def resources(self) -> Resources:
        tolerations = tuple(NodeToleration(**item.values()) for item in self.tolerations)
        selector = tuple(sorted(self.node_selector.items()))
        nested = {"tolerations": tolerations, "node_selector": selector}
        return Resources(**{**self.values(), **nested})


class _Autoscaling(_Strict):
    kind: AutoscalerKind
    min_replicas: Count
    max_replicas: Count
    target_average: Positive
    metric: Annotated[
        str, _matching(r"([a-zA-Z0-9][-a-zA-Z0-9_.:/]*)?", "the name of a metric of pods")
    ] = _default(Autoscaling, "metric")
    query: str = _default(Autoscaling, "query")
    server: Annotated[
        str, _matching(r"(https?://[^\s/?#]+(/[^\s?#]*)?)?", "an address: http://HOST:PORT")
    ] = _default(Autoscaling, "server")
    scale_down_window_s: Annotated[int, Field(strict=True, ge=0, le=3600)] = _default(
        Autoscaling, "scale_down_window_s"
    )
    settle_s: Seconds = _default(Autoscaling, "settle_s")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> _Autoscaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) must not be above max_replicas"
                f" ({self.max_replicas})"
            )
        hpa = self.kind is AutoscalerKind.HPA
        wanted = ("metric",) if hpa else ("query", "server")
        foreign = ("query", "server") if hpa else ("metric",)
        missing = [name for name in wanted if not getattr(self, name)]
        if missing:
            raise ValueError(f"kind: {self.kind} needs {' and '.join(missing)}")
        unused = [name for name in foreign if getattr(self, name)]
        if unused:
            raise ValueError(f"kind: {self.kind} has no use for {' and '.join(unused)}: leave out")
        if not hpa and WORKLOAD_PLACEHOLDER not in self.query:
            raise ValueError(
                f"query must select a slot's own pods by {WORKLOAD_PLACEHOLDER}, for example"
                f' sum(vllm:num_requests_waiting{{pod=~"{WORKLOAD_PLACEHOLDER}-.*"}}): a figure of'
                " both slots would scale each of them for the other's users"
            )
        return self


class _Router(_Strict):
    kind: RouterKind = _default(Router, "kind")
    gateway: Annotated[
        str, _matching(rf"{_LABEL}/{_DOMAIN}", "the NAMESPACE/NAME of a Gateway")
    ] = _default(Router, "gateway")
    implementation: Implementation = _default(Router, "implementation")
    sticky: Wish = _default(Router, "sticky")
    fall_back: Wish = _default(Router, "fall_back")
    access_log: Annotated[bool, Field(strict=True)] = _default(Router, "access_log")
    propagation_s: Seconds = _default(Router, "propagation_s")
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = _default(Router, "port")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> _Router:
        wrong = {
            RouterKind.ISTIO: {"implementation", "access_log", "propagation_s"},
            RouterKind.GATEWAY_API: {"access_log", "propagation_s"},
            RouterKind.SERVICE: {"gateway", "implementation", "sticky", "fall_back"},
        }
        unused = sorted(self.model_fields_set & wrong[self.kind])
        if unused:
            raise ValueError(f"kind: {self.kind} has no use for {' and '.join(unused)}: leave out")
        wishes = {"sticky": self.sticky, "fall_back": self.fall_back}
        missing = [name for name, wish in wishes.items() if wish is Wish.REQUIRED]
        if missing and self.implementation is Implementation.OTHER:
            raise ValueError(
                f"{' and '.join(missing)}: required is to be had at gateways of Istio alone"
            )
        return self


class _Probes(_Strict):
    path: PathPrefix | None = None  # the one of the server's kind
    startup_budget_s: Count = _default(Probes, "startup_budget_s")
    period_s: Count = _default(Probes, "period_s")


class _Slo(_Strict):
    ttft_p95_ms: Positive
    error_rate_percent: Percent
    output_tokens_per_s: Positive


class _GoldenPrompt(_Strict):
    prompt: Text
    expect: Annotated[str, Field(min_length=1), AfterValidator(_regex)]


class _Quality(_Strict):
    golden: Annotated[tuple[_GoldenPrompt, ...], Field(min_length=1)]
    accuracy_min: Annotated[float, Field(strict=True, gt=0, le=1)] = _default(
        QualityPolicy, "accuracy_min"
    )
    max_tokens: Count = _default(QualityPolicy, "max_tokens")

    def policy(self) -> QualityPolicy:
        golden = tuple(GoldenPrompt(**item.values()) for item in self.golden)
        return QualityPolicy(**{**self.values(), "golden": golden})


class _Benchmark(_Strict):
    requests: Count
    concurrency: Count
    warmup_requests: Annotated[int, Field(strict=True, ge=0)] = _default(
        BenchmarkPolicy, "warmup_requests"
    )
    max_tokens: Count = _default(BenchmarkPolicy, "max_tokens")
    prompts: Annotated[tuple[Text, ...], Field(min_length=1)] = _default(BenchmarkPolicy, "prompts")
    slowdown_max: Annotated[float, Field(ge=1)] = _default(BenchmarkPolicy, "slowdown_max")


class _Step(_Strict):
    weight_percent: Annotated[int, Field(strict=True, ge=1)]
    bake_s: Seconds
    approval: bool = _default(RampStep, "approval")


class _Ramp(_Strict):
    steps: tuple[_Step, ...] = ()
    requests_min: Count = _default(RampPolicy, "requests_min")
    error_ratio_max: Annotated[float, Field(ge=1, allow_inf_nan=False)] = _default(
        RampPolicy, "error_ratio_max"
    )
    ttft_ratio_max: Annotated[float, Field(ge=1, allow_inf_nan=False)] = _default(
        RampPolicy, "ttft_ratio_max"
    )
    data_timeout_s: Positive = _default(RampPolicy, "data_timeout_s")
    hold_timeout_s: Positive = _default(RampPolicy, "hold_timeout_s")

    @model_validator(mode="after")
    def _rises(self) -> _Ramp:
        weights = [step.weight_percent for step in self.steps]
        if 100 in weights:
            raise ValueError(
                "steps end below 100: the step to 100 is the promotion, its bake is policy.bake_s"
            )
        if any(weight > 100 for weight in weights):
            raise ValueError(f"a weight is a percentage below 100, not {max(weights)}")
        if any(low >= high for low, high in pairwise(weights)):
            raise ValueError(f"the weights of the steps must rise, these do not: {weights}")
        return self

    def policy(self) -> RampPolicy:
        steps = tuple(RampStep(**step.values()) for step in self.steps)
        return RampPolicy(**{**self.values(), "steps": steps})


class _Policy(_Strict):
    quality: _Quality
    benchmark: _Benchmark
    strategy: Strategy = _default(ReleasePolicy, "strategy")
    ramp: _Ramp = _Ramp()
    when_busy: WhenBusy = _default(ReleasePolicy, "when_busy")
    when_full: WhenFull = _default(ReleasePolicy, "when_full")
    overlap_budget_usd: Usd | None = _default(ReleasePolicy, "overlap_budget_usd")
    queue_timeout_s: Positive = _default(ReleasePolicy, "queue_timeout_s")
    bake_s: Seconds = _default(ReleasePolicy, "bake_s")
    rollback_window_s: Seconds = _default(ReleasePolicy, "rollback_window_s")
    ready_timeout_s: Positive = _default(ReleasePolicy, "ready_timeout_s")
    drain_timeout_s: Annotated[Seconds, Field(le=_LONGEST_DRAIN_S)] = _default(
        ReleasePolicy, "drain_timeout_s"
    )

    @model_validator(mode="after")
    def _steps_of_a_canary(self) -> _Policy:
        if (self.strategy is Strategy.CANARY) != bool(self.ramp.steps):
            raise ValueError("strategy: canary and ramp.steps go together: state both, or neither")
        return self

    def policy(self) -> ReleasePolicy:
        nested = {
            "quality": self.quality.policy(),
            "ramp": self.ramp.policy(),
            "benchmark": BenchmarkPolicy(**self.benchmark.values()),
        }
        return ReleasePolicy(**{**self.values(), **nested})


class ServiceFile(_Strict):
    """One service file; `spec` turns it into the core's value."""

    name: Name
    model: ModelName
    server: _Server
    resources: _Resources
    slo: _Slo
    policy: _Policy
    hosts: Annotated[tuple[Host, ...], Field(min_length=1), AfterValidator(_unique)]
    path_prefixes: Annotated[
        tuple[PathPrefix, ...], Field(min_length=1), AfterValidator(_unique)
    ] = _default(ServiceSpec, "path_prefixes")
    weights: Weights = _default(ServiceSpec, "weights")
    replicas: Count = _default(ServiceSpec, "replicas")
    probes: _Probes = _Probes()
    namespace: Label = _default(ServiceSpec, "namespace")
    alias: Alias = _default(ServiceSpec, "alias")
    volume: _Volume | None = None  # with weights: pvc, and only then
    autoscaling: _Autoscaling | None = None  # instead of a fixed number of replicas
    router: _Router = _Router()

    @model_validator(mode="after")
    def _consistent(self) -> ServiceFile:
        ready_s, startup_s = self.policy.ready_timeout_s, self.probes.startup_budget_s
        if ready_s < startup_s:
            raise ValueError(
                f"policy.ready_timeout_s ({ready_s:g}) must not be shorter than"
                f" probes.startup_budget_s ({startup_s})"
            )
        if (self.weights is Weights.PVC) != (self.volume is not None):
            raise ValueError("weights: pvc and volume go together: state both, or neither")
        if self.policy.overlap_budget_usd and self.resources.price_usd_per_hour is None:
            raise ValueError("policy.overlap_budget_usd needs resources.price_usd_per_hour")
        self._require_replicas_in_range()
        if self.policy.ramp.steps and self.router.kind is RouterKind.SERVICE:
            raise ValueError(
                "router.kind: service cannot divide the users, so it has no canary: a Service"
                " selects one slot's pods or the other's. Leave out strategy: canary and"
                " ramp.steps, or route by istio or gateway_api"
            )
        return self

    def _require_replicas_in_range(self) -> None:
        scaled = self.autoscaling
        if scaled is None or "replicas" not in self.model_fields_set:
            return
        if not scaled.min_replicas <= self.replicas <= scaled.max_replicas:
            raise ValueError(
                f"replicas ({self.replicas}) are those of the first release where autoscaling is"
                f" stated: choose {scaled.min_replicas} to {scaled.max_replicas}, or leave them out"
            )

    def spec(self) -> ServiceSpec:
        """Return the service as the core knows it."""
        path = self.probes.path or health_path(self.server.kind)
        nested: dict[str, Any] = {
            "server": Server(**self.server.values()),
            "resources": self.resources.resources(),
            "slo": Slo(**self.slo.values()),
            "policy": self.policy.policy(),
            "probes": Probes(**{**self.probes.values(), "path": path}),
            "volume": self.volume and self.volume.volume(),
            "router": Router(**self.router.values()),
            "autoscaling": self.autoscaling and Autoscaling(**self.autoscaling.values()),
        }
        if self.autoscaling and "replicas" not in self.model_fields_set:
            nested["replicas"] = self.autoscaling.min_replicas
        return ServiceSpec(**{**self.values(), **nested})
