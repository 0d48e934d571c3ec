from __future__ import annotations

from copy import deepcopy
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.adapters.service_file import find_service, load_service, load_services
from slipway.core.errors import InputError
from slipway.core.service import (
    AutoscalerKind,
    Autoscaling,
    NodeToleration,
    Probes,
    QualityPolicy,
    ServerKind,
    ServiceSpec,
    VolumeBackup,
    Weights,
    WeightsVolume,
    WhenFull,
    ZoneSpread,
)

SERVICES = Path(__file__).parents[2] / "deployments" / "services"

WHOLE: dict[str, Any] = {
    "name": "chat",
    "model": "chat-model",
    "hosts": ["chat.localhost"],
    "server": {"kind": "simulated", "image": "slipway/simulated:base"},
    "resources": {"cpu": "500m", "memory": "512Mi"},
    "slo": {"ttft_p95_ms": 500, "error_rate_percent": 1, "output_tokens_per_s": 20},
    "policy": {
        "quality": {"golden": [{"prompt": "ping", "expect": "pong"}]},
        "benchmark": {"requests": 60, "concurrency": 8},
    },
}


def changed(**fields: Any) -> dict[str, Any]:
    """Return the whole file with the dotted `fields` (`policy__bake_s=5`) set."""
    content = deepcopy(WHOLE)
    for name, value in fields.items():
        *path, last = name.split("__")
        place = content
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return content


def load(folder: Path, content: object) -> ServiceSpec:
    path = folder / "chat.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_service(path)


def problem(folder: Path, content: object) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, content)
    assert caught.value.code == "service-file-invalid"
    return caught.value.message


def test_fields_left_out_have_the_cores_defaults(tmp_path: Path) -> None:
    spec = load(tmp_path, WHOLE)

    assert (spec.replicas, spec.namespace, spec.alias) == (1, "serving", "live")
    assert (spec.weights, spec.path_prefixes) == (Weights.IMAGE, ("/v1",))
    assert spec.probes == Probes()
    assert spec.policy.quality == QualityPolicy(golden=spec.policy.quality.golden)
    assert spec.resources.gpu_resource == "nvidia.com/gpu"


def test_fields_stated_win(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        changed(
            replicas=3,
            alias="production",
            probes={"path": "/up", "startup_budget_s": 30, "period_s": 2},
            policy__drain_timeout_s=5,
            server__args=["--seed", "1"],
        ),
    )

    assert (spec.replicas, spec.alias) == (3, "production")
    assert spec.probes == Probes(path="/up", startup_budget_s=30, period_s=2)
    assert spec.policy.drain_timeout_s == 5.0
    assert spec.server.args == ("--seed", "1")


def test_health_path_follows_the_server_unless_stated(tmp_path: Path) -> None:
    assert load(tmp_path, changed(server__kind="triton")).probes.path == "/v2/health/ready"
    stated = changed(server__kind="triton", probes__path="/v2/health/live")
    assert load(tmp_path, stated).probes.path == "/v2/health/live"


def test_quantities_may_be_written_as_numbers(tmp_path: Path) -> None:
    spec = load(tmp_path, changed(resources__cpu=1.5, resources__memory=536870912))

    assert (spec.resources.cpu, spec.resources.memory) == ("1.5", "536870912")


def steps(*weights: int) -> list[dict[str, Any]]:
    return [{"weight_percent": weight, "bake_s": 1} for weight in weights]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"naem": 1}, "naem: there is no such field"),
        ({"policy__quality__minimum": 1}, "policy.quality.minimum: there is no such field"),
        ({"name": "Chat"}, "name: must be lower-case letters, digits"),
        ({"name": "-chat"}, "name: must be"),
        ({"name": "c" * 41}, "name: should have at most 40 characters"),
        ({"namespace": "a.b"}, "namespace: must be"),
        ({"model": "../x"}, "model: must be letters"),
        ({"hosts": []}, "hosts: must name at least one"),
        ({"hosts": ["a", "a"]}, "hosts: must not name anything twice"),
        ({"resources__gpus": "1"}, "resources.gpus: should be a valid integer"),
        ({"hosts": ["UPPER.example"]}, "hosts[0]: must be a host name"),
        ({"path_prefixes": ["v1"]}, "path_prefixes[0]: must be a path that begins with /"),
        ({"alias": "latest"}, "alias: must not be `latest`"),
        ({"alias": "V12"}, "alias: must not be"),
        ({"alias": "1"}, "alias: must be letters"),
        ({"replicas": 0}, "replicas: should be greater than or equal to 1 (is 0)"),
        ({"replicas": True}, "replicas: should be a valid integer (is True)"),
        ({"replicas": "2"}, "replicas: should be a valid integer (is '2')"),
        (
            {"server__kind": "tgi"},
            "server.kind: is 'tgi'; allowed: 'llama_cpp', 'simulated', 'vllm' or 'triton'",
        ),
        ({"server": "vllm"}, "server: must be a mapping of fields"),
        ({"server__image": "slipway/simulated"}, "server.image: must name an image as"),
        ({"server__image": "a@sha256:12"}, "server.image: must name an image as"),
        ({"weights": "nfs"}, "weights: is 'nfs'; allowed: 'image' or 'pvc'"),
        ({"volume__claim": "Models"}, "volume.claim: must be the name of a Kubernetes object"),
        ({"volume": {}}, "volume.claim: is missing"),
        ({"volume": {"claim": "a", "sub_path": "../b"}}, "volume.sub_path: must be a folder"),
        ({"volume": {"claim": "a", "sub_path": "/b"}}, "volume.sub_path: must be a folder"),
        ({"volume": {"claim": "a", "artifacts": "/srv"}}, "volume.artifacts: must be s3://BUCKET"),
        ({"resources__cpu": "0"}, "resources.cpu: must be a Kubernetes quantity above zero"),
        ({"resources__cpu": "1Gi"}, "resources.cpu: must be"),
        ({"resources__cpu": True}, "resources.cpu: should be a valid string"),
        ({"resources__memory": "512m"}, "resources.memory: must be a Kubernetes quantity"),
        ({"resources__memory": "lots"}, "resources.memory: must be"),
        ({"resources__gpus": -1}, "resources.gpus: should be greater than or equal to 0"),
        ({"resources__gpu_resource": "gpu"}, "resources.gpu_resource: must be an extended"),
        ({"slo__ttft_p95_ms": float("nan")}, "slo.ttft_p95_ms: should be a finite number"),
        ({"slo__ttft_p95_ms": 0}, "slo.ttft_p95_ms: should be greater than 0"),
        ({"slo__error_rate_percent": 101}, "slo.error_rate_percent: should be less than"),
        (
            {"policy__strategy": "rolling"},
            "policy.strategy: is 'rolling'; allowed: 'blue_green' or",
        ),
        (
            {"router": {"kind": "nginx"}},
            "router.kind: is 'nginx'; allowed: 'istio', 'gateway_api' or 'service'",
        ),
        (
            {"router": {"gateway": "edge"}},
            "router.gateway: must be the NAMESPACE/NAME of a Gateway",
        ),
        (
            {"router": {"kind": "gateway_api", "implementation": "other", "sticky": "required"}},
            "router: sticky: required is to be had at gateways of Istio alone",
        ),
        ({"router": {"access_log": False}}, "router: kind: istio has no use for access_log"),
        (
            {"router": {"kind": "gateway_api", "propagation_s": 3}},
            "router: kind: gateway_api has no use for propagation_s",
        ),
        (
            {"router": {"kind": "service", "gateway": "edge/models"}},
            "router: kind: service has no use for gateway",
        ),
        (
            {
                "router": {"kind": "service"},
                "policy__strategy": "canary",
                "policy__ramp": {"steps": steps(5)},
            },
            "the file: router.kind: service cannot divide the users, so it has no canary",
        ),
        ({"policy__strategy": "canary"}, "policy: strategy: canary and ramp.steps go together"),
        ({"policy__ramp": {"steps": steps(5)}}, "policy: strategy: canary and ramp.steps go"),
        (
            {"policy__ramp": {"steps": steps(5, 5)}},
            "policy.ramp: the weights of the steps must rise",
        ),
        ({"policy__ramp": {"steps": steps(50, 25)}}, "policy.ramp: the weights of the steps must"),
        ({"policy__ramp": {"steps": steps(5, 100)}}, "policy.ramp: steps end below 100: the step"),
        ({"policy__ramp": {"steps": steps(5, 101)}}, "policy.ramp: a weight is a percentage below"),
        ({"policy__ramp": {"steps": steps(0)}}, "policy.ramp.steps[0].weight_percent: should be"),
        ({"policy__drain_timeout_s": 9999}, "policy.drain_timeout_s: should be less than"),
        ({"policy__quality__golden": []}, "policy.quality.golden: must name at least one"),
        (
            {"policy__quality__golden": [{"prompt": "a", "expect": "("}]},
            "policy.quality.golden[0].expect: is no regular expression",
        ),
        ({"policy__quality__accuracy_min": 0}, "policy.quality.accuracy_min: should be greater"),
        ({"policy__benchmark__prompts": []}, "policy.benchmark.prompts: must name at least one"),
        (
            {"policy__ready_timeout_s": 10},
            "the file: policy.ready_timeout_s (10) must not be shorter than"
            " probes.startup_budget_s (120)",
        ),
    ],
)
def test_wrong_field_is_named_with_what_is_allowed(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    message = problem(tmp_path, changed(**fields))

    assert message.startswith("1 problem in the service files:")
    assert f"{tmp_path / 'chat.yaml'}: {said}" in message


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    content = changed(replicas=0, hosts=[], slo__ttft_p95_ms="fast")
    del content["model"]

    message = problem(tmp_path, content)

    assert message.startswith("4 problems")
    for field in ("replicas", "hosts", "slo.ttft_p95_ms", "model: is missing"):
        assert f"chat.yaml: {field}" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file: must be a mapping"),
        ("- a", "the file: must be a mapping"),
        ("a: [", "is no YAML"),
        ("when: 2026-99-99", "is no YAML"),
        ("name: a\nname: b", "the key 'name' is written twice"),
        ("slo:\n  a: 1\n  a: 2", "the key 'a' is written twice"),
        ("when: !!python/name:os.system", "is no YAML"),
    ],
)
def test_file_that_is_no_service_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in problem(tmp_path, text)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml: cannot be read: No such file"):
        load_service(tmp_path / "gone.yaml")


def test_weights_on_a_volume_are_stated_with_the_volume(tmp_path: Path) -> None:
    volume = {"claim": "models", "sub_path": "team/a", "artifacts": "s3://mlflow/artifacts"}

    spec = load(tmp_path, changed(weights="pvc", volume=volume))

    expected = WeightsVolume(claim="models", sub_path="team/a", artifacts="s3://mlflow/artifacts")
    assert (spec.weights, spec.volume) == (Weights.PVC, expected)
    assert load(tmp_path, WHOLE).volume is None


def test_backup_of_a_volume_needs_its_secret(tmp_path: Path) -> None:
    backup = {"secret": "models-backup", "snapshot_class": "fast"}
    whole = changed(weights="pvc", volume={"claim": "models", "backup": backup})
    volume = load(tmp_path, whole).volume
    assert volume is not None
    assert volume.backup == VolumeBackup(secret="models-backup", snapshot_class="fast")
    without = changed(weights="pvc", volume={"claim": "models", "backup": {"image": "a:b"}})
    assert "volume.backup.secret" in problem(tmp_path, without)


@pytest.mark.parametrize("fields", [{"weights": "pvc"}, {"volume": {"claim": "models"}}])
def test_weights_on_a_volume_without_the_other_field_are_refused(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    assert "weights: pvc and volume go together" in problem(tmp_path, changed(**fields))


def test_two_files_may_not_claim_the_same_name_or_host(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(WHOLE))

    with pytest.raises(InputError, match="2 problems") as caught:
        load_services(tmp_path)

    taken = f"belongs to {tmp_path / 'a.yaml'} already"
    assert f"b.yaml: name: 'chat' {taken}" in caught.value.message
    assert f"b.yaml: hosts: 'chat.localhost' {taken}" in caught.value.message


def test_problems_of_all_files_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(changed(replicas=0)))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(changed(model="")))

    with pytest.raises(InputError) as caught:
        load_services(tmp_path)

    assert "a.yaml: replicas" in caught.value.message
    assert "b.yaml: model" in caught.value.message


def test_service_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "any.yaml").write_text(yaml.safe_dump(WHOLE))

    assert find_service(tmp_path, "chat").model == "chat-model"


def test_unknown_service_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="known services: none") as caught:
        find_service(tmp_path, "caht")
    (tmp_path / "any.yaml").write_text(yaml.safe_dump(WHOLE))
    with pytest.raises(InputError, match=r"no service 'caht' in .* known services: chat") as caught:
        find_service(tmp_path, "caht")

    assert caught.value.code == "service-unknown"
    assert "caht.yaml" in caught.value.hint


def test_delivered_services_are_valid() -> None:
    services = load_services(SERVICES)

    assert services["smollm"].server.kind is ServerKind.LLAMA_CPP
    assert services["simulated"].replicas == 2
    assert services["simulated"].resources.gpus == 1


def test_delivered_examples_are_valid() -> None:
    kinds = {spec.server.kind for spec in load_services(SERVICES / "examples").values()}

    assert kinds == {ServerKind.VLLM, ServerKind.TRITON}
    assert load_services(SERVICES / "examples")["llama3-volume"].volume is not None


SCALED: dict[str, Any] = {
    "kind": "hpa",
    "min_replicas": 2,
    "max_replicas": 8,
    "target_average": 5,
    "metric": "requests_in_flight",
}
KEDA: dict[str, Any] = {
    **{name: value for name, value in SCALED.items() if name != "metric"},
    "kind": "keda",
    "query": 'sum(waiting{pod=~"$WORKLOAD-.*"})',
    "server": "http://prometheus:9090",
}


def test_autoscaled_service_begins_with_the_least_number_unless_told_another(
    tmp_path: Path,
) -> None:
    spec = load(tmp_path, changed(autoscaling=SCALED))
    assert spec.autoscaling == Autoscaling(
        kind=AutoscalerKind.HPA,
        min_replicas=2,
        max_replicas=8,
        target_average=5.0,
        metric="requests_in_flight",
    )
    assert spec.replicas == 2
    assert load(tmp_path, changed(autoscaling=SCALED, replicas=4)).replicas == 4
    assert load(tmp_path, WHOLE).autoscaling is None


def test_service_scaled_by_keda_names_query_and_server(tmp_path: Path) -> None:
    spec = load(tmp_path, changed(autoscaling=KEDA))
    assert spec.autoscaling is not None
    assert (spec.autoscaling.kind, spec.autoscaling.server) == (
        AutoscalerKind.KEDA,
        "http://prometheus:9090",
    )


@pytest.mark.parametrize(
    ("settings", "more", "said"),
    [
        ({**SCALED, "min_replicas": 9}, {}, "min_replicas (9) must not be above max_replicas (8)"),
        ({**SCALED, "min_replicas": 0}, {}, "autoscaling.min_replicas: should be greater"),
        ({**SCALED, "metric": ""}, {}, "kind: hpa needs metric"),
        ({**SCALED, "query": "up"}, {}, "kind: hpa has no use for query: leave out"),
        ({**KEDA, "server": ""}, {}, "kind: keda needs server"),
        ({**KEDA, "server": "prometheus"}, {}, "autoscaling.server: must be an address"),
        ({**KEDA, "metric": "m"}, {}, "kind: keda has no use for metric"),
        ({**KEDA, "query": "sum(waiting)"}, {}, "own pods by $WORKLOAD"),
        ({**SCALED, "kind": "vpa"}, {}, "is 'vpa'; allowed: 'hpa' or 'keda'"),
        ({**SCALED, "target_average": 0}, {}, "target_average: should be greater than 0"),
        (SCALED, {"replicas": 1}, "replicas (1) are those of the first release"),
        (SCALED, {"replicas": 9}, "choose 2 to 8, or leave them out"),
    ],
)
def test_autoscaling_that_cannot_work_is_refused_with_what_to_do(
    tmp_path: Path, settings: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    assert said in problem(tmp_path, changed(autoscaling=settings, **more))


def test_placing_and_price_are_read_exactly(tmp_path: Path) -> None:
    resources = {
        **WHOLE["resources"],
        "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "a": ""},
        "tolerations": [{"key": "spot"}, {"key": "team", "value": "b", "effect": "NoExecute"}],
        "zone_spread": "required",
        "price_usd_per_hour": 2.49,
    }
    content = changed(
        resources=resources, policy__overlap_budget_usd="10.1", policy__when_full="queue"
    )
    spec = load(tmp_path, content)
    assert spec.resources.node_selector == (
        ("a", ""),
        ("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"),
    )
    assert spec.resources.tolerations == (
        NodeToleration(key="spot"),
        NodeToleration(key="team", value="b", effect="NoExecute"),
    )
    assert spec.resources.zone_spread is ZoneSpread.REQUIRED
    assert spec.resources.price_usd_per_hour == Decimal("2.49")
    assert spec.policy.overlap_budget_usd == Decimal("10.1")
    assert spec.policy.when_full is WhenFull.QUEUE
    assert load(tmp_path, WHOLE).resources.price_usd_per_hour is None


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("resources__price_usd_per_hour", 0, "must be an amount in USD above zero"),
        ("resources__price_usd_per_hour", "inf", "must be an amount in USD above zero"),
        ("resources__price_usd_per_hour", "cheap", "resources.price_usd_per_hour"),
        ("resources__price_usd_per_hour", True, "resources.price_usd_per_hour"),
        ("policy__overlap_budget_usd", 5, "needs resources.price_usd_per_hour"),
        ("resources__node_selector", {"a b": "c"}, "must be the key of a Kubernetes label"),
        ("resources__node_selector", {"a": "c d"}, "must be the value of a label"),
        ("resources__tolerations", [{"key": "a", "effect": "Never"}], "tolerations[0].effect"),
        ("resources__zone_spread", "never", "allowed: 'preferred' or 'required'"),
        ("policy__when_full", "ignore", "allowed: 'queue' or 'refuse'"),
    ],
)
def test_placing_or_price_that_cannot_be_meant_is_refused(
    tmp_path: Path, field: str, value: Any, said: str
) -> None:
    assert said in problem(tmp_path, changed(**{field: value}))
