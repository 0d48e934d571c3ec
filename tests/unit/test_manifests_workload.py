from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.core.routing import Slot
from slipway.core.service import Probes, ServerKind, ServiceSpec, Weights, WeightsVolume
from slipway.manifests import names, workload
from tests.examples import DIGEST, IMAGE, autoscaling, service


def deployment(spec: ServiceSpec, **changes: Any) -> dict[str, Any]:
    arguments = {
        "slot": Slot.GREEN,
        "workload": "chat-green",
        "image": IMAGE,
        "release_id": "chat-v2-2",
    }
    return workload.slot_deployment(spec, **{**arguments, **changes})


def pod_of(spec: ServiceSpec) -> dict[str, Any]:
    found: dict[str, Any] = deployment(spec)["spec"]["template"]["spec"]
    return found


def test_deployment_is_named_and_labelled_as_the_cluster_facts_say() -> None:
    built = deployment(service(), workload="adopted")

    assert built["metadata"]["name"] == "adopted"
    assert built["metadata"]["namespace"] == "serving"
    for labels in (built["metadata"]["labels"], built["spec"]["template"]["metadata"]["labels"]):
        assert labels["slipway.dev/serves"] == "chat"
        assert labels["slipway.dev/slot"] == "green"
        assert labels["slipway.dev/release"] == "chat-v2-2"


def test_selector_is_name_and_slot_alone_because_it_can_never_change() -> None:
    assert deployment(service())["spec"]["selector"] == {
        "matchLabels": {"slipway.dev/serves": "chat", "slipway.dev/slot": "green"}
    }


def test_release_and_image_digest_are_annotated_on_deployment_and_pods() -> None:
    built = deployment(service())

    expected = {"slipway.dev/release": "chat-v2-2", "slipway.dev/image-digest": DIGEST}
    assert built["metadata"]["annotations"] == expected
    assert built["spec"]["template"]["metadata"]["annotations"] == expected


def test_replicas_are_those_of_the_service() -> None:
    assert deployment(service())["spec"]["replicas"] == 2


def test_scaled_slot_is_applied_without_a_number_of_pods() -> None:
    scaled = replace(service(), autoscaling=autoscaling())
    assert "replicas" not in deployment(scaled)["spec"]


def test_old_pods_are_gone_before_new_ones_ask_for_their_gpus() -> None:
    assert deployment(service())["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(
    ("startup_budget_s", "ready_timeout_s", "expected"), [(30, 90.5, 91), (120, 90.0, 180)]
)
def test_progress_deadline_outlasts_the_start_up_budget(
    startup_budget_s: int, ready_timeout_s: float, expected: int
) -> None:
    base = service()
    spec = replace(
        base,
        probes=Probes(startup_budget_s=startup_budget_s),
        policy=replace(base.policy, ready_timeout_s=ready_timeout_s),
    )

    built = deployment(spec)["spec"]

    assert built["progressDeadlineSeconds"] == expected
    assert built["minReadySeconds"] < built["progressDeadlineSeconds"]


@pytest.mark.parametrize(("drain_timeout_s", "expected"), [(0.0, 30), (120.0, 135), (7200.0, 7215)])
def test_grace_period_outlasts_the_drain_time(drain_timeout_s: float, expected: int) -> None:
    base = service()
    spec = replace(base, policy=replace(base.policy, drain_timeout_s=drain_timeout_s))

    assert pod_of(spec)["terminationGracePeriodSeconds"] == expected


def test_pods_satisfy_pod_security_restricted() -> None:
    for kind in ServerKind:
        pod = pod_of(service(kind))
        container = pod["containers"][0]["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["allowPrivilegeEscalation"] is False
        assert container["readOnlyRootFilesystem"] is True
        assert container["capabilities"] == {"drop": ["ALL"]}
        assert all("emptyDir" in volume for volume in pod["volumes"])


def test_pods_get_no_credentials_of_the_cluster() -> None:
    pod = pod_of(service())

    assert pod["serviceAccountName"] == "slipway-model"
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_server_knows_its_own_address_before_its_other_variables() -> None:
    env = pod_of(service(ServerKind.VLLM))["containers"][0]["env"]

    assert env[0] == {
        "name": "POD_IP",
        "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
    }
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in env


def test_memory_is_guaranteed_and_gpus_are_asked_for_twice() -> None:
    assert pod_of(service(gpus=4))["containers"][0]["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "4"},
        "limits": {"memory": "1Gi", "nvidia.com/gpu": "4"},
    }


def test_gpu_pods_tolerate_the_taint_of_gpu_nodes() -> None:
    assert pod_of(service(gpus=1))["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]


def test_service_without_gpus_asks_for_none() -> None:
    pod = pod_of(service(gpus=0))

    assert "tolerations" not in pod
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}


def test_start_up_probe_lasts_for_the_whole_budget() -> None:
    spec = replace(service(), probes=Probes(path="/up", startup_budget_s=100, period_s=3))

    container = pod_of(spec)["containers"][0]

    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 100
    assert (startup["failureThreshold"] - 1) * startup["periodSeconds"] < 100
    assert startup["httpGet"] == {"path": "/up", "port": "http"}
    assert container["readinessProbe"]["periodSeconds"] == 3


def test_liveness_is_far_more_patient_than_readiness() -> None:
    container = pod_of(service())["containers"][0]

    alive, ready = container["livenessProbe"], container["readinessProbe"]
    assert alive["periodSeconds"] * alive["failureThreshold"] >= 60
    assert ready["periodSeconds"] * ready["failureThreshold"] <= 5


def test_replicas_are_spread_over_zones_without_blocking_a_release() -> None:
    (constraint,) = pod_of(service())["topologySpreadConstraints"]

    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    assert constraint["labelSelector"] == deployment(service())["spec"]["selector"]


def test_slot_pods_pause_before_they_stop() -> None:
    hook = pod_of(service())["containers"][0]["lifecycle"]

    assert hook["preStop"]["sleep"]["seconds"] > 0


@pytest.mark.parametrize("kind", [ServerKind.VLLM, ServerKind.TRITON])
def test_gpu_servers_get_shared_memory(kind: ServerKind) -> None:
    pod = pod_of(service(kind))

    assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    assert pod["volumes"][1]["emptyDir"]["medium"] == "Memory"


def test_small_servers_get_only_a_scratch_folder() -> None:
    pod = pod_of(service())

    assert pod["containers"][0]["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]


def test_test_pod_runs_the_same_container_once() -> None:
    built = workload.test_pod(service(), image=IMAGE, release_id="chat-v2-2")

    slot_container = dict(pod_of(service())["containers"][0])
    del slot_container["lifecycle"]
    assert built["metadata"]["name"] == "chat-test"
    assert built["spec"]["restartPolicy"] == "Never"
    assert built["spec"]["containers"] == [slot_container]
    assert built["spec"]["activeDeadlineSeconds"] > service().policy.ready_timeout_s


def test_test_pod_matches_neither_the_service_nor_a_slot() -> None:
    labels = workload.test_pod(service(), image=IMAGE, release_id="chat-v2-2")["metadata"]["labels"]

    assert names.SERVES_LABEL not in labels
    assert names.SLOT_LABEL not in labels
    assert labels["slipway.dev/role"] == "test"
    assert labels["slipway.dev/service"] == "chat"


def test_one_pod_built_leaves_the_next_one_alone() -> None:
    first = deployment(service())
    first["spec"]["template"]["metadata"]["labels"]["changed"] = "yes"
    first["spec"]["template"]["spec"]["containers"][0]["args"].append("changed")

    second = deployment(service())

    assert "changed" not in second["spec"]["template"]["metadata"]["labels"]
    assert "changed" not in second["spec"]["template"]["spec"]["containers"][0]["args"]


def test_drill_pod_is_a_test_pod_with_the_files_in_its_image() -> None:
    on_a_volume = replace(
        service(), weights=Weights.PVC, volume=WeightsVolume(claim="models", artifacts="s3://m")
    )
    for spec in (service(), on_a_volume):
        built = workload.drill_pod(spec, image=IMAGE)
        tested = workload.test_pod(service(), image=IMAGE, release_id="chat-drill")
        assert built["metadata"]["name"] == "chat-drill" != tested["metadata"]["name"]
        assert built["metadata"]["labels"] == tested["metadata"]["labels"]
        assert built["spec"] == tested["spec"]
