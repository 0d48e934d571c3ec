"""Pods of a service: the Deployment of a slot, and the one bare pod a model is tested in."""

from __future__ import annotations

import math
from dataclasses import replace

from slipway.core.routing import Slot
from slipway.core.service import Resources, ServiceSpec, Weights, ZoneSpread
from slipway.manifests.names import (
    IMAGE_ANNOTATION,
    MODEL_ACCOUNT,
    RELEASE_LABEL,
    ROLE_LABEL,
    WEIGHTS_ANNOTATION,
    Object,
    common_labels,
    drill_pod_name,
    metadata,
    slot_labels,
    test_pod_name,
)
from slipway.manifests.servers import SCRATCH_FOLDER, ServerContract, contract
from slipway.manifests.weights import (
    WeightsFetch,
    claim_volume,
    fetch_container,
    pod_group,
    server_mount,
)

_PRE_STOP_S = 3  # longer than an endpoint's removal takes to reach every gateway
_MIN_GRACE_S = 30
_GRACE_HEADROOM_S = 15  # for the pre-stop pause and the server's own shutdown
_TEST_POD_HEADROOM_S = 1800  # a forgotten test pod must not hold a GPU for ever
_PROGRESS_HEADROOM_S = 60
_SHM_FOLDER = "/dev/shm"  # noqa: S108  # inside the container, a volume of the pod's own
_SHM_SIZE = "8Gi"
_TMP_SIZE = "2Gi"


def slot_deployment(
    spec: ServiceSpec,
    *,
    slot: Slot,
    workload: str,
    image: str,
    release_id: str,
    fetch: WeightsFetch | None = None,
) -> Object:
    """Return the Deployment of one slot.

    Where an autoscaler decides how many pods there are it states no number: two that set it would
    undo each other's work.

    Args:
        spec: the service.
        slot: which of its two slots.
        workload: its name (an adopted service keeps its own).
        image: `HOST/REPOSITORY@sha256:…`.
        release_id: the release that deploys it.
        fetch: the weights, when they lie on a volume; None when they are in the image.
    """
    selector = slot_labels(spec.name, slot)
    labels = {**common_labels(spec.name), **selector, RELEASE_LABEL: release_id}
    annotations = _annotations(image, release_id, fetch)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(workload, spec.namespace, labels=labels, annotations=annotations),
        "spec": {
            **({"replicas": spec.replicas} if spec.autoscaling is None else {}),
            "selector": {"matchLabels": selector},
            # A slot is deployed only while no user is routed to it, so nothing is lost by ending
            # its old pods first. `Recreate` waits until they are gone: terminating pods still
            # count against quota and GPUs, so a rolling update (even with maxSurge 0) would be
            # refused in a namespace sized for two slots.
            "strategy": {"type": "Recreate"},
            "minReadySeconds": 1,
            "progressDeadlineSeconds": _progress_deadline_s(spec),
            "revisionHistoryLimit": 2,
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": _slot_pod_spec(spec, slot, image, fetch),
            },
        },
    }


def test_pod(
    spec: ServiceSpec,
    *,
    image: str,
    release_id: str,
    fetch: WeightsFetch | None = None,  # noqa: PT028  # a pod for tests, not a test
) -> Object:
    """Return the bare pod that serves a model for its tests, outside every slot and Service.

    Its labels match neither the Service nor a slot: no user request can reach it.
    """
    labels = {**common_labels(spec.name), ROLE_LABEL: "test", RELEASE_LABEL: release_id}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(
            test_pod_name(spec.name),
            spec.namespace,
            labels=labels,
            annotations=_annotations(image, release_id, fetch),
        ),
        "spec": {
            **_pod_spec(spec, image, fetch),
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": _MIN_GRACE_S,
            "activeDeadlineSeconds": math.ceil(spec.policy.ready_timeout_s) + _TEST_POD_HEADROOM_S,
        },
    }


def drill_pod(spec: ServiceSpec, *, image: str) -> Object:
    """Return the bare pod that a restore drill starts on restored files, which are in its image."""
    # Wherever the service has its weights.
    whole = replace(spec, weights=Weights.IMAGE, volume=None)
    made = test_pod(whole, image=image, release_id=f"{spec.name}-drill")
    made["metadata"]["name"] = drill_pod_name(spec.name)
    return made


def _annotations(image: str, release_id: str, fetch: WeightsFetch | None) -> dict[str, str]:
    weights = {} if fetch is None else {WEIGHTS_ANNOTATION: fetch.sha256}
    return {RELEASE_LABEL: release_id, IMAGE_ANNOTATION: image.rpartition("@")[2], **weights}


def _progress_deadline_s(spec: ServiceSpec) -> int:
    # The release itself gives up after `ready_timeout_s`; the controller must not do so before the
    # server has used its start-up budget, or a slow load would count as a failure.
    return max(
        spec.probes.startup_budget_s + _PROGRESS_HEADROOM_S, math.ceil(spec.policy.ready_timeout_s)
    )


def _slot_pod_spec(spec: ServiceSpec, slot: Slot, image: str, fetch: WeightsFetch | None) -> Object:
    grace_s = max(_MIN_GRACE_S, math.ceil(spec.policy.drain_timeout_s) + _GRACE_HEADROOM_S)
    pod = _pod_spec(spec, image, fetch)
    required = spec.resources.zone_spread is ZoneSpread.REQUIRED
    # Requests that are on their way when the pod starts to end still find it serving.
    pod["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": _PRE_STOP_S}}}
    return {
        **pod,
        "terminationGracePeriodSeconds": grace_s,
        # A wish unless the service file says more: with one zone left a release must be possible.
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule" if required else "ScheduleAnyway",
                "labelSelector": {"matchLabels": slot_labels(spec.name, slot)},
            }
        ],
    }


def _pod_spec(spec: ServiceSpec, image: str, fetch: WeightsFetch | None) -> Object:
    server = contract(spec)
    pod: Object = {
        "serviceAccountName": MODEL_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": server.user,
            "runAsGroup": server.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, server, image)],
        "volumes": _volumes(server),
    }
    pod.update(_placing(spec.resources))
    if fetch is not None:
        pod["initContainers"] = [fetch_container(spec, fetch)]
        pod["volumes"].append(claim_volume(fetch.volume))
        pod["containers"][0]["volumeMounts"].append(server_mount(spec.name, fetch))
        pod["securityContext"].update(pod_group(server.user))
    return pod


def _placing(wanted: Resources) -> Object:
    """Return which nodes a pod may run on."""
    tolerations: list[Object] = []
    if wanted.gpus:
        # GPU nodes are customarily tainted with the resource's name to keep other pods away.
        tolerations.append(
            {"key": wanted.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
        )
    for item in wanted.tolerations:
        matched: Object = (
            {"operator": "Equal", "value": item.value} if item.value else {"operator": "Exists"}
        )
        effect = {"effect": item.effect} if item.effect else {}
        tolerations.append({"key": item.key, **matched, **effect})
    return {
        **({"nodeSelector": dict(wanted.node_selector)} if wanted.node_selector else {}),
        **({"tolerations": tolerations} if tolerations else {}),
    }


def _container(spec: ServiceSpec, server: ServerContract, image: str) -> Object:
    container: Object = {
        "name": "server",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(server.args),
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            *({"name": name, "value": value} for name, value in server.environment),
        ],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in server.ports
        ],
        "resources": _resources(spec),
        **_probes(spec, server),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _volume_mounts(server),
    }
    if server.command:
        container["command"] = list(server.command)
    return container


def _resources(spec: ServiceSpec) -> Object:
    wanted = spec.resources
    # No CPU limit: throttling a server that holds a GPU wastes the GPU. Memory request = limit, so
    # a pod is never evicted for memory that it was promised.
    requests = {"cpu": wanted.cpu, "memory": wanted.memory}
    limits = {"memory": wanted.memory}
    if wanted.gpus:
        requests[wanted.gpu_resource] = str(wanted.gpus)
        limits[wanted.gpu_resource] = str(wanted.gpus)
    return {"requests": requests, "limits": limits}


def _probes(spec: ServiceSpec, server: ServerContract) -> Object:
    ready = {"httpGet": {"path": spec.probes.path, "port": "http"}, "timeoutSeconds": 2}
    period_s = spec.probes.period_s
    return {
        "startupProbe": {
            **ready,
            "periodSeconds": period_s,
            "failureThreshold": math.ceil(spec.probes.startup_budget_s / period_s),
        },
        "readinessProbe": {**ready, "periodSeconds": period_s, "failureThreshold": 3},
        # Tolerant: a server busy with a long prompt is slow, not dead, and a restart loads the
        # model again. Readiness has taken it out of service long before.
        "livenessProbe": {
            "httpGet": {"path": server.live_path, "port": "http"},
            "timeoutSeconds": 10,
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
    }


def _volumes(server: ServerContract) -> list[Object]:
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {"sizeLimit": _TMP_SIZE}}]
    if server.shared_memory:
        # NCCL and the servers' own workers talk through /dev/shm; 64 MiB is the runtime's default.
        # What lies in it counts against the container's memory limit.
        shm: Object = {"medium": "Memory", "sizeLimit": _SHM_SIZE}
        volumes.append({"name": "shm", "emptyDir": shm})
    return volumes


def _volume_mounts(server: ServerContract) -> list[Object]:
    mounts: list[Object] = [{"name": "tmp", "mountPath": SCRATCH_FOLDER}]
    if server.shared_memory:
        mounts.append({"name": "shm", "mountPath": _SHM_FOLDER})
    return mounts
