"""The runbook of a restore: a backup's files, each byte checked, where somebody wants them."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.backups import open_repository
from tasks.restores import restore_backup


@flow(name="restore", validate_parameters=True)
def restore(backup: str, target: str) -> dict[str, Any]:
    """Bring a backup back; a restore that was killed goes on where it was.

    Args:
        backup: a model, for its newest backup, or a name as `slipway backup list` shows it.
        target: folder, on a volume that this flow run can write to.
    """
    return restore_backup(open_repository(), backup, target)
