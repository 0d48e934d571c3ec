"""Bring backups back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from slipway.backup.finding import find
from slipway.backup.reading import reading
from slipway.backup.restoring import Restored, Wanted, restore
from slipway.bootstrap.backups import Opened, store_of, surroundings
from slipway.core.backup.names import ManifestName
from slipway.settings import backup_settings
from tasks.backup_reports import SpokenProgress
from tasks.stage import repeatable


@repeatable("restore backup", run_name="{text}")
def restore_backup(backups: Opened, text: str, target: str) -> dict[str, Any]:
    """Restore a backup below a folder; may be repeated."""
    begun_s = time.monotonic()
    name = find(backups.repository, text)
    done = restored(backups, name, Path(target))
    return {
        "backup": str(name),
        "files": done.files,
        "size_bytes": done.size_bytes,
        "fetched_bytes": done.fetched_bytes,
        "healed from replicas": len(done.found_bad),
        "seconds": round(time.monotonic() - begun_s, 1),
    }


def restored(backups: Opened, name: ManifestName, target: Path) -> Restored:
    """Restore a backup below a folder, from replicas where the repository is damaged."""
    own, repository = backup_settings(), backups.repository
    manifest = repository.load(name)
    stores = [repository.store, *(store_of(place, own) for place in own.replicas)]
    with (
        reading(repository, name, surroundings(own)),
        SpokenProgress(f"restore {name}", manifest.size_bytes) as progress,
    ):
        return restore(
            manifest,
            Wanted(target=target),
            stores,
            backups.codec,
            threads=own.threads,
            progress=lambda done_bytes: progress(done_bytes, 0),
            limit=surroundings(own).pace.limit,
        )
