"""Taking a service over: the lock's number goes onto what it guards, before the first decision.

Whoever held the lock before may be stopped anywhere, also between a look at its lock and the write
that follows. Once every object carries our number, the API server refuses that write
(`slipway.manifests.fence`). A process killed between two stamps has decided nothing: the next one
has a higher number and stamps all again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from slipway.bootstrap.releases import Ports
from slipway.core.errors import PermanentError, TransientError
from slipway.core.release.promotion import alias_due
from slipway.core.release.record import ReleaseRecord
from slipway.core.routing import Slot
from slipway.manifests.names import workload_name
from tasks.lock import LockKeeper

_TRIES = 3
_POLICIES_S = 5
"""How long the API server may take to enforce policies that were installed a moment ago."""

Report = Callable[[str], None]


def stamp_objects(ports: Ports, keeper: LockKeeper, record: ReleaseRecord | None) -> None:
    """Put the lock's number on the route objects, both slots' Deployments and what scales them.

    Args:
        record: names the slots' Deployments; None before the first release.

    Raises:
        ConflictError: `lock-lost`, a higher number stands there: another process took over.
        PermanentError: the service is not installed.
    """
    spec, fence = ports.spec, keeper.lease.fence
    _insist(keeper, lambda: ports.traffic.stamp(spec.name, fence=fence))
    _insist(keeper, lambda: require_fence(ports, fence))
    for workload in slot_workloads(spec.name, record):
        _stamp_deployment(ports, keeper, workload)
    _insist(keeper, lambda: _stamp_autoscalers(ports, record, fence))


def _stamp_autoscalers(ports: Ports, record: ReleaseRecord | None, fence: int) -> None:
    namespace, name = ports.spec.namespace, ports.spec.name
    for found in ports.autoscalers.find(namespace, slot_workloads(name, record)):
        if found.ours:
            ports.autoscalers.stamp(namespace, found, fence=fence)


def slot_workloads(service: str, record: ReleaseRecord | None) -> tuple[str, ...]:
    """Return the names of both slots' Deployments.

    Args:
        record: names them; None before the first release.
    """
    if record is None:
        return tuple(workload_name(service, slot) for slot in Slot)
    return tuple(record.slot(slot).workload for slot in Slot)


def refuse_other_autoscalers(ports: Ports, record: ReleaseRecord | None) -> None:
    """Refuse a service whose slots somebody else scales: the two would undo each other's work.

    Args:
        record: of the service's last release, None before the first one.

    Raises:
        PermanentError: `autoscaler-foreign`, naming the object.
    """
    namespace, service = ports.spec.namespace, ports.spec.name
    for found in ports.autoscalers.find(namespace, slot_workloads(service, record)):
        if not found.ours:
            raise PermanentError(
                f"{found.kind} {namespace}/{found.name} scales Deployment {found.target} of"
                f" service {service}, and no release made it",
                code="autoscaler-foreign",
                hint="write its range and metric into the service file (autoscaling), then delete"
                f" it: kubectl -n {namespace} delete {found.kind.lower()} {found.name}",
            )


def require_fence(ports: Ports, fence: int) -> None:
    """Refuse to go on where the API server would let a stale writer through.

    Args:
        fence: that stands on the route objects.

    Raises:
        PermanentError: `fence-not-in-force`.
    """
    service = ports.spec.name
    for _ in range(_POLICIES_S):
        if ports.traffic.refuses(service, fence=fence - 1):
            return
        time.sleep(1.0)  # until the policies are in force
    raise PermanentError(
        f"the API server accepts a stale fencing number for service {service}: a release that lost"
        " its lock could change it",
        code="fence-not-in-force",
        hint=f"install the admission policies, as an administrator: slipway install {service}",
    )


def _stamp_deployment(ports: Ports, keeper: LockKeeper, workload: str) -> None:
    namespace, fence = ports.spec.namespace, keeper.lease.fence
    _insist(keeper, lambda: ports.workloads.stamp(namespace, workload, fence=fence))


def put_alias_right(
    ports: Ports, keeper: LockKeeper, record: ReleaseRecord, *, report: Report
) -> None:
    """Let the registry's alias name the version that serves.

    The registry knows no lock: a process that lost it may have moved the alias. A release that goes
    on where its users have moved already sees to the alias itself.
    """
    spec, due = ports.spec, alias_due(record)
    if due is None:
        return
    found = ports.registry.alias(spec.model, spec.alias)
    if found != due:
        report(f"alias {spec.alias} pointed at {found or 'nothing'}: back to live version {due}")
        _insist(keeper, lambda: ports.registry.set_alias(spec.model, spec.alias, due))


def _insist(keeper: LockKeeper, write: Callable[[], None]) -> None:
    """Write what may be repeated, again when its answer is lost while the lock is ours."""
    for _ in range(_TRIES - 1):
        keeper.check()
        try:
            write()
        except TransientError:
            keeper.regain()
        else:
            return
    keeper.check()
    write()
