"""The runbook between two nights: read back, heal, and say when backups are overdue."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.backup_reports import report_backups
from tasks.backups import open_repository, repair_chunks, require_recent, verify_chunks


@flow(name="verify", validate_parameters=True)
def verify(max_age_hours: float = 26.0, everything: bool = False) -> dict[str, Any]:
    """Read back what was never read and the oldest of the rest; fail when a model is unprotected.

    Args:
        max_age_hours: a model in use needs a verified backup that is younger.
        everything: read every chunk, not only those that need it most.
    """
    backups = open_repository()
    healed = repair_chunks(backups, verify_chunks(backups, everything=everything))
    recent = require_recent(healed.seen, max_age_hours)
    return report_backups([], healed, {"youngest verified": recent})
