"""How a repository grew, night by night, read off the backups that are still kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slipway.core.backup.manifest import Manifest
from slipway.core.backup.periods import Period, period_number

_NS_PER_DAY = 86_400 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """The backups of one day, UTC.

    Args:
        begun_ns: when the day began, since 1970 UTC.
        backups: how many of that day are kept.
        size_bytes: of their files.
        new_bytes: of their chunks that no earlier backup has.
        stored_bytes: of all chunks up to the end of the day.
    """

    begun_ns: int
    backups: int
    size_bytes: int
    new_bytes: int
    stored_bytes: int

    @property
    def reused(self) -> float:
        """Return the share of the files' bytes that was there already."""
        return 1.0 - self.new_bytes / self.size_bytes if self.size_bytes else 1.0


def nights(manifests: Iterable[Manifest]) -> list[Night]:
    """Return a row for each day that has backups, the oldest first."""
    days: dict[int, list[Manifest]] = {}
    for manifest in sorted(manifests, key=lambda item: item.taken_at_ns):
        days.setdefault(period_number(Period.DAILY, manifest.taken_at_ns), []).append(manifest)
    seen: dict[str, int] = {}
    rows, stored_bytes = [], 0
    for day, found in days.items():
        for manifest in found:
            seen.update({chunk.digest: chunk.size_bytes for chunk in manifest.chunks})
        before, stored_bytes = stored_bytes, sum(seen.values())
        rows.append(
            Night(
                begun_ns=day * _NS_PER_DAY,
                backups=len(found),
                size_bytes=sum(manifest.size_bytes for manifest in found),
                new_bytes=stored_bytes - before,
                stored_bytes=stored_bytes,
            )
        )
    return rows
