"""What a run of backups leaves for people: progress, tables, events, the record of a drill."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import get_run_context
from prefect.events import emit_event
from prefect.exceptions import MissingContextError

from slipway.backup.retaining import USD_PER_GB_MONTH
from slipway.core.backup.manifest import Manifest
from slipway.core.backup.trend import nights
from tasks.progress import Progress

if TYPE_CHECKING:
    from tasks.backups import Healed, TakenBackup

_NIGHTS = 30
_EVERY_S = 2.0
"""The server is told of progress no more often."""


class SpokenProgress:
    """Bytes of a step, as an artifact of the run that it is called in.

    Args:
        title: of the step.
        size_bytes: in all.
    """

    def __init__(self, title: str, size_bytes: int) -> None:
        self._title = title
        self._size_bytes = max(1, size_bytes)
        self._artifact: UUID | None = None
        self._told_s = self._begun_s = time.monotonic()

    def __enter__(self) -> SpokenProgress:
        """Begin at nothing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say that it is through, if it is."""
        if kind is None and self._artifact is not None:
            update_progress_artifact(self._artifact, progress=100.0)

    def __call__(self, done_bytes: int, sent_bytes: int) -> None:
        """Tell how far it is; see `slipway.backup.sending.Progress`."""
        now_s = time.monotonic()
        if now_s - self._told_s < _EVERY_S or not _in_a_run():
            return
        self._told_s = now_s
        rate = done_bytes / (now_s - self._begun_s)
        left_s = max(0.0, self._size_bytes - done_bytes) / rate if rate else 0.0
        said = (
            f"{self._title}: {done_bytes / 1e9:.1f} of {self._size_bytes / 1e9:.1f} GB, "
            f"{sent_bytes / 1e9:.1f} GB sent, {rate / 1e6:.0f} MB/s, {left_s:.0f} s left"
        )
        percent = min(100.0, 100.0 * done_bytes / self._size_bytes)
        if self._artifact is None:
            made = create_progress_artifact(progress=percent, description=said)
            self._artifact = cast("UUID", made)  # no coroutine where nothing is awaited
        else:
            update_progress_artifact(self._artifact, progress=percent, description=said)


def tell(line: str) -> None:
    """Say a line on the terminal and in the run's log."""
    Progress("backup").say(line)


def report_trend(manifests: Iterable[Manifest], verified_share: float) -> list[dict[str, Any]]:
    """Leave a table of the last nights: what was backed up, what was new, what it costs."""
    rows = [
        {
            "day": time.strftime("%Y-%m-%d", time.gmtime(night.begun_ns // 10**9)),
            "backups": night.backups,
            "MB": round(night.size_bytes / 1e6, 3),
            "new MB": round(night.new_bytes / 1e6, 3),
            "reused": f"{night.reused:.1%}",
            "stored MB": round(night.stored_bytes / 1e6, 3),
            "USD each month": round(night.stored_bytes / 1e9 * USD_PER_GB_MONTH, 2),
        }
        for night in nights(manifests)[-_NIGHTS:]
    ]
    if _in_a_run() and rows:
        said = f"The last nights; {verified_share:.1%} of what is backed up is verified"
        create_table_artifact(table=rows, key="backups-trend", description=said)
    return rows


def report_backups(
    taken: Sequence[TakenBackup], healed: Healed, further: Mapping[str, str]
) -> dict[str, Any]:
    """Leave the table of a nightly run and an event for each backup; return the run's result."""
    rows = [
        {
            "model": item.source.model,
            "version": item.source.version,
            "backup": item.name,
            "MB": round(item.size_bytes / 1e6, 3),
            "sent MB": round(item.sent_bytes / 1e6, 3),
            "reused": f"{1 - item.sent_bytes / item.size_bytes:.1%}" if item.size_bytes else "",
            "seconds": round(item.seconds, 1),
            "in use": ", ".join(item.source.uses),
        }
        for item in taken
    ]
    if _in_a_run():
        create_table_artifact(table=rows, key="backups", description="What was backed up")
    for item in taken:
        tell_event(
            "model.backup.committed",
            item.source.model,
            {"backup": item.name, "size_bytes": item.size_bytes, "sent_bytes": item.sent_bytes},
        )
    return {
        "backups": rows,
        "verified share": round(healed.seen.verified_share, 4),
        "read back bytes": healed.seen.read_bytes,
        "healed": dict(healed.healed),
        **further,
    }


def tell_event(event: str, model: str, payload: dict[str, Any]) -> None:
    """Emit an event about a model's backups."""
    emit_event(
        event=event,
        resource={
            "prefect.resource.id": f"slipway.model.{model}",
            "prefect.resource.name": model,
        },
        payload=payload,
    )


def _in_a_run() -> bool:
    try:
        get_run_context()
    except MissingContextError:
        return False
    return True
