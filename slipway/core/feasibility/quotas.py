"""Whether quotas and limit ranges of the namespace let the pods of a release in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from slipway.core.feasibility.placement import Counts, Wanted
from slipway.core.feasibility.pods import charge, is_best_effort, limits_of, requests_of
from slipway.core.feasibility.quantity import Amounts, plus, shown, unit_of
from slipway.core.feasibility.values import (
    Code,
    Container,
    Limit,
    PodDemand,
    PodSeen,
    Quota,
    Shortfall,
    one_missing,
)

# Only these must be stated by every container of a namespace whose quota counts them
# (kubernetes: pkg/quota/v1/evaluator/core/pods.go, `Constraints`).
_MUST_BE_STATED = {
    "cpu": ("requests", "cpu"),
    "requests.cpu": ("requests", "cpu"),
    "memory": ("requests", "memory"),
    "requests.memory": ("requests", "memory"),
    "limits.cpu": ("limits", "cpu"),
    "limits.memory": ("limits", "memory"),
}


def quota_shortfalls(
    wanted: Wanted,
    quotas: Iterable[Quota],
    pods: Sequence[PodSeen],
    *,
    creates: Amounts,
    counts: Counts,
    later: bool = False,
) -> Iterator[Shortfall]:
    """Yield what quotas have too little of.

    Args:
        wanted: the pods.
        quotas: of the namespace.
        pods: of the namespace.
        creates: objects that are made beside the pods, by their name in a quota.
        counts: whether a pod's share is taken; `used` of a quota counts every pod.
        later: it is asked about a time to come. What is used then is what the pods that count use:
            the API server's own figure is some seconds behind pods that have gone.
    """
    for quota in quotas:
        if not _applies(quota, wanted.demand):
            continue
        counted, released = _charges(quota, pods, counts)
        each = charge(wanted.demand)
        for name, hard in quota.hard.items():
            asked = wanted.pods * each.get(name, 0) + creates.get(name, 0)
            used = quota.used.get(name, 0) - released.get(name, 0)
            if later and name in each:
                used = counted.get(name, 0)
            free = max(hard - max(used, 0), 0)
            if asked > free:
                yield _short(wanted, quota, name, needs=asked, free=free)


def _charges(quota: Quota, pods: Sequence[PodSeen], counts: Counts) -> tuple[Amounts, Amounts]:
    """Return what a quota counts of the pods that count, and of those that do not."""
    here = [pod for pod in pods if _applies(quota, pod.demand)]
    return (
        plus(*(charge(pod.demand) for pod in here if counts(pod))),
        plus(*(charge(pod.demand) for pod in here if not counts(pod))),
    )


def _short(wanted: Wanted, quota: Quota, name: str, *, needs: int, free: int) -> Shortfall:
    unit = unit_of(name)
    return Shortfall(
        code=Code.QUOTA,
        subject=wanted.what,
        needs=needs,
        free=free,
        unit=unit,
        text=f"needs {shown(needs, unit)} of quota {quota.name} ({name}), {shown(free, unit)} free;"
        f" {shown(needs - free, unit)} more",
        hint=f"raise {name} of ResourceQuota {quota.name}, or free what others use of it",
    )


def _applies(quota: Quota, demand: PodDemand) -> bool:
    best_effort = is_best_effort(demand)
    matching = {
        "Terminating": demand.has_deadline,
        "NotTerminating": not demand.has_deadline,
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
    }
    return all(matching[scope] for scope in quota.scopes)


def unstated_shortfalls(
    what: str, demand: PodDemand, quotas: Iterable[Quota]
) -> Iterator[Shortfall]:
    """Yield what a container must state for a quota to let it in, and does not."""
    for quota in quotas:
        if not _applies(quota, demand):
            continue
        for name in quota.hard:
            side, resource = _MUST_BE_STATED.get(name, ("", ""))
            if not side:
                continue
            for item in demand.containers:
                if resource not in (item.requests if side == "requests" else item.limits):
                    yield _unstated(what, item, quota, name, f"{side}.{resource}")


def _unstated(what: str, item: Container, quota: Quota, name: str, stated: str) -> Shortfall:
    return one_missing(
        code=Code.UNSTATED,
        subject=what,
        text=f"container {item.name} states no {stated}, and quota {quota.name} ({name}) lets in"
        " only pods that do; 1 more",
        hint=f"give the namespace a LimitRange with a default for it, or take {name} out of"
        f" ResourceQuota {quota.name}",
    )


def with_defaults(demand: PodDemand, limits: Iterable[Limit]) -> PodDemand:
    """Return the pod as the API server takes it: what it leaves open is filled by LimitRanges."""
    for limit in limits:
        if limit.kind == "Container":
            filled = tuple(
                replace(
                    item,
                    requests={**limit.default_requests, **item.requests},
                    limits={**limit.default_limits, **item.limits},
                )
                for item in demand.containers
            )
            demand = replace(demand, containers=filled)
    return demand


def limit_shortfalls(what: str, demand: PodDemand, limits: Iterable[Limit]) -> Iterator[Shortfall]:
    """Yield what a LimitRange refuses of a pod, defaults already filled in."""
    for limit in limits:
        if limit.kind == "Pod":
            yield from _beyond(what, "the pod", requests_of(demand), limits_of(demand), limit)
            continue
        for item in demand.containers:
            named = f"container {item.name}"
            yield from _beyond(what, named, item.requests, item.limits, limit)
            yield from _contrary(what, item, limit)


def _beyond(
    what: str, named: str, requests: Amounts, limits: Amounts, limit: Limit
) -> Iterator[Shortfall]:
    for resource, least in limit.least.items():
        asked = min(requests.get(resource, 0), limits.get(resource, least))
        if asked < least:
            yield _limited(what, f"{named} asks for", resource, limit, asked=asked, least=least)
    for resource, most in limit.most.items():
        stated = limits.get(resource)
        if stated is None:
            yield one_missing(
                code=Code.LIMIT,
                subject=what,
                text=f"{named} states no limit of {resource}, and LimitRange {limit.name} caps it"
                f" at {shown(most, unit_of(resource))}; 1 more",
                hint=f"give LimitRange {limit.name} a default limit of {resource}",
            )
        elif max(stated, requests.get(resource, 0)) > most:
            asked = max(stated, requests.get(resource, 0))
            yield _limited(what, f"{named} asks for", resource, limit, asked=asked, most=most)
    yield from _ratios(what, named, requests, limits, limit)


def _ratios(
    what: str, named: str, requests: Amounts, limits: Amounts, limit: Limit
) -> Iterator[Shortfall]:
    for resource, ratio in limit.ratios.items():
        request, stated = requests.get(resource, 0), limits.get(resource, 0)
        if request and Fraction(stated, request) <= ratio and stated:
            continue
        unit = unit_of(resource)
        yield Shortfall(
            code=Code.LIMIT,
            subject=what,
            needs=stated,
            free=int(request * ratio),
            unit=unit,
            text=f"{named} is limited to {shown(stated, unit)} of {resource} and requests"
            f" {shown(request, unit)}; LimitRange {limit.name} allows {float(ratio):g} times as"
            " much, and asks for both",
            hint=f"raise maxLimitRequestRatio of LimitRange {limit.name}, or give it a default",
        )


def _contrary(what: str, item: Container, limit: Limit) -> Iterator[Shortfall]:
    for resource, most in item.limits.items():
        asked = item.requests.get(resource, 0)
        if asked > most and limit.default_limits.get(resource) == most:
            named = f"container {item.name} asks for"
            yield _limited(what, named, resource, limit, asked=asked, most=most)


def _limited(
    what: str,
    named: str,
    resource: str,
    limit: Limit,
    *,
    asked: int,
    least: int | None = None,
    most: int = 0,
) -> Shortfall:
    unit = unit_of(resource)
    bound, needs, free = (
        (f"at most {shown(most, unit)}", asked, most)
        if least is None
        else (f"at least {shown(least, unit)}", least, asked)
    )
    beyond = f"{shown(needs - free, unit)} {'less' if least is None else 'more'}"
    return Shortfall(
        code=Code.LIMIT,
        subject=what,
        needs=needs,
        free=free,
        unit=unit,
        text=f"{named} {shown(asked, unit)} of {resource}, LimitRange {limit.name} allows {bound};"
        f" {beyond}",
        hint=f"change LimitRange {limit.name}, or resources in the service file",
    )
