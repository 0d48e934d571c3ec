"""`slipway status SERVICE`: what the cluster says, beside what the record says."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from slipway.bootstrap.releases import Ports
from slipway.core.release.record import ReleaseRecord
from slipway.core.routing import Route, Slot


def print_status(ports: Ports) -> None:
    """Print slots, weights, versions, digests, pods and the last verdicts."""
    console = Console()
    spec = ports.spec
    route = ports.traffic.read(spec.name)
    stored = ports.releases.load(spec.name)
    if stored is None:
        console.print(f"{spec.name}: installed, never released")
        return
    record = stored.record
    console.print(
        f"{spec.name}: release {record.release_id} of {record.model} version {record.version}, "
        f"phase [bold]{record.phase}[/]: {record.reason}",
        highlight=False,
    )
    console.print(_slots(ports, record, route))
    for item in record.verdicts:
        console.print(f"{item.stage}: [bold]{item.verdict}[/] {'; '.join(item.reasons)}")


def _slots(ports: Ports, record: ReleaseRecord, route: Route) -> Table:
    table = Table("slot", "role", "users", "version", "image", "pods")
    for slot in Slot:
        holds = record.slot(slot)
        observed = ports.workloads.observe(ports.spec.namespace, holds.workload)
        ready = 0 if observed is None else len(observed.ready_pods)
        desired = 0 if observed is None else observed.desired
        role = "stable" if record.live_slot is slot else "candidate" if not record.terminal else ""
        table.add_row(
            slot.value,
            role,
            f"{route.percent(slot)} %",
            holds.version or "-",
            holds.image.rpartition("@")[2][:19] or "-",
            f"{ready}/{desired} ready",
        )
    return table
