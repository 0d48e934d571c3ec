"""The weekly runbook that proves backups: restore, start the model server, ask, compare."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.backups import open_repository
from tasks.drill import drill_service, services_with_users


@flow(name="restore drill", validate_parameters=True)
def restore_drill(service: str = "") -> dict[str, Any]:
    """Restore what a service runs, and let its model server answer from the restored files.

    Args:
        service: name of a service, whose live version's newest backup is restored; each of those
            that have a live version when it is left out.
    """
    backups = open_repository()
    return {name: drill_service(backups, name) for name in services_with_users(service)}
