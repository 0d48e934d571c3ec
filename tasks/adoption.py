"""A service that is live without Slipway becomes its stable slot, and is given back as it was.

What was there is written down before the first change, and stays until it is given back. Every step
looks at what is there and may be repeated: killed anywhere, the same command goes on, and so does
the opposite one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.core.release.adoption import adopted_record
from slipway.core.release.record import ReleaseRecord
from slipway.core.rollout import PodObservation
from slipway.manifests.adoption.changes import (
    announced,
    backends_after,
    belongs_patch,
    beside_objects,
    own_route,
    own_rule,
    pods_labels,
    route_of,
    routes_that_go,
    rules_that_go,
    service_patch,
    steps,
    template_patch,
)
from slipway.manifests.adoption.fitness import notes, obstacles
from slipway.manifests.adoption.live import Live, Obstacle, find_live
from slipway.manifests.adoption.originals import (
    Originals,
    identity,
    originals_config_map,
    says_the_same,
)
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT, autoscaler
from slipway.ports.workloads import Manifest
from tasks.adopted_pods import label_pods
from tasks.adopting import (
    Adopting,
    changed_meanwhile,
    install_base,
    locked,
    originals_of,
    standing,
)
from tasks.lock import LockKeeper
from tasks.takeover import put_alias_right

_CONFIRM_S = 60.0
_NAMESPACED = ("Service", "Deployment", HPA, SCALED_OBJECT)
_EVERYWHERE = ("VirtualService", "DestinationRule", "HTTPRoute")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionPlan:
    """What taking a service over would mean.

    Args:
        obstacles: why it cannot be done as it is; empty when it can.
        notes: what would be different afterwards.
        steps: what would be done, in order; empty when that cannot be told.
        unfinished: an earlier adoption has begun and not ended.
    """

    service: str
    obstacles: tuple[Obstacle, ...]
    notes: tuple[str, ...]
    steps: tuple[str, ...]
    unfinished: bool = False


def planned_adoption(work: Adopting, version: str, *, managed_elsewhere: bool) -> AdoptionPlan:
    """Look at what is live and say what taking it over would do; nothing is written.

    Raises:
        InputError: Slipway has released this service already, or the registry has no such version.
    """
    spec = work.spec
    originals = originals_of(work)
    _require_new(work, originals)
    work.ports.registry.version(spec.model, version)
    live, why = (originals.live, ()) if originals else find_live(spec, _everything(work))
    if live is None:
        return AdoptionPlan(service=spec.name, obstacles=why, notes=(), steps=())
    if originals is None:
        why = (
            *obstacles(spec, live, managed_elsewhere=managed_elsewhere),
            *_of_servers(work, live),
        )
    return AdoptionPlan(
        service=spec.name,
        obstacles=why,
        notes=notes(spec, live),
        steps=steps(spec, live),
        unfinished=originals is not None,
    )


def adopt(work: Adopting, version: str, *, managed_elsewhere: bool) -> str:
    """Take a live service over; may be repeated. Returns what was done.

    Args:
        work: of the service.
        version: of the model that its pods serve, as the registry names it.
        managed_elsewhere: its owner has seen to it that no other program undoes the changes.

    Raises:
        PermanentError: `adoption-refused`, it cannot be done as it is; nothing was written.
    """
    plan = planned_adoption(work, version, managed_elsewhere=managed_elsewhere)
    if plan.obstacles:
        raise refused(plan)
    if not plan.unfinished:
        _rehearse(work)
    install_base(work)
    with locked(work) as (guarded, keeper):
        # Under the lock: whoever came second would write down what is half changed already.
        originals = _written_down(guarded, version)
        stored = work.ports.releases.load(work.spec.name)
        record = stored.record if stored else _take_over(guarded, originals, keeper)
        put_alias_right(work.ports, keeper, record, report=work.progress.say)
    return f"{work.spec.name}: version {originals.version} is live on slot {originals.live.slot}"


def _require_new(work: Adopting, originals: Originals | None) -> None:
    stored = work.ports.releases.load(work.spec.name)
    if stored is not None and originals is None:
        raise InputError(
            f"service {work.spec.name} is Slipway's own already (release"
            f" {stored.record.release_id})",
            code="adopted-already",
            hint=f"look at: slipway status {work.spec.name}",
        )


def _everything(work: Adopting) -> tuple[Manifest, ...]:
    objects = work.objects
    here = (item for kind in _NAMESPACED for item in objects.list(kind, work.spec.namespace))
    return (*here, *(item for kind in _EVERYWHERE for item in objects.list(kind, None)))


def _of_servers(work: Adopting, live: Live) -> Iterator[Obstacle]:
    """Yield what of the running pods a release could not work with."""
    spec, pods = work.spec, _ready_pods(work, live)
    name = f"Deployment/{spec.namespace}/{live.workload}"
    if len({pod.image_digest for pod in pods}) > 1 or any(not pod.image_digest for pod in pods):
        yield Obstacle(
            subject=name,
            message="its pods run different images, or ones without a digest",
            hint="let them run one image: kubectl rollout restart",
        )
    addresses = [pod.address for pod in pods if pod.address]
    try:
        work.ports.metrics.running_requests(spec.server.kind, addresses)
    except (PermanentError, TransientError) as error:
        yield Obstacle(
            subject=name,
            message=f"its servers do not tell how many requests they have open: {error.message}",
            hint="correct server.kind and server.port of the service file",
        )


def _ready_pods(work: Adopting, live: Live) -> tuple[PodObservation, ...]:
    observed = work.ports.workloads.observe(work.spec.namespace, live.workload)
    return () if observed is None else observed.ready_pods


def refused(plan: AdoptionPlan) -> PermanentError:
    """Return the refusal of an adoption, with every reason."""
    lines = "\n".join(f"  {item}" for item in plan.obstacles)
    return PermanentError(
        f"service {plan.service} cannot be taken over as it is; nothing was written:\n{lines}",
        code="adoption-refused",
        hint="mend what the arrows name, then run the command again",
    )


def _rehearse(work: Adopting) -> None:
    """Have the API server refuse in a dry run what it would refuse later."""
    spec, objects = work.spec, work.objects
    live, _ = find_live(spec, _everything(work))
    if live is None:
        return
    for manifest in beside_objects(spec, live):
        objects.apply(manifest, dry_run=True)
    for made in (announced(spec, live), own_route(spec, live)):
        if made is not None:
            objects.put(made, dry_run=True)
    objects.patch(live.service, service_patch(spec, live), dry_run=True)
    labels = template_patch(pods_labels(spec, live))
    objects.patch(live.deployment, labels, dry_run=True)


def _written_down(work: Adopting, version: str) -> Originals:
    """Return what was there before the first change, which is kept from now on."""
    found = originals_of(work)
    if found is not None:
        return found
    spec = work.spec
    live, why = find_live(spec, _everything(work))
    if live is None:
        raise refused(AdoptionPlan(service=spec.name, obstacles=why, notes=(), steps=()))
    alias = work.ports.registry.alias(spec.model, spec.alias) or ""
    originals = Originals(live=live, version=version, alias_before=alias)
    work.objects.put(originals_config_map(spec.name, spec.namespace, originals))
    install_base(work)  # once more: the Deployment's name is known now
    return originals


def _take_over(work: Adopting, originals: Originals, keeper: LockKeeper) -> ReleaseRecord:
    spec, objects, say = work.spec, work.objects, work.progress.say
    live = originals.live
    pods = label_pods(work, live, pods_labels(spec, live))
    objects.patch(standing(work, live.deployment), belongs_patch(spec))
    say(f"{pods} pods of {live.workload} are slot {live.slot}, none was started anew")
    objects.patch(standing(work, live.service), service_patch(spec, live))
    for manifest in beside_objects(spec, live):
        objects.apply(manifest)
    _take_users(work, live)
    _take_scalers(work, live)
    record = _record(work, originals, fence=keeper.lease.fence)
    return work.ports.releases.save(record, version=None).record


def _take_users(work: Adopting, live: Live) -> None:
    """Make before break: what users go by is there, and known, before the old is taken away."""
    spec, objects, say = work.spec, work.objects, work.progress.say
    known = announced(spec, live)
    if known is not None and not _own_rule_stands(work, live):
        objects.put(known)
    work.hand_over.await_known(backends_after(spec, live))
    route = own_route(spec, live)
    if route is not None:
        objects.put(route)
    for former, left in routes_that_go(spec, live):
        _let_go(work, former, left)
    work.ports.traffic.confirm(route_of(spec, live), timeout_s=_CONFIRM_S)
    say(f"the gateway serves {', '.join(spec.hosts)} by Slipway's route")
    for former in rules_that_go(spec, live):
        _let_go(work, former, None)
    rule = own_rule(spec, live)
    if rule is not None:
        objects.put(rule)


def _own_rule_stands(work: Adopting, live: Live) -> bool:
    """Return whether Slipway's DestinationRule stands there already, as a release knows it."""
    rule = own_rule(work.spec, live)
    found = None if rule is None else work.objects.get(*identity(rule))
    return rule is not None and found is not None and says_the_same(found, rule)


def _let_go(work: Adopting, former: Manifest, left: Manifest | None) -> None:
    """Remove a hand-written object, or all of it that is the service's.

    Raises:
        PermanentError: somebody changed it since it was looked at.
    """
    found = work.objects.get(*identity(former))
    if found is None or (left is not None and says_the_same(found, left)):
        return
    if not says_the_same(found, former):
        kind, namespace, name = identity(former)
        raise changed_meanwhile(
            f"{kind} {namespace}/{name} was changed since the adoption began",
            f"give the service back first: slipway adopt {work.spec.name} --undo",
        )
    if left is None:
        work.objects.delete(found)
    else:
        work.objects.put(left)


def _take_scalers(work: Adopting, live: Live) -> None:
    spec = work.spec
    for former in live.scalers:
        found = work.objects.get(*identity(former))
        # Two at once would undo each other's work; between the two the number stays as it is.
        if found is not None and says_the_same(found, former):
            work.objects.delete(found)
    if spec.autoscaling is None:
        return
    work.ports.autoscalers.apply(
        autoscaler(
            spec.name,
            spec.namespace,
            spec.autoscaling,
            slot=live.slot,
            workload=live.workload,
            floor=spec.autoscaling.min_replicas,
        )
    )


def _record(work: Adopting, originals: Originals, *, fence: int) -> ReleaseRecord:
    live = originals.live
    pods = _ready_pods(work, live)
    containers = live.deployment["spec"]["template"]["spec"]["containers"]
    repository = str(containers[0]["image"]).partition("@")[0]
    return adopted_record(
        work.spec,
        version=originals.version,
        slot=live.slot,
        workload=live.workload,
        image=f"{repository}@{pods[0].image_digest}" if pods else "",
        fence=fence,
        now_ns=time.time_ns(),
    )
