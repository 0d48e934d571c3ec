"""The decision: can this release be carried out now, in which way, and if not, what is short."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from slipway.core.errors import PermanentError
from slipway.core.feasibility.placement import Counts, Wanted, placement_shortfalls
from slipway.core.feasibility.price import overlap, price_shortfall
from slipway.core.feasibility.quantity import Amounts, Unit, shown
from slipway.core.feasibility.quotas import (
    limit_shortfalls,
    quota_shortfalls,
    unstated_shortfalls,
    with_defaults,
)
from slipway.core.feasibility.rules import standing_shortfalls
from slipway.core.feasibility.values import (
    ClusterSeen,
    Feasibility,
    Needs,
    PodDemand,
    PodSeen,
    Role,
    Shortfall,
    Way,
)
from slipway.core.service import WhenFull

EXECUTABLE = frozenset({Way.BLUE_GREEN, Way.QUEUE})
"""Ways that a release can take; the others are named where they would fit."""


def decide(needs: Needs, seen: ClusterSeen, *, now_s: int) -> Feasibility:
    """Return whether a release could be carried out now.

    The candidate's pods of an earlier run of the same release, or of the version that was in its
    slot before, make room for its own: the slot is emptied before it is filled.

    Args:
        needs: of the release.
        seen: of the cluster.
        now_s: Unix seconds.
    """
    needs = replace(
        needs,
        pod=with_defaults(needs.pod, seen.limits),
        test_pod=with_defaults(needs.test_pod, seen.limits),
    )
    standing = (*standing_shortfalls(needs, seen, now_s=now_s), *_refused_pods(needs, seen))
    dear = price_shortfall(needs)
    if dear is not None:
        standing = (*standing, dear)
    room = _side_by_side(needs, seen, _as_it_is)
    would_fit = _other_ways(needs, seen) if room else ()
    settles = bool(room) and not _side_by_side(needs, seen, _when_ended, later=True)
    waits = settles or (needs.when_full is WhenFull.QUEUE and Way.QUEUE in would_fit)
    way = (Way.QUEUE if waits else None) if room else Way.BLUE_GREEN
    return Feasibility(
        way=None if standing else way,
        shortfalls=(*standing, *room),
        would_fit=would_fit,
        settles=settles and not standing,
        notes=(*seen.notes, *_notes(needs, seen)),
        unseen=seen.unseen,
        overlap=overlap(needs),
    )


def _as_it_is(_pod: PodSeen) -> bool:
    return True


def _when_ended(pod: PodSeen) -> bool:
    return not pod.ending


def _when_others_left(pod: PodSeen) -> bool:
    return pod.ours is Role.STABLE


def _side_by_side(
    needs: Needs, seen: ClusterSeen, counts: Counts, *, pods: int = 0, later: bool = False
) -> tuple[Shortfall, ...]:
    """Return what is short of room for the candidate's pods beside the stable slot's.

    Args:
        needs: of the release.
        seen: of the cluster.
        counts: whether a pod of another's takes room at the moment that is asked about.
        pods: of the candidate at once; 0 is all of them.
        later: this moment is still to come.
    """
    return _worst(
        (
            *_testing(needs, seen, counts, later=later),
            *_deploying(needs, seen, counts, pods=pods, later=later),
        )
    )


def _testing(
    needs: Needs, seen: ClusterSeen, counts: Counts, *, later: bool
) -> Iterator[Shortfall]:
    def while_testing(pod: PodSeen) -> bool:
        return pod.ours is not Role.TEST and counts(pod)

    wanted = Wanted(
        what=f"test pod of {needs.service}",
        pods=needs.test_pods,
        demand=needs.test_pod,
        exact=seen.every_pod,
    )
    if wanted.pods:
        yield from _short(needs, seen, wanted, while_testing, creates={}, later=later)


def _deploying(
    needs: Needs, seen: ClusterSeen, counts: Counts, *, pods: int = 0, later: bool = False
) -> Iterator[Shortfall]:
    def while_deploying(pod: PodSeen) -> bool:
        return pod.ours not in {Role.TEST, Role.CANDIDATE} and counts(pod)

    for count in sorted({pods or needs.at_first, pods or needs.at_full}):
        wanted = Wanted(
            what=f"{shown(count, Unit.POD)} of {needs.workload}",
            pods=count,
            demand=needs.pod,
            exact=seen.every_pod,
        )
        yield from _short(needs, seen, wanted, while_deploying, creates=needs.creates, later=later)


def _short(
    needs: Needs,
    seen: ClusterSeen,
    wanted: Wanted,
    counts: Counts,
    *,
    creates: Amounts,
    later: bool,
) -> Iterator[Shortfall]:
    here = [pod for pod in seen.pods if pod.namespace == needs.namespace]
    yield from quota_shortfalls(
        wanted, seen.quotas, here, creates=creates, counts=counts, later=later
    )
    if seen.nodes is not None:
        yield from placement_shortfalls(wanted, seen.nodes, seen.pods, counts=counts)


def _worst(found: Iterable[Shortfall]) -> tuple[Shortfall, ...]:
    """Return of several that are short of the same thing the one that is shortest, the last."""
    worst: dict[tuple[str, str], Shortfall] = {}
    for item in found:
        key = (item.code, _thing(item))
        if key not in worst or worst[key].short <= item.short:
            worst[key] = item
    return tuple(worst.values())


def _thing(item: Shortfall) -> str:
    return f"{item.unit} {item.hint}"


def _refused_pods(needs: Needs, seen: ClusterSeen) -> tuple[Shortfall, ...]:
    """Return why the API server would refuse the pods, however much room there is."""

    def of(what: str, demand: PodDemand) -> Iterator[Shortfall]:
        yield from unstated_shortfalls(what, demand, seen.quotas)
        yield from limit_shortfalls(what, demand, seen.limits)

    return _once(
        (
            *of(f"pods of {needs.workload}", needs.pod),
            *of(f"test pod of {needs.service}", needs.test_pod),
        )
    )


def _once(found: Iterable[Shortfall]) -> tuple[Shortfall, ...]:
    """Return what is said of the test pod only where it is not said of the slot's pods too."""
    first: dict[str, Shortfall] = {}
    for item in found:
        first.setdefault(f"{item.code} {item.text}", item)
    return tuple(first.values())


def _other_ways(needs: Needs, seen: ClusterSeen) -> tuple[Way, ...]:
    """Return the ways that there would be room for; see `Way`."""
    found = []
    if not _side_by_side(needs, seen, _when_others_left, later=True):
        found.append(Way.QUEUE)
    if not any(pod.ours is Role.STABLE for pod in seen.pods):
        return tuple(found)  # nothing could be shrunk or replaced
    if not _side_by_side(needs, seen, _as_it_is, pods=1):
        found.append(Way.SURGE)
    if not tuple(_deploying(needs, seen, lambda pod: pod.ours is not Role.STABLE)):
        found.append(Way.IN_PLACE)
    return tuple(found)


def _notes(needs: Needs, seen: ClusterSeen) -> Iterator[str]:
    if not seen.every_pod and seen.nodes is not None:
        yield "pods of other namespaces were not seen: the nodes may have less room than is said"
    if needs.most > needs.at_full:
        short = tuple(_deploying(needs, seen, _as_it_is, pods=needs.most))
        for item in short:
            yield f"no room to grow to autoscaling.max_replicas: {item.subject}: {item.text}"


def infeasible(found: Feasibility, *, service: str, waited_s: float = 0) -> PermanentError:
    """Return the refusal of a release, with every reason in exact figures.

    Args:
        found: why.
        service: of the release.
        waited_s: for room, in vain.
    """
    lines = "\n".join(f"  {item}" for item in found.shortfalls)
    count = len(found.shortfalls)
    reasons = "1 reason" if count == 1 else f"{count} reasons"
    waited = f" (waited {waited_s:.0f} s for room)" if waited_s else ""
    hints = list(dict.fromkeys(item.hint for item in found.shortfalls))
    return PermanentError(
        f"a release of service {service} cannot be carried out, for {reasons}{waited}; nothing was"
        f" written:\n{lines}",
        code="infeasible",
        hint="; ".join([*hints, *ways_text(found)]),
    )


def ways_text(found: Feasibility) -> tuple[str, ...]:
    """Return the other ways that there would be room for, for people."""
    texts = {
        Way.QUEUE: "or wait until others leave (policy.when_full: queue)",
        Way.SURGE: "surge would fit, a pod at a time, but no release does that yet",
        Way.IN_PLACE: "in_place would fit, in place of the stable slot's pods, but no release does"
        " that yet",
    }
    return tuple(texts[way] for way in found.would_fit)
