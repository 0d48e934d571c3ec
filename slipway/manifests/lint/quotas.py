"""Quotas: L5 to L7."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slipway.core.feasibility.pods import charge
from slipway.core.feasibility.quantity import Amounts, plus, shown, unit_of
from slipway.core.feasibility.quotas import unstated_shortfalls, with_defaults
from slipway.core.feasibility.values import Quota
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT
from slipway.manifests.footprint import limits_seen, pod_demand, quotas_seen
from slipway.manifests.lint.finding import (
    Finding,
    namespace,
    of_kind,
    pod_template,
    scales,
    subject,
)
from slipway.ports.workloads import Manifest

_WORKLOADS = ("Deployment", "Pod")


def too_small_quotas(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L5: all workloads of a namespace at once, or an autoscaler at its most, exceed a quota."""
    for item, quota in _quotas(objects):
        here = _workloads(objects, namespace(item))
        together = plus(*(_together(workload, objects) for workload in here))
        for name, needs, hard in _beyond(together, quota):
            yield _too_small(item, f"all workloads need {needs} of {name} at once", hard)
        for workload in here:
            for scaler in _scalers(workload, objects):
                most = _times(workload, _number(scaler, "maxReplicas", "maxReplicaCount", 1))
                for name, needs, hard in _beyond(most, quota):
                    yield _too_small(
                        item, f"{subject(scaler)} may ask for {needs} of {name} at its most", hard
                    )


def _too_small(quota: Manifest, said: str, hard: str) -> Finding:
    return Finding(
        rule="L5",
        subject=subject(quota),
        message=f"{said}, and it allows {hard}",
        hint="size it for two slots, the pods that a rollout adds and the test pod; or scale to"
        " fewer pods",
    )


def _beyond(asked: Amounts, quota: Quota) -> Iterator[tuple[str, str, str]]:
    for name, hard in quota.hard.items():
        if asked.get(name, 0) > hard:
            unit = unit_of(name)
            yield name, shown(asked[name], unit), shown(hard, unit)


def _together(workload: Manifest, objects: tuple[Manifest, ...]) -> Amounts:
    """Return what a workload asks for at once: its pods, and those that a rollout adds."""
    if workload["kind"] == "Pod":
        return _times(workload, 1)
    spec = workload["spec"]
    scaler = next(iter(_scalers(workload, objects)), None)
    pods = (
        int(spec.get("replicas", 1))
        if scaler is None
        else _number(scaler, "minReplicas", "minReplicaCount", 1)
    )
    return _times(workload, pods + _surge(spec.get("strategy") or {}, pods))


def _surge(strategy: Mapping[str, Any], pods: int) -> int:
    """Return how many pods a rollout adds; Kubernetes' default is a quarter, rounded up."""
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return 0
    stated = (strategy.get("rollingUpdate") or {}).get("maxSurge", "25%")
    if isinstance(stated, int):
        return stated
    return -(-int(stated.removesuffix("%")) * pods // 100)


def _number(scaler: Manifest, of_hpa: str, of_keda: str, default: int) -> int:
    name = of_hpa if scaler["kind"] == HPA else of_keda
    return int(scaler["spec"].get(name, default))


def _times(workload: Manifest, pods: int) -> Amounts:
    each = charge(pod_demand(pod_template(workload)["spec"]))
    return {name: value * pods for name, value in each.items()}


def limits_of_extended(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L6: a quota limits an extended resource by `limits.`, which is never enforced."""
    for item in of_kind(objects, "ResourceQuota"):
        for name in item["spec"].get("hard") or {}:
            resource = name.removeprefix("limits.")
            if name.startswith("limits.") and "/" in resource:
                yield Finding(
                    rule="L6",
                    subject=subject(item),
                    message=f"{name} is no quota item: extended resources are counted by their"
                    " requests alone, so nothing is limited",
                    hint=f"write requests.{resource}",
                )


def unstated_requests(objects: tuple[Manifest, ...]) -> Iterator[Finding]:
    """L7: a pod states nothing of what a quota of its namespace counts; it would be refused."""
    for item, quota in _quotas(objects):
        here = [other for other in objects if namespace(other) == namespace(item)]
        limits = limits_seen(here)
        for workload in _workloads(objects, namespace(item)):
            demand = with_defaults(pod_demand(pod_template(workload)["spec"]), limits)
            for fault in unstated_shortfalls(subject(workload), demand, [quota]):
                yield Finding(rule="L7", subject=fault.subject, message=fault.text, hint=fault.hint)


def _quotas(objects: tuple[Manifest, ...]) -> Iterator[tuple[Manifest, Quota]]:
    for item in of_kind(objects, "ResourceQuota"):
        known, _ = quotas_seen([item])
        for quota in known:
            yield item, quota


def _workloads(objects: tuple[Manifest, ...], where: str) -> tuple[Manifest, ...]:
    return tuple(
        item for kind in _WORKLOADS for item in of_kind(objects, kind) if namespace(item) == where
    )


def _scalers(workload: Manifest, objects: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    return tuple(
        item
        for kind in (HPA, SCALED_OBJECT)
        for item in of_kind(objects, kind)
        if workload["kind"] == "Deployment" and scales(item, workload)
    )
