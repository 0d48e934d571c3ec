"""`slipway backup list | show | diff | stats`: what is there; nothing is written."""

from __future__ import annotations

from typing import Annotated

import typer

from slipway.backup.finding import find
from slipway.cli.backup.common import Place, Which, opened, say, size, stamp

_SHOWN_TENSORS = 40
_SHOWN_NIGHTS = 14


def list_backups(
    model: Annotated[str | None, typer.Argument(help="only of this model")] = None,
    place: Place = None,
) -> None:
    """List the backups with what is known of each."""
    from rich.console import Console
    from rich.table import Table

    from slipway.backup.verifying import read_library
    from slipway.core.backup.verification import ledger_of, standing_of

    repository = opened(place)[1].repository
    library = read_library(repository, repository.manifests(model))
    ledger = ledger_of(record for _, record in repository.records())
    holds = repository.holds()
    table = Table("backup", "version", "taken", "size", "files", "verified", "notes", box=None)
    for name, manifest in library.manifests.items():
        standing = standing_of(manifest, ledger)
        notes = [
            *manifest.tags,
            *([f"held: {holds[name].reason}"] if name in holds else []),
            *([f"{len(standing.broken)} chunks broken"] if standing.broken else []),
            *(["imported"] if manifest.origin.imported else []),
        ]
        table.add_row(
            str(name),
            manifest.origin.registry_version or "-",
            stamp(manifest.taken_at_ns),
            size(manifest.size_bytes),
            str(len(manifest.files)),
            stamp(standing.verified_at_ns),
            "; ".join(notes),
        )
    Console(width=None if Console().is_terminal else 200).print(table)
    for name, why in library.damaged.items():
        say(f"damaged: {name}: {why}")


def show(version: Which, place: Place = None) -> None:
    """Show where a backup came from, and its files."""
    from rich.console import Console
    from rich.table import Table

    repository = opened(place)[1].repository
    name = find(repository, version)
    manifest = repository.load(name)
    origin = manifest.origin
    say(f"{name}: {size(manifest.size_bytes)} in {len(manifest.chunks)} chunks")
    say(f"from {origin.place}, version {origin.registry_version or '-'}, by {origin.tool}")
    if origin.snapshot_uid:
        say(f"of the volume snapshot {origin.snapshot_uid}")
    table = Table("file", "size", "chunks", "holes", "sha256 of the registry", box=None)
    for entry in manifest.files:
        path = entry.path.encode(errors="backslashreplace").decode()
        holes = sum(hole.size_bytes for hole in entry.holes)
        table.add_row(
            path,
            size(entry.size_bytes),
            str(len(entry.chunks)),
            size(holes) if holes else "",
            entry.sha256[:16],
        )
    Console().print(table)


def diff(
    before: Which,
    after: Which,
    place: Place = None,
    everything: Annotated[
        bool, typer.Option("--all", help="what is the same, too, and every tensor")
    ] = False,
) -> None:
    """Show what changed between two backups, by file and by tensor."""
    from slipway.backup.comparing import Change, compare
    from slipway.backup.fetching import Fetcher

    _, backups = opened(place)
    repository = backups.repository
    old, new = (repository.load(find(repository, text)) for text in (before, after))
    found, new_bytes = compare(old, new, Fetcher([repository.store], backups.codec))
    shown = [item for item in found if everything or item.change is not Change.SAME]
    tensors = [item for item in shown if item.tensor]
    for item in [item for item in shown if not item.tensor]:
        say(f"{item.change.value:8} {item.path}  {size(item.size_bytes)}")
    for item in tensors if everything else tensors[:_SHOWN_TENSORS]:
        say(f"{item.change.value:8}   {item.tensor}  {size(item.size_bytes)}")
    if not everything and len(tensors) > _SHOWN_TENSORS:
        say(f"and {len(tensors) - _SHOWN_TENSORS} tensors more: --all")
    same = sum(item.change is Change.SAME for item in found if item.tensor)
    all_tensors = sum(bool(item.tensor) for item in found)
    say(f"{size(new_bytes)} of chunks are new; {same} of {all_tensors} tensors are the same")


def stats(place: Place = None) -> None:
    """Show how much is stored and shared, what it costs each month, and how it grew."""
    from slipway.backup.retaining import USD_PER_GB_MONTH
    from slipway.backup.verifying import read_library
    from slipway.core.backup.trend import nights
    from slipway.core.backup.verification import ledger_of, standing_of

    repository = opened(place)[1].repository
    library = read_library(repository)
    stored = dict(repository.stored_sizes())
    needs = library.needs()
    whole = sum(manifest.size_bytes for manifest in library.manifests.values())
    ledger = ledger_of(record for _, record in repository.records())
    verified = sum(
        standing_of(item, ledger).verified_at_ns is not None for item in library.manifests.values()
    )
    stored_bytes = sum(stored.values())
    garbage = sum(count for key, count in stored.items() if key not in needs)
    say(f"backups   {len(library.manifests)} of {size(whole)}, {verified} of them verified")
    say(f"stored    {size(stored_bytes)} in {len(stored)} chunks")
    if stored_bytes:
        say(f"ratio     {whole / stored_bytes:.2f} (bytes backed up for each that is stored)")
    say(f"unneeded  {size(garbage)} ({_what_becomes_of_it(len(library.damaged))})")
    cost = stored_bytes / 1e9 * USD_PER_GB_MONTH
    say(f"cost      {cost:.2f} USD each month at {USD_PER_GB_MONTH} USD per GB")
    for night in nights(library.manifests.values())[-_SHOWN_NIGHTS:]:
        say(
            f"{stamp(night.begun_ns)[:10]}  {night.backups} backups of {size(night.size_bytes)}, "
            f"{size(night.new_bytes)} new, {night.reused:.1%} was there"
        )


def _what_becomes_of_it(damaged: int) -> str:
    if damaged:
        return f"or needed by {damaged} backups whose manifest is damaged: slipway backup verify"
    return "goes with the next slipway backup prune"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    app.command("list")(list_backups)
    app.command()(show)
    app.command()(diff)
    app.command()(stats)
