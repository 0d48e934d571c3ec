"""The demo's backup: taken, one chunk broken on purpose, healed, restored, and asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupStory:
    """What was backed up and proved.

    Args:
        rows: of the flow `backup`, one a version.
        broken: digest of the chunk that was broken.
        healed: digests of the chunks that were healed, with where good copies were.
        drill: what the restore drill saw.
        again: rows of a second backup, for which nothing had changed.
    """

    rows: Sequence[Mapping[str, Any]]
    broken: str
    healed: Mapping[str, str]
    drill: Mapping[str, Any]
    again: Sequence[Mapping[str, Any]]

    @property
    def went_as_said(self) -> bool:
        """Whether exactly the broken chunk was healed, and the restored model answered."""
        unchanged = all(row["sent MB"] == 0 for row in self.again)
        return set(self.healed) == {self.broken} and bool(self.drill["passed"]) and unchanged

    def table(self) -> Table:
        """Return it for people."""
        table = Table("backup", "what happened")
        for row in self.rows:
            table.add_row(
                f"{row['model']} version {row['version']}",
                f"{row['MB']} MB, {row['sent MB']} MB sent in {row['seconds']} s; {row['in use']}",
            )
        sent = sum(row["sent MB"] for row in self.again)
        table.add_row("all, once more", f"{sent} MB sent")
        table.add_row("chunk broken", f"{self.broken[:12]}… of smollm")
        table.add_row("found and healed", ", ".join(self.healed.values()) or "[red]nothing[/]")
        drill = self.drill
        table.add_row(
            "restored and asked",
            f"back in {drill['restored_s']:.1f} s, answered in {drill['recovery_s']:.1f} s: "
            f"{drill['answers_as_tested'] or drill['said']}",
        )
        return table


def backed_up_broken_healed_and_drilled(service: str, *, say: Callable[[str], None]) -> BackupStory:
    """Back up what is in use, break a chunk of the service's model, heal it, and run a drill."""
    from flows.backup import backup
    from flows.restore_drill import restore_drill
    from flows.verify import verify

    taken = backup()
    say(f"{len(taken['backups'])} versions backed up, {taken['verified share']:.0%} read back")
    again = backup()
    broken = _break_a_chunk(service)
    say(f"one bit of chunk {broken[:12]}… is changed in the bucket; verify reads everything:")
    seen = verify(everything=True)
    say(f"drill: {service} is restored, and its model server started on the restored files")
    drill = restore_drill(service)[service]
    return BackupStory(
        rows=taken["backups"],
        broken=broken,
        healed=seen["healed"],
        drill=drill,
        again=again["backups"],
    )


def _break_a_chunk(model: str) -> str:
    """Change one bit of the largest chunk of a model's newest backup; return its digest."""
    from slipway.bootstrap.backups import open_backups
    from slipway.core.backup.sums import sha256_sum
    from slipway.settings import backup_settings

    repository = open_backups(backup_settings()).repository
    manifest = repository.load(repository.manifests(model)[-1])
    chunk = max(manifest.chunks, key=lambda item: item.size_bytes)
    key = str(manifest.key_of(chunk))
    body = bytearray(repository.store.get(key))
    body[len(body) // 2] ^= 1
    repository.store.put(key, bytes(body), checksum=sha256_sum(bytes(body)))
    return chunk.digest
