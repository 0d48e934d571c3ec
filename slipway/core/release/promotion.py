"""When users may move, and where they go when a release fails: pure rules."""

from __future__ import annotations

from slipway.core.errors import InputError
from slipway.core.release.record import ReleaseRecord
from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.core.routing import Route, Slot, all_to, empty, split


def promotion_refusal(
    record: ReleaseRecord, observed: RolloutObservation | None, *, replicas: int
) -> str | None:
    """Return why the candidate must not get users now; None when it may (R2).

    The evidence binds to pods: the ready pods must be the very ones that were tested, running the
    digest of the record. Where an autoscaler decides how many there are they come and go: then it
    binds to the digests alone.

    Args:
        record: of the release.
        observed: the candidate's Deployment, read just now.
        replicas: how many ready pods the service needs for all its users.
    """
    ready = () if observed is None else observed.ready_pods
    strangers = [pod.name for pod in ready if pod.uid not in record.tested_pod_uids]
    if record.scaling is None and len(ready) >= replicas and strangers:
        return f"pods replaced since they were tested: {', '.join(strangers)}"
    return why_unready(record, observed, replicas=replicas)


def why_unready(
    record: ReleaseRecord, observed: RolloutObservation | None, *, replicas: int
) -> str | None:
    """Return why the candidate's pods cannot serve what the record says; None when they can.

    Args:
        record: of the release.
        observed: the candidate's Deployment, read just now.
        replicas: how many ready pods are needed.
    """
    if observed is None:
        return f"slot {record.candidate} has no Deployment any more"
    ready = observed.ready_pods
    if len(ready) < replicas:
        return f"slot {record.candidate} has {len(ready)} ready pods of {replicas} needed"
    return image_mismatch(record, ready)


def image_mismatch(record: ReleaseRecord, pods: tuple[PodObservation, ...]) -> str | None:
    """Return which pods run another image or other weights than the record says, else None."""
    image, weights = record.digests.image, record.digests.weights
    wrong = [f"{pod.name} runs {pod.image_digest}" for pod in pods if pod.image_digest != image]
    if wrong:
        return f"image {image} expected: {'; '.join(wrong)}"
    # None: the weights are in the image, whose digest has just been compared.
    wrong = [f"{pod.name} has {pod.weights}" for pod in pods if pod.weights not in {None, weights}]
    return f"weights {weights} expected: {'; '.join(wrong)}" if wrong else None


def route_at(record: ReleaseRecord, weight_percent: int) -> Route:
    """Return the route that gives the candidate `weight_percent` of the users, 1..99.

    Raises:
        InputError: nobody serves the rest.
    """
    if record.stable is None:
        raise InputError(
            f"release {record.release_id} has no stable slot to share the users with",
            code="route-invalid",
            hint="this is a defect of the caller; report it with the release record",
        )
    return split(record.service, stable=record.stable, candidate_percent=weight_percent)


def route_with_users_on_candidate(record: ReleaseRecord) -> Route:
    """Return the route after promotion: all users on the candidate, the old slot kept warm."""
    warm = frozenset({record.stable}) if record.stable else frozenset()
    return all_to(record.service, record.candidate, subsets=warm)


def route_after_rollback(record: ReleaseRecord, *, keep: bool) -> Route:
    """Return the route that gives the users back to the slot that served before.

    Args:
        record: of the release.
        keep: keep the candidate known to the gateway, because streams to it are still open.
    """
    subsets = frozenset({record.candidate}) if keep else frozenset()
    if record.stable is None:
        return Route(service=record.service, subsets=subsets) if keep else empty(record.service)
    return all_to(record.service, record.stable, subsets=subsets)


def alias_due(record: ReleaseRecord) -> str | None:
    """Return the version that the registry's alias must name now, None where that is open (R8).

    Open is it before anything was live, and once the users moved in a release that has not ended:
    then the alias follows them, there or back.
    """
    if record.live_slot is None or (record.has_passed_promotion and not record.terminal):
        return None
    return record.slot(record.live_slot).version or None


def rollback_refusal(
    record: ReleaseRecord, current: Route, *, ready: dict[Slot, int]
) -> str | None:
    """Return why giving the users back must wait; None when it may happen now (R5).

    Traffic is never pointed at a slot without ready pods while the slot it is on still has some.
    """
    stable = record.stable
    if stable is None or current.percent(stable) == 100:
        return None
    if ready.get(stable, 0) > 0:
        return None
    if ready.get(record.candidate, 0) == 0:
        return None  # neither serves: the former slot is where the users belong
    return f"slot {stable} has no ready pod yet, slot {record.candidate} still serves"
