"""Taking a service over: the lock's number goes onto what it guards, before the first decision.

Whoever held the lock before may be stopped anywhere, also between a look at its lock and the write
that follows. Once every object carries our number, the API server refuses that write
(`slipway.manifests.fence`). A process killed between two stamps has decided nothing: the next one
has a higher number and stamps all again.
"""

from __future__ import annotations

from collections.abc import Callable

from slipway.bootstrap import Ports
from slipway.core.errors import TransientError
from slipway.core.release.promotion import alias_due
from slipway.core.release.record import ReleaseRecord
from slipway.core.routing import Slot
from slipway.manifests.names import workload_name
from tasks.lock import LockKeeper

_TRIES = 3

Report = Callable[[str], None]


def stamp_objects(ports: Ports, keeper: LockKeeper, record: ReleaseRecord | None) -> None:
    """Put the lock's number on the route objects and on the Deployments of both slots.

    Args:
        record: names the slots' Deployments; None before the first release.

    Raises:
        ConflictError: `lock-lost`, a higher number stands there: another process took over.
        PermanentError: the service is not installed.
    """
    spec, fence = ports.spec, keeper.lease.fence
    _insist(keeper, lambda: ports.traffic.stamp(spec.name, fence=fence))
    for slot in Slot:
        workload = record.slot(slot).workload if record else workload_name(spec.name, slot)
        _stamp_deployment(ports, keeper, workload)


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
