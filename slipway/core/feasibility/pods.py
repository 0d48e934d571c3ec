"""What a pod takes of a node and of a quota, as Kubernetes counts it."""

from __future__ import annotations

from slipway.core.feasibility.quantity import Amounts, largest, plus
from slipway.core.feasibility.values import Container, PodDemand

_COMPUTE = ("cpu", "memory", "ephemeral-storage")


def requests_of(demand: PodDemand) -> dict[str, int]:
    """Return what a pod requests as a whole."""
    return plus(_together([(item, item.requests) for item in demand.containers]), demand.overhead)


def limits_of(demand: PodDemand) -> dict[str, int]:
    """Return what a pod is limited to as a whole."""
    return _together([(item, item.limits) for item in demand.containers])


def _together(parts: list[tuple[Container, Amounts]]) -> dict[str, int]:
    """Return the sum of what runs at once, at the moment at which that is most.

    Init containers run one after the other, each beside the sidecars before it
    (k8s.io/component-helpers, `PodRequests`).
    """
    staying: dict[str, int] = {}
    starting: dict[str, int] = {}
    for item, asked in parts:
        if item.sidecar:
            staying = plus(staying, asked)
            starting = largest(starting, staying)
        elif item.init:
            starting = largest(starting, plus(staying, asked))
    serving = [asked for item, asked in parts if not (item.init or item.sidecar)]
    return largest(starting, plus(staying, *serving))


def charge(demand: PodDemand) -> dict[str, int]:
    """Return what a pod is counted as by quotas, by their names for it.

    Extended resources are counted by their requests alone
    (kubernetes.io/docs/concepts/policy/resource-quotas).
    """
    charged = {"pods": 1, "count/pods": 1}
    requests, limits = requests_of(demand), limits_of(demand)
    for resource, value in requests.items():
        charged[f"requests.{resource}"] = value
        if resource in _COMPUTE:
            charged[resource] = value
    for resource in _COMPUTE:
        if resource in limits:
            charged[f"limits.{resource}"] = limits[resource]
    return charged


def is_best_effort(demand: PodDemand) -> bool:
    """Return whether no container asks for CPU or memory."""
    asked = {
        resource
        for item in demand.containers
        for resource in (*item.requests, *item.limits)
        if resource in {"cpu", "memory"}
    }
    return not asked
