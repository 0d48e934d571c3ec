"""How many pods a release needs where an autoscaler decides: pure rules, in whole pods.

Each slot has an autoscaler of its own, which sees that slot's pods alone. A release never says how
many pods a slot has: it only sets the least number, the floor, that a slot's autoscaler keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from slipway.core.service import Autoscaling, RampStep, ServiceSpec

EVERYBODY = 100
"""Percent of the users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What a release has the autoscalers of its slots keep.

    Args:
        settings: of the service file when the candidate was deployed; what it says later changes
            nothing.
        needed: ready pods that carry all users, as it was found when the candidate got its share.
        candidate_floor: the candidate's autoscaler keeps so many, at least.
        grown: pods that carry all users, as load that grew meanwhile showed; 0 when it did not.
        stable_floor: so many has the stable slot at least while users may come back; 0 before.
        stable_min: what the stable slot's autoscaler kept before that; 0 when it has none of ours.
    """

    settings: Autoscaling
    needed: int
    candidate_floor: int
    grown: int = 0
    stable_floor: int = 0
    stable_min: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaler:
    """An object that scales a Deployment, as it was seen.

    Args:
        kind: of the object, for example `HorizontalPodAutoscaler`.
        resource_version: guards its removal.
        target: name of the Deployment.
        ours: a release made it; else a person or another program did.
    """

    kind: str
    name: str
    uid: str
    resource_version: str
    target: str
    ours: bool
    min_replicas: int
    max_replicas: int


def replicas_for(weight_percent: int, replicas: int) -> int:
    """Return how many ready pods carry `weight_percent` of a service that needs `replicas` (R2)."""
    return math.ceil(weight_percent * replicas / EVERYBODY)


def first_scaling(spec: ServiceSpec, steps: tuple[RampStep, ...], *, stable: int) -> Scaling | None:
    """Return what a candidate begins with: pods for its first share of the users.

    None where the service file says how many pods a slot has.

    Args:
        spec: of the service.
        steps: of the canary; none where all users move at once.
        stable: pods that the stable slot is to have, 0 without one.
    """
    settings = spec.autoscaling
    if settings is None:
        return None
    needed = within(settings, stable or spec.replicas)
    first = steps[0].weight_percent if steps else EVERYBODY
    floor = within(settings, replicas_for(first, needed))
    return Scaling(settings=settings, needed=needed, candidate_floor=floor)


def within(settings: Autoscaling, replicas: int) -> int:
    """Return `replicas`, or the end of the settings' range that is nearest to it."""
    return min(max(replicas, settings.min_replicas), settings.max_replicas)


def replicas_needed(scaling: Scaling, *, stable: int) -> int:
    """Return how many pods carry all users.

    The stable slot's number says it while it has all users. While they move, its floor keeps it at
    that number, and load that grows is noticed by either autoscaler for its part.

    Args:
        stable: pods that the stable slot is to have.
    """
    return within(scaling.settings, max(stable, scaling.grown))


def with_growth(scaling: Scaling, *, stable: int, candidate: int, weight_percent: int) -> Scaling:
    """Return the scaling that knows what the candidate's autoscaler shows of all users.

    A number above its floor is what the load of w % of the users asks for: all of them need more
    than 100 × (candidate − 1) / w pods, since one less was too few. That is trusted up to the sum
    of both slots, which suffices by itself: a metric that jumps once at 1 % must not scale
    everything to its maximum. A higher floor hides what was seen, so it is kept.

    Args:
        stable: pods that the stable slot is to have.
        candidate: pods that the candidate is to have.
        weight_percent: of the users that the candidate has, 0..100.
    """
    if not weight_percent or candidate <= scaling.candidate_floor:
        return scaling
    more_than = EVERYBODY * (candidate - 1) // weight_percent
    shown = within(scaling.settings, min(more_than + 1, stable + candidate))
    return replace(scaling, grown=max(scaling.grown, shown))


def with_candidate_floor(scaling: Scaling, floor: int) -> Scaling:
    """Return the scaling whose candidate keeps `floor` pods; a floor is never lowered on the way.

    Args:
        floor: pods of the weight that comes next.
    """
    kept = max(scaling.candidate_floor, within(scaling.settings, floor))
    return replace(scaling, candidate_floor=kept)


def with_stable_held(scaling: Scaling, *, desired: int, found: Autoscaler | None) -> Scaling:
    """Return the scaling whose stable slot keeps the number it has now, or had at an earlier look.

    Load grows while users move, so each weight holds what the users who leave now come back to. A
    process that goes on with a release finds the least number set to the floor: the first look
    alone tells what it was before the release.

    Args:
        desired: pods that the stable slot is to have.
        found: its autoscaler of ours; None when it has none, so that nothing changes its number.
    """
    if found is None:
        return replace(scaling, stable_floor=scaling.stable_floor or max(desired, 1))
    kept = max(scaling.stable_floor, found.min_replicas)
    return replace(
        scaling,
        stable_floor=max(kept, min(desired, found.max_replicas)),
        stable_min=scaling.stable_min or found.min_replicas,
    )


def at_rest(scaling: Scaling) -> Scaling:
    """Return the scaling of a release that went well: the service's own least number again."""
    return replace(scaling, candidate_floor=scaling.settings.min_replicas)
