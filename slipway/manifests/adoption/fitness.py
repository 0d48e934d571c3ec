"""Whether what is live can be taken over as it is, and what would be different afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slipway.core.routing import Slot
from slipway.core.service import ServiceSpec
from slipway.manifests.adoption.live import ROUTE_KINDS, Live, Obstacle
from slipway.manifests.adoption.routes import read_by_hand
from slipway.manifests.lint.finding import pod_labels, subject
from slipway.manifests.names import SERVES_LABEL, SLOT_LABEL, workload_name
from slipway.ports.workloads import Manifest

_MANAGERS = (
    ("labels", "argocd.argoproj.io/instance", "Argo CD"),
    ("annotations", "argocd.argoproj.io/tracking-id", "Argo CD"),
    ("labels", "kustomize.toolkit.fluxcd.io/name", "Flux"),
    ("labels", "helm.toolkit.fluxcd.io/name", "Flux"),
)
"""Marks of programs that undo what others change, every few minutes."""

_OWN_LIMITS = "connection limits and outlier detection are Slipway's from now on"


def obstacles(
    spec: ServiceSpec, live: Live, *, managed_elsewhere: bool = False
) -> tuple[Obstacle, ...]:
    """Return why this cannot be taken over as it is; empty when it can.

    Args:
        spec: the service as its file states it.
        live: what serves today.
        managed_elsewhere: its owner has seen to it that no other program undoes the changes.
    """
    return (
        *_of_service(spec, live.service, live.deployment),
        *_of_deployment(spec, live),
        *_of_scalers(spec, live),
        *_of_routes(spec, live),
        *(item for rule in live.rules for item in _of_destination_rule(rule)),
        *(() if managed_elsewhere else _managed(live)),
    )


def notes(spec: ServiceSpec, live: Live) -> tuple[str, ...]:
    """Return what will be different for users or owners, though nothing is in the way."""
    said = [note for route in live.routes for note in read_by_hand(spec, route).notes]
    said += [f"{subject(rule)}: {_OWN_LIMITS}" for rule in live.rules if _limits(rule)]
    said += [
        f"{subject(item)} was made by Helm: its next upgrade would write it anew"
        for item in live.objects
        if _meta(item, "labels").get("app.kubernetes.io/managed-by") == "Helm"
    ]
    if spec.autoscaling is not None and not live.scalers:
        said.append("an autoscaler decides the number of pods from now on")
    return tuple(said)


def container_port(target: int | str, deployment: Manifest) -> int | None:
    """Return the number behind a Service's `targetPort` at a Deployment's pods, None if unknown."""
    if isinstance(target, int):
        return target
    containers = deployment["spec"]["template"]["spec"]["containers"]
    ports = (port for item in containers for port in item.get("ports") or ())
    return next((int(port["containerPort"]) for port in ports if port.get("name") == target), None)


def _of_service(spec: ServiceSpec, service: Manifest, deployment: Manifest) -> Iterator[Obstacle]:
    name, body = subject(service), service["spec"]
    if body.get("clusterIP") == "None":
        yield Obstacle(
            subject=name,
            message="it is headless: clients choose pods by themselves, past every route",
            hint="give its users a Service with an address first",
        )
    reached = {
        port["port"]: container_port(port.get("targetPort", port["port"]), deployment)
        for port in body.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP"
    }
    wanted, port = spec.server.port, spec.router.port
    if port not in reached:
        has = ", ".join(str(number) for number in reached) or "none"
        yield Obstacle(
            subject=name,
            message=f"it has no port {port}, which router.port of the service file names"
            f" (its ports: {has})",
            hint="name in router.port the one that its users come in by",
        )
    elif reached[port] != wanted:
        yield Obstacle(
            subject=name,
            message=f"its port {port} leads to port {reached[port]} of the pods, and server.port of"
            f" the service file is {wanted}",
            hint="name in server.port what the pods serve HTTP on; new versions listen there, too",
        )


def _of_deployment(spec: ServiceSpec, live: Live) -> Iterator[Obstacle]:
    deployment, name = live.deployment, subject(live.deployment)
    body, status = deployment["spec"], deployment.get("status") or {}
    desired = int(body.get("replicas", 1))
    if live.workload in {workload_name(spec.name, slot) for slot in Slot}:
        yield Obstacle(
            subject=name,
            message="a Deployment of this name is what a later release makes",
            hint="call the service otherwise in its file, and its Kubernetes Service with it",
        )
    if body.get("paused"):
        yield Obstacle(
            subject=name,
            message="it is paused",
            hint=f"kubectl -n {spec.namespace} rollout resume deployment {live.workload}",
        )
    figures = [int(status.get(key, 0)) for key in ("replicas", "updatedReplicas", "readyReplicas")]
    seen = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"]["generation"])
    if not seen or not desired or figures != [desired] * len(figures):
        yield Obstacle(
            subject=name,
            message=f"of {desired} pods {figures[2]} are ready and {figures[1]} of its last form,"
            f" {figures[0]} there are",
            hint="let its rollout come to an end first",
        )
    if spec.autoscaling is None and not live.scalers and desired != spec.replicas:
        yield Obstacle(
            subject=name,
            message=f"it has {desired} pods, and the service file says replicas: {spec.replicas}",
            hint=f"write replicas: {desired}",
        )
    carried = pod_labels(deployment)
    ours = {SERVES_LABEL: spec.name, SLOT_LABEL: live.slot.value}
    for key, value in ours.items():
        if carried.get(key, value) != value:
            yield Obstacle(
                subject=name,
                message=f"its pods carry {key}={carried[key]}: they are another service's",
                hint="look whose they are: kubectl get deployments -L slipway.dev/service",
            )


def _of_scalers(spec: ServiceSpec, live: Live) -> Iterator[Obstacle]:
    for scaler in live.scalers:
        if spec.autoscaling is None:
            yield Obstacle(
                subject=subject(scaler),
                message=f"it decides how many pods {live.workload} has, and the service file states"
                " no autoscaling",
                hint="write its range and metric into autoscaling, for both slots",
            )
        if (scaler["spec"].get("advanced") or {}).get("restoreToOriginalReplicaCount"):
            yield Obstacle(
                subject=subject(scaler),
                message="removed, it would set the number of pods back (restoreToOriginalReplica"
                "Count)",
                hint="set advanced.restoreToOriginalReplicaCount to false",
            )


def _of_routes(spec: ServiceSpec, live: Live) -> Iterator[Obstacle]:
    kind = ROUTE_KINDS.get(spec.router.kind)
    if kind is not None and not live.routes:
        yield Obstacle(
            subject=f"{kind}/{spec.namespace}",
            message=f"none brings users of {', '.join(spec.hosts)} in by gateway"
            f" {spec.router.gateway}",
            hint="correct hosts and router of the service file",
        )
    for route in live.routes:
        reading = read_by_hand(spec, route)
        yield from reading.obstacles
        if not reading.ours:
            yield Obstacle(
                subject=subject(route),
                message=f"it is for the same hosts, and no rule of it leads to Service {spec.name}",
                hint="a host has one route of one kind: merge the two, or give one another host",
            )


def _of_destination_rule(rule: Manifest) -> Iterator[Obstacle]:
    body = rule["spec"]
    policies = [body.get("trafficPolicy") or {}]
    policies += [item.get("trafficPolicy") or {} for item in body.get("subsets") or ()]
    if any((policy.get("tls") or {}).get("mode", "DISABLE") != "DISABLE" for policy in policies):
        yield Obstacle(
            subject=subject(rule),
            message="the gateway speaks TLS to the pods (trafficPolicy.tls), which Slipway's own"
            " does not",
            hint="let the mesh decide it (PeerAuthentication, automatic mutual TLS) and remove it",
        )
    for key in sorted({"exportTo", "workloadSelector"} & body.keys()):
        yield Obstacle(
            subject=subject(rule),
            message=f"it has {key}, which Slipway's own has not",
            hint=f"remove {key}",
        )


def _limits(rule: Manifest) -> bool:
    subsets = rule["spec"].get("subsets") or ()
    return "trafficPolicy" in rule["spec"] or any("trafficPolicy" in item for item in subsets)


def _managed(live: Live) -> Iterator[Obstacle]:
    for item in live.objects:
        for field, key, program in _MANAGERS:
            if key in _meta(item, field):
                yield Obstacle(
                    subject=subject(item),
                    message=f"{program} keeps it as its source says, and would undo what changes",
                    hint="take it out of that source, or have its differences ignored; then repeat"
                    " this with --managed-elsewhere",
                )
                break


def _meta(item: Manifest, field: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = item["metadata"].get(field) or {}
    return found
