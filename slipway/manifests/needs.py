"""What a release needs of a cluster, read off the very objects that it would write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from slipway.core.feasibility.values import Contradiction, Needs, Role, Taken
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.release.scaling import Scaling, first_scaling
from slipway.core.routing import Slot
from slipway.core.service import AutoscalerKind, ServiceSpec
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT, autoscaler
from slipway.manifests.footprint import pod_demand
from slipway.manifests.lint import Finding, lint
from slipway.manifests.names import (
    MANAGED_BY_LABEL,
    ROLE_LABEL,
    SERVICE_LABEL,
    Object,
    slot_labels,
    sweep_pod_name,
    test_pod_name,
    workload_name,
)
from slipway.manifests.routes.routers import other_routes, route_names
from slipway.manifests.weights import WeightsFetch
from slipway.manifests.workload import slot_deployment, test_pod
from slipway.ports.workloads import Manifest

_NOT_YET = "0" * 64
_UNBUILT = f"not-built-yet@sha256:{_NOT_YET}"
_JUDGED_EXACTLY = frozenset({"L5", "L7"})
"""By the quotas as they stand, with what is used of them."""

_NO_HINDRANCE = frozenset({"L6"})
_OBJECT_COUNTS = {
    AutoscalerKind.HPA: "count/horizontalpodautoscalers.autoscaling",
    AutoscalerKind.KEDA: "count/scaledobjects.keda.sh",
}


def release_needs(
    spec: ServiceSpec, record: ReleaseRecord, objects: Sequence[Manifest], *, recorded: bool
) -> Needs:
    """Return what the release of `record` needs.

    Args:
        spec: the service.
        record: of the release that would begin, or go on.
        objects: of the service's namespace, as they are now.
        recorded: a record of the service is stored already.
    """
    scaling = _scaling(spec, record, objects)
    candidate = _candidate(spec, record)
    shortest_s, longest_s = _overlap_s(spec, record)
    return Needs(
        service=spec.name,
        namespace=spec.namespace,
        workload=record.slot(record.candidate).workload,
        pod=pod_demand(candidate["spec"]["template"]["spec"]),
        test_pod=pod_demand(_test_pod(spec, record)["spec"]),
        test_pods=0 if record.has_reached(Phase.TESTED) else 1,
        at_first=spec.replicas if scaling is None else scaling.candidate_floor,
        at_full=spec.replicas if scaling is None else scaling.needed,
        most=0 if scaling is None else scaling.settings.max_replicas,
        creates=_creates(spec, record, objects, recorded=recorded),
        shortest_s=shortest_s,
        longest_s=longest_s,
        price_usd_per_hour=spec.resources.price_usd_per_hour,
        budget_usd=spec.policy.overlap_budget_usd,
        when_full=spec.policy.when_full,
    )


def roles_of_pods(spec: ServiceSpec, record: ReleaseRecord) -> Mapping[Role, Mapping[str, str]]:
    """Return the labels by which pods belong to this release, or to the slot that serves."""
    stable = record.stable
    return {
        Role.TEST: {SERVICE_LABEL: spec.name, ROLE_LABEL: "test"},
        Role.CANDIDATE: slot_labels(spec.name, record.candidate),
        **({} if stable is None else {Role.STABLE: slot_labels(spec.name, stable)}),
    }


def candidate_labels(spec: ServiceSpec, record: ReleaseRecord) -> Mapping[str, str]:
    """Return the labels of the candidate's pods."""
    labels: Mapping[str, str] = _candidate(spec, record)["spec"]["template"]["metadata"]["labels"]
    return labels


def taken_names(
    spec: ServiceSpec, record: ReleaseRecord, objects: Iterable[Manifest]
) -> tuple[Taken, ...]:
    """Return the objects that have names which the release needs, and are not the service's."""
    pods = {test_pod_name(spec.name), *(() if spec.volume is None else [sweep_pod_name(spec.name)])}
    known = {slot.workload for slot in record.slots if slot.version}
    names = {
        "Deployment": {slot.workload for slot in record.slots} - known,
        "Pod": pods,
    }
    return tuple(
        Taken(kind=item["kind"], name=item["metadata"]["name"], owner=_owner(item))
        for item in objects
        if item["metadata"]["name"] in names.get(item["kind"], ()) and not _is_ours(item, spec.name)
    )


def _is_ours(item: Manifest, service: str) -> bool:
    labels = item["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY_LABEL) == "slipway" and labels.get(SERVICE_LABEL) == service


def _owner(item: Manifest) -> str:
    meta = item["metadata"]
    labels = meta.get("labels") or {}
    for owner in meta.get("ownerReferences") or ():
        return f"{owner['kind']} {owner['name']}"
    if SERVICE_LABEL in labels:
        return f"service {labels[SERVICE_LABEL]}"
    return str(labels.get(MANAGED_BY_LABEL) or "somebody else")


def other_routers(spec: ServiceSpec, objects: Sequence[Manifest]) -> tuple[Contradiction, ...]:
    """Return the routes of this service that another router would still go by.

    A release would not write them: whoever comes by them would meet a slot that is emptied.

    Args:
        spec: the service.
        objects: that `other_routes` names, as far as there are.
    """
    wanted = set(other_routes(spec))
    return tuple(
        Contradiction(
            rule="router",
            subject=_named(item),
            message=f"it is a route of this service by another router than {spec.router.kind}",
            hint=f"when no user comes by it any more: kubectl -n {spec.namespace} delete"
            f" {item['kind'].lower()} {spec.name}",
        )
        for item in objects
        if _key(item) in wanted and _is_ours(item, spec.name)
    )


def contradictions(
    spec: ServiceSpec, record: ReleaseRecord, objects: Sequence[Manifest]
) -> tuple[tuple[Contradiction, ...], tuple[str, ...]]:
    """Return what of the linter's findings is in the way of this release, and what is not.

    Faults between objects of others are theirs to mend.

    Args:
        spec: the service.
        record: of the release that would begin, or go on.
        objects: of the namespace and of the service's routes, as they are now.
    """
    own = _own_objects(spec, record)
    replaced = {_key(item) for item in own}
    standing = [
        _without_number(item)
        for item in objects
        if _key(item) not in replaced and not _goes(item, spec, record)
    ]
    routes = [item for item in standing if _is_route(item, spec)]
    mine = re.compile("|".join(rf"{re.escape(_named(item))}(?![\w.-])" for item in (*own, *routes)))
    found = [
        item
        for item in lint((*own, *standing))
        if item.rule not in _JUDGED_EXACTLY
        and (item.rule in _NO_HINDRANCE or mine.search(f"{item.subject} {item.message}"))
    ]
    return (
        tuple(_contradiction(item) for item in found if item.rule not in _NO_HINDRANCE),
        tuple(f"{item.subject}: {item.message}" for item in found if item.rule in _NO_HINDRANCE),
    )


def _contradiction(item: Finding) -> Contradiction:
    return Contradiction(rule=item.rule, subject=item.subject, message=item.message, hint=item.hint)


def _is_route(item: Manifest, spec: ServiceSpec) -> bool:
    return (item["kind"], item["metadata"]["name"]) in route_names(spec)


def _goes(item: Manifest, spec: ServiceSpec, record: ReleaseRecord) -> bool:
    """Return whether an object is gone, or is part of another one, when the release deploys."""
    owners = {owner["kind"] for owner in item["metadata"].get("ownerReferences") or ()}
    held = record.slot(record.candidate)
    if held.adopted and _key(item) == ("Deployment", held.workload):
        return True  # emptied, and no longer of the slot
    if item["kind"] == "Pod":
        return bool(owners) or item.get("status", {}).get("phase") in {"Succeeded", "Failed"}
    if item["kind"] not in {HPA, SCALED_OBJECT}:
        return False
    if SCALED_OBJECT in owners:
        return True  # KEDA makes one HorizontalPodAutoscaler for each of its objects
    target = item["spec"]["scaleTargetRef"]["name"]
    return _is_ours(item, spec.name) and target == record.slot(record.candidate).workload


def _without_number(item: Manifest) -> Manifest:
    """Return a Deployment without the number that the API shows, whoever may have set it."""
    if item["kind"] != "Deployment":
        return item
    spec = {key: value for key, value in item["spec"].items() if key != "replicas"}
    return {**item, "spec": spec}


def _key(item: Manifest) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def _named(item: Manifest) -> str:
    return f"{item['kind']}/{item['metadata']['namespace']}/{item['metadata']['name']}"


def _own_objects(spec: ServiceSpec, record: ReleaseRecord) -> tuple[Object, ...]:
    scaled: list[Object] = []
    if spec.autoscaling is not None:
        scaled.append(
            autoscaler(
                spec.name,
                spec.namespace,
                spec.autoscaling,
                slot=record.candidate,
                workload=record.slot(record.candidate).workload,
                floor=spec.autoscaling.min_replicas,
            )
        )
    return (_candidate(spec, record), _test_pod(spec, record), *scaled)


def first_objects(spec: ServiceSpec, record: ReleaseRecord, *, registry: str) -> tuple[Object, ...]:
    """Return what a release will apply, for a dry run before its first write.

    Their image is named by the registry that it will be pushed to: policies may look at that.

    Args:
        spec: the service.
        record: of the release that would begin.
        registry: of the installation, `HOST[:PORT]`.
    """
    image = f"{registry}/{_UNBUILT}"
    return _test_pod(spec, record, image), _candidate(spec, record, image)


def _candidate(spec: ServiceSpec, record: ReleaseRecord, image: str = _UNBUILT) -> Object:
    held = record.slot(record.candidate)
    return slot_deployment(
        spec,
        slot=record.candidate,
        # What was adopted stays as it is: the slot gets a Deployment of its own.
        workload=workload_name(spec.name, held.slot) if held.adopted else held.workload,
        image=image,
        release_id=record.release_id,
        fetch=_fetch(spec, image),
    )


def _test_pod(spec: ServiceSpec, record: ReleaseRecord, image: str = _UNBUILT) -> Object:
    return test_pod(spec, image=image, release_id=record.release_id, fetch=_fetch(spec, image))


def _fetch(spec: ServiceSpec, image: str) -> WeightsFetch | None:
    if spec.volume is None:
        return None
    return WeightsFetch(volume=spec.volume, image=image, source="", sha256=_NOT_YET)


def _scaling(
    spec: ServiceSpec, record: ReleaseRecord, objects: Iterable[Manifest]
) -> Scaling | None:
    stable: Slot | None = record.stable
    workload = "" if stable is None else record.slot(stable).workload
    asked = next(
        (
            int(item["spec"].get("replicas", 1))
            for item in objects
            if item["kind"] == "Deployment" and item["metadata"]["name"] == workload
        ),
        0,
    )
    return first_scaling(spec, record.steps, stable=asked)


def _creates(
    spec: ServiceSpec, record: ReleaseRecord, objects: Iterable[Manifest], *, recorded: bool
) -> dict[str, int]:
    workload = record.slot(record.candidate).workload
    made = {item["kind"] for item in objects if item["metadata"]["name"] == workload}
    return dict(_created(spec, made, recorded=recorded))


def _created(spec: ServiceSpec, made: set[str], *, recorded: bool) -> Iterator[tuple[str, int]]:
    if "Deployment" not in made:
        yield "count/deployments.apps", 1
    if spec.autoscaling is not None and not made & {HPA, SCALED_OBJECT}:
        yield _OBJECT_COUNTS[spec.autoscaling.kind], 1
    if not recorded:
        yield "count/configmaps", 1
        yield "configmaps", 1


def _overlap_s(spec: ServiceSpec, record: ReleaseRecord) -> tuple[float, float]:
    """Return how long both slots have pods, at least and at most; a hold is not counted."""
    if record.stable is None:
        return 0.0, 0.0
    policy = spec.policy
    baked_s = sum(step.bake_s for step in record.steps) + policy.bake_s
    shortest_s = baked_s + policy.rollback_window_s
    waits_s = policy.ready_timeout_s + len(record.steps) * policy.ramp.data_timeout_s
    return shortest_s, shortest_s + waits_s + policy.drain_timeout_s
