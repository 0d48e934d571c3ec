"""The nightly runbook of backups: take, copy, read back, heal, let go."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.backup_reports import report_backups
from tasks.backups import (
    copy_to_replicas,
    open_repository,
    prune_backups,
    repair_chunks,
    require_all_taken,
    take_each,
    trend,
    verify_chunks,
    versions_in_use,
)


@flow(name="backup", validate_parameters=True)
def backup(model: str = "", everything: bool = False) -> dict[str, Any]:
    """Back up the versions that are in use, and prove that all backups are right.

    Args:
        model: only of this one; all when it is left out.
        everything: read back every chunk, not only those that need it most.
    """
    backups = open_repository()
    sources = versions_in_use(model)
    taken, failed = take_each(backups, sources)
    healed = repair_chunks(backups, verify_chunks(backups, everything=everything))
    copied = copy_to_replicas(backups)
    pruned = prune_backups(backups, versions_in_use())
    trend(backups, healed)
    result = report_backups(taken, healed, {"replicas": copied, "removed": pruned})
    require_all_taken(failed)
    return result
