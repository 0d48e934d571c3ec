"""Whether a release could be carried out, looked at before its first write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from slipway.bootstrap.releases import Ports
from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.core.feasibility.decide import decide, infeasible
from slipway.core.feasibility.values import (
    Certificate,
    ClusterSeen,
    Contradiction,
    Feasibility,
    Unseen,
    Way,
)
from slipway.core.release.admission import AlreadyDone, admit, requested
from slipway.core.release.record import ReleaseRecord, adopted_workload
from slipway.core.service import WhenFull, Wish
from slipway.manifests.adoption.originals import originals_name
from slipway.manifests.footprint import (
    budgets_seen,
    limits_seen,
    nodes_seen,
    pods_seen,
    quotas_seen,
)
from slipway.manifests.names import test_pod_name
from slipway.manifests.needs import (
    candidate_labels,
    contradictions,
    first_objects,
    other_routers,
    release_needs,
    roles_of_pods,
    taken_names,
)
from slipway.manifests.rights import release_rights
from slipway.manifests.routes.routers import other_routes, route_names
from slipway.ports.workloads import Look
from tasks.guard import GuardedWorkloads
from tasks.lock import LockKeeper
from tasks.turn import once

Report = Callable[[str], None]

_LOOK_EVERY_S = 5.0
_NO_CERTIFICATE = Unseen(
    what="certificates of the gateway", why="SLIPWAY_GATEWAY_URL speaks no TLS"
)
_NS_PER_S = 1_000_000_000


def feasibility(ports: Ports, record: ReleaseRecord, *, recorded: bool) -> Feasibility:
    """Look at everything that a release would run into; nothing is written.

    Args:
        ports: of the service.
        record: of the release that would begin, or go on.
        recorded: a record of the service is stored already.
    """
    here = ports.preflight.namespace(ports.spec.namespace)
    needs = release_needs(ports.spec, record, here.objects, recorded=recorded)
    seen = _seen(ports, record, here, recorded=recorded)
    return decide(needs, seen, now_s=time.time_ns() // _NS_PER_S)


def begins(
    ports: Ports, version: str, record: ReleaseRecord | None, *, fence: int
) -> ReleaseRecord | None:
    """Return the record of the release that would begin; None when none would, or not yet.

    Args:
        ports: of the service.
        version: asked for.
        record: of the service's last release, None before the first one.
        fence: number of the lock that is held, 0 without.
    """
    if record is not None and not record.terminal:
        return None
    admission = admit(
        requested(ports.spec, version), record, token="", fence=fence, now_ns=time.time_ns()
    )
    return None if isinstance(admission, AlreadyDone) else admission.record


def await_feasible(ports: Ports, record: ReleaseRecord, *, recorded: bool, report: Report) -> None:
    """Refuse a release that cannot be carried out; wait for room as its policy says.

    Pods that end already are waited for in any case, as long as the candidate's own pods would be.

    Raises:
        PermanentError: `infeasible`, with every reason in exact figures.
    """
    policy, began_s = ports.spec.policy, time.monotonic()
    queued = policy.when_full is WhenFull.QUEUE
    until_s = began_s + (policy.queue_timeout_s if queued else policy.ready_timeout_s)
    say, waited_s = once(report), 0.0
    found = feasibility(ports, record, recorded=recorded)
    while found.way is Way.QUEUE and time.monotonic() < until_s:
        why = "pods to end" if found.settles else "room"
        say(f"waits for {why}: {'; '.join(str(item) for item in found.shortfalls)}")
        time.sleep(_LOOK_EVERY_S)
        waited_s = time.monotonic() - began_s
        with suppress(TransientError):  # what was seen last holds; the limit above decides
            found = feasibility(ports, record, recorded=recorded)
    if found.way is not Way.BLUE_GREEN:
        raise infeasible(found, service=ports.spec.name, waited_s=waited_s)


def require_feasible(ports: Ports, record: ReleaseRecord, *, recorded: bool) -> None:
    """Refuse a release that cannot be carried out now; for one that holds the lock already.

    Raises:
        PermanentError: `infeasible`.
    """
    found = feasibility(ports, record, recorded=recorded)
    if found.way is not Way.BLUE_GREEN and not found.settles:
        raise infeasible(found, service=ports.spec.name)


def rehearse(ports: Ports, keeper: LockKeeper, record: ReleaseRecord) -> None:
    """Have the API server refuse in a dry run what it would refuse later, before anything is kept.

    Webhooks and policies of others are known to nobody else.

    Args:
        ports: of the service.
        keeper: of its lock, whose number the objects carry.
        record: of the release that would begin.

    Raises:
        PermanentError: refused, with the server's own words.
    """
    spec = ports.spec
    workloads = GuardedWorkloads(ports.workloads, keeper.check, fence=keeper.lease.fence)
    for manifest in first_objects(spec, record, registry=ports.settings.registry):
        if manifest["kind"] == "Pod" and workloads.pod(spec.namespace, test_pod_name(spec.name)):
            continue  # left by a process that died: a pod cannot be changed, it is removed first
        try:
            workloads.apply(manifest, dry_run=True)
        except PermanentError as error:
            if error.code != "quota-exceeded":  # it was judged exactly, with pods that end now
                raise


def require_split_filter(ports: Ports) -> None:
    """Refuse a canary whose gateway cannot divide users as its file requires.

    Raises:
        PermanentError: `split-filter-missing`.
    """
    router = ports.spec.router
    required = Wish.REQUIRED in {router.sticky, router.fall_back}
    if not required or not ports.spec.policy.ramp.steps or ports.traffic.split_filter_in_force():
        return
    raise PermanentError(
        f"the gateway {router.gateway} does not divide users as router.sticky and router.fall_back"
        f" of service {ports.spec.name} require: its EnvoyFilter slipway-split is missing or old",
        code="split-filter-missing",
        hint=f"an administrator installs it: slipway install {ports.spec.name}; or set what is"
        " required to wanted",
    )


def _seen(ports: Ports, record: ReleaseRecord, here: Look, *, recorded: bool) -> ClusterSeen:
    spec, preflight = ports.spec, ports.preflight
    nodes, everywhere = preflight.nodes(), preflight.pods()
    routes = preflight.routes(spec.namespace, (*route_names(spec), *other_routes(spec)))
    quotas, uncounted = quotas_seen(here.objects)
    faults, notes = contradictions(spec, record, (*here.objects, *routes.objects))
    pods = here.objects if everywhere.unseen else everywhere.objects
    certificates = tuple(_certificates(ports))
    looks = (here, routes, nodes, everywhere)
    return ClusterSeen(
        nodes=None if nodes.unseen else nodes_seen(nodes.objects),
        pods=pods_seen(pods, namespace=spec.namespace, roles=roles_of_pods(spec, record)),
        every_pod=not everywhere.unseen,
        quotas=quotas,
        limits=limits_seen(here.objects),
        budgets=budgets_seen(here.objects, candidate_labels(spec, record)),
        taken=taken_names(spec, record, here.objects),
        certificates=certificates,
        contradictions=(
            *faults,
            *other_routers(spec, routes.objects),
            *(() if recorded else _half_adopted(ports)),
        ),
        missing_rights=preflight.missing_rights(
            release_rights(spec, adopted=adopted_workload(record))
        ),
        missing_images=tuple(_missing_images(ports)),
        foreign_route=_foreign_route(ports),
        notes=notes,
        unseen=(
            *(item for look in looks for item in look.unseen),
            *uncounted,
            *(() if certificates else (_NO_CERTIFICATE,)),
        ),
    )


def _half_adopted(ports: Ports) -> Iterator[Contradiction]:
    """Yield that the service is live by objects which an adoption has only begun to take over."""
    spec = ports.spec
    name = originals_name(spec.name)
    if ports.preflight.routes(spec.namespace, [("ConfigMap", name)]).objects:
        yield Contradiction(
            rule="adoption",
            subject=f"ConfigMap/{spec.namespace}/{name}",
            message="the service is being adopted, or given back, and that has not ended",
            hint=f"slipway adopt {spec.name} VERSION --apply, or --undo",
        )


def _certificates(ports: Ports) -> Iterator[Certificate]:
    for host in ports.spec.hosts:
        found = ports.preflight.certificate(host)
        if found is not None:
            yield found


def _missing_images(ports: Ports) -> Iterator[Unseen]:
    volume = ports.spec.volume
    for image in (ports.spec.server.image, *(() if volume is None else (volume.fetcher,))):
        try:
            ports.images.resolve(image)
        except InputError as error:
            yield Unseen(what=image, why=error.message)


def _foreign_route(ports: Ports) -> str:
    try:
        ports.traffic.read(ports.spec.name)
    except PermanentError as error:
        if error.code != "route-foreign":
            raise
        return error.message
    return ""
