"""A service that was adopted is given back as it was."""

from __future__ import annotations

from slipway.core.errors import InputError
from slipway.core.release.record import ReleaseRecord
from slipway.core.routing import Slot
from slipway.manifests.adoption.changes import (
    announced,
    backends_before,
    beside_objects,
    given_back_patch,
    labels_off,
    own_route,
    own_rule,
    unfenced_patch,
)
from slipway.manifests.adoption.originals import (
    Originals,
    as_it_was,
    identity,
    originals_name,
    others_than,
    same_object,
)
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT
from slipway.manifests.install import service_objects
from slipway.manifests.names import SERVICE_LABEL, workload_name
from slipway.manifests.release_objects import record_name
from slipway.ports.workloads import Manifest
from tasks.adopted_pods import current_replica_set, label_pods
from tasks.adopting import Adopting, install_base, locked, originals_of

_CONFIRM_S = 60.0


def give_back(work: Adopting) -> str:
    """Put everything back as it was before the adoption; may be repeated. Returns what was done.

    Raises:
        InputError: the service was not adopted, or its users are on another version by now.
        ConflictError: a release of the service runs.
    """
    spec = work.spec
    originals = originals_of(work)
    if originals is None:
        raise InputError(
            f"service {spec.name} was not adopted",
            code="not-adopted",
            hint=f"look at: slipway status {spec.name}",
        )
    install_base(work)  # the lock, when an earlier attempt got as far as its removal
    with locked(work) as (guarded, _):
        stored = work.ports.releases.load(spec.name)
        _require_former(stored.record if stored else None, originals)
        # First: from here on neither way has ended, so either command goes on, and no release.
        _remove(guarded, _config_map(spec.namespace, record_name(spec.name)))
        _give_users_back(guarded, originals)
        _give_pods_back(guarded, originals)
    _forget(work, originals)
    return f"{spec.name}: given back to {originals.live.workload}, as it was"


def _require_former(record: ReleaseRecord | None, originals: Originals) -> None:
    """Refuse while users are on another version than the one that was adopted."""
    if record is None:
        return
    slot = originals.live.slot
    if record.terminal and record.live_slot is slot and record.slot(slot).adopted:
        return
    live = record.live_slot
    what = f"slot {live}, version {record.slot(live).version}" if live else "no slot"
    raise InputError(
        f"users of service {record.service} are on {what} (phase {record.phase}), not on"
        f" {originals.live.workload}",
        code="adopted-no-more",
        hint=f"go back to version {originals.version} first: slipway rollback {record.service};"
        " once its slot was used again there is nothing to give back",
    )


def _give_users_back(work: Adopting, originals: Originals) -> None:
    """Make before break, the other way round."""
    spec, objects, live = work.spec, work.objects, originals.live
    rule, route = own_rule(spec, live), own_route(spec, live)
    both = announced(spec, live)
    if both is not None and any(same_object(both, item) for item in live.rules):
        objects.put(both)  # what users go by now, and what they went by
    for former in others_than(live.rules, () if rule is None else (rule,)):
        objects.put(as_it_was(former))
    work.hand_over.await_known(backends_before(spec, live))
    for former in live.routes:
        objects.put(as_it_was(former))
    _remove_unless_theirs(work, route, live.routes)
    work.hand_over.confirm_handed_over(timeout_s=_CONFIRM_S)
    work.progress.say(f"the gateway serves {', '.join(spec.hosts)} as it did before")
    for former in live.rules:
        objects.put(as_it_was(former))
    _remove_unless_theirs(work, rule, live.rules)


def _give_pods_back(work: Adopting, originals: Originals) -> None:
    spec, objects, live = work.spec, work.objects, originals.live
    objects.put(as_it_was(live.service))
    _remove_slots(work, originals)
    deployment = objects.get(*identity(live.deployment))
    if deployment is not None:
        objects.patch(deployment, given_back_patch(live))
    pods = label_pods(work, live, labels_off(spec, live))
    # The controller copies annotations of a Deployment to its ReplicaSet, and leaves them there.
    objects.patch(current_replica_set(work, live), unfenced_patch())
    work.progress.say(f"{pods} pods of {live.workload} are nobody's slot, none was started anew")
    for scaler in live.scalers:
        objects.put(as_it_was(scaler))
    now = work.ports.registry.alias(spec.model, spec.alias)
    if now == originals.version:
        work.ports.registry.set_alias(spec.model, spec.alias, originals.alias_before or None)


def _remove_slots(work: Adopting, originals: Originals) -> None:
    """Remove what releases made: Services and Deployments of slots, and what scales them."""
    spec, objects = work.spec, work.objects
    for made in beside_objects(spec, originals.live):
        _remove(work, made)
    scalers = (item for kind in (HPA, SCALED_OBJECT) for item in objects.list(kind, spec.namespace))
    own = (objects.get("Deployment", spec.namespace, workload_name(spec.name, s)) for s in Slot)
    for found in (*scalers, *own):
        labels = {} if found is None else found["metadata"].get("labels") or {}
        if found is not None and labels.get(SERVICE_LABEL) == spec.name:
            objects.delete(found)


def _forget(work: Adopting, originals: Originals) -> None:
    """Remove what is Slipway's alone; what was there before comes last, a rerun needs it."""
    spec = work.spec
    for made in service_objects(spec, adopted=originals.live.workload):
        if made["metadata"].get("labels", {}).get(SERVICE_LABEL) == spec.name:
            _remove(work, made)
    _remove(work, _config_map(spec.namespace, originals_name(spec.name)))


def _config_map(namespace: str, name: str) -> Manifest:
    return {"kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}}


def _remove_unless_theirs(
    work: Adopting, own: Manifest | None, theirs: tuple[Manifest, ...]
) -> None:
    if own is not None and not any(same_object(own, item) for item in theirs):
        _remove(work, own)


def _remove(work: Adopting, item: Manifest) -> None:
    found = work.objects.get(*identity(item))
    if found is not None:
        work.objects.delete(found)
