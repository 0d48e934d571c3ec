"""`slipway backup take | import | restore | replicate`: bytes move."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.backup.finding import find
from slipway.cli.backup.common import Place, Which, opened, say, shown_progress, size
from slipway.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.backup.taking import Order

_Folder = Annotated[Path, typer.Argument(help="with the files of one version")]
_Model = Annotated[str, typer.Option(help="as the registry names it")]


def take(
    folder: _Folder,
    model: _Model,
    place: Place = None,
    *,
    version: Annotated[str, typer.Option(help="of the registry")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="may be given several times")] = None,
    read_all: Annotated[
        bool, typer.Option("--read-all", help="also files whose size and times are as before")
    ] = False,
    sum_: Annotated[
        str,
        typer.Option(
            "--sum",
            metavar="SHA256",
            help="of the list of files with their sums, as a release records it; else refused",
        ),
    ] = "",
    origin: Annotated[
        str, typer.Option("--from", help="written down as where the files are from; or the folder")
    ] = "",
    json_: Annotated[bool, typer.Option("--json", help="say what was done as one line")] = False,
) -> None:
    """Back up a folder; only what the repository does not have is sent."""
    order = _order(folder, model, version=version, tags=tag or [], read_all=read_all)
    if origin:
        order = replace(order, origin=replace(order.origin, place=origin))
    if sum_:
        from slipway.backup.source import checked_sums

        order = replace(order, checksums=checked_sums(folder, sum_))
    _take(place, order, as_json=json_)


def _order(
    folder: Path,
    model: str,
    *,
    version: str = "",
    tags: Sequence[str] = (),
    read_all: bool = False,
    imported: bool = False,
) -> Order:
    from importlib.metadata import version as version_of

    from slipway.backup.taking import Order
    from slipway.core.backup.manifest import Origin

    return Order(
        model=model,
        folder=folder,
        origin=Origin(
            place=str(folder.absolute()),
            tool=f"slipway {version_of('slipway-llm')}",
            registry_version=version,
            imported=imported,
        ),
        tags=tuple(tags),
        reads_all=read_all,
    )


def _take(place: str | None, order: Order, *, as_json: bool = False) -> None:
    from slipway.backup.taking import take as take_backup
    from slipway.bootstrap.backups import surroundings

    settings, backups = opened(place)
    with shown_progress("read") as progress:
        around = surroundings(settings, progress)
        taken = take_backup(backups.repository, backups.codec, order, around)
    whole = taken.manifest.size_bytes
    if as_json:
        done = {"backup": str(taken.name), "size_bytes": whole, "sent_bytes": taken.sent_bytes}
        say(json.dumps(done))
        return
    say(
        f"{taken.name}: {len(taken.manifest.files)} files, {size(whole)}; "
        f"{size(taken.sent_bytes)} sent in {taken.sent_chunks} chunks, "
        f"{size(taken.read_bytes)} read"
    )


def import_copy(folder: _Folder, model: _Model, place: Place = None) -> None:
    """Take over a copy that another tool made; it counts as unverified until it was read back."""
    _take(place, _order(folder, model, tags=["imported"], read_all=True, imported=True))


def restore(
    version: Which,
    target: Annotated[Path, typer.Argument(help="folder; made when it is missing")],
    place: Place = None,
    *,
    file: Annotated[
        list[str] | None, typer.Option(help="only this file; may be given several times")
    ] = None,
    local: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER=VERSION", help="copy from a version that is here already"),
    ] = None,
    replica: Annotated[
        list[str] | None, typer.Option(metavar="PLACE", help="asked for what is damaged")
    ] = None,
) -> None:
    """Bring a version back: every byte is checked before a file gets its name; resumes."""
    from slipway.backup.reading import reading
    from slipway.backup.restoring import LocalVersion, Wanted
    from slipway.backup.restoring import restore as bring_back
    from slipway.bootstrap.backups import store_of, surroundings

    settings, backups = opened(place)
    repository = backups.repository
    versions = []
    for item in local or ():
        folder, sign, text = item.partition("=")
        if not sign:
            raise InputError(
                f"--local is {item!r}",
                code="arguments-wrong",
                hint="write FOLDER=VERSION, for example /models/chat=chat@20261101",
            )
        manifest = repository.load(find(repository, text))
        versions.append(LocalVersion(folder=Path(folder), manifest=manifest))
    name = find(repository, version)
    manifest = repository.load(name)
    stores = [repository.store, *(store_of(item, settings) for item in replica or ())]
    wanted = Wanted(target=target, paths=tuple(file or ()), local=tuple(versions))
    around = surroundings(settings)
    chosen = [entry for entry in manifest.files if not file or entry.path in file]
    size_bytes = sum(entry.size_bytes for entry in chosen)
    with shown_progress("in place", size_bytes) as progress, reading(repository, name, around):
        done = bring_back(
            manifest,
            wanted,
            stores,
            backups.codec,
            threads=settings.threads,
            progress=lambda done_bytes: progress(done_bytes, 0),
            limit=around.pace.limit,
        )
    say(
        f"{done.files} files, {size(done.size_bytes)}, each byte checked: "
        f"{size(done.fetched_bytes)} fetched, {size(done.copied_bytes)} copied from here, "
        f"{size(done.kept_bytes)} were there"
    )
    for key, why in done.found_bad.items():
        say(f"chunk {key.digest} came from a replica: {why}; run slipway backup verify and repair")


def replicate(
    replica: Annotated[str, typer.Argument(metavar="PLACE", help="of a repository of its own")],
    place: Place = None,
) -> None:
    """Copy to another repository what it does not have; nothing is removed there."""
    from slipway.backup.replicating import replicate as copy
    from slipway.bootstrap.backups import open_backups, surroundings

    settings, backups = opened(place)
    other = open_backups(settings, replica)
    with shown_progress("copied") as progress:
        around = surroundings(settings, progress)
        done = copy(backups.repository, other.repository, backups.codec, around)
    say(f"{len(done.copied)} backups copied to {replica}, {size(done.sent_bytes)} sent")
    for name, why in done.skipped.items():
        say(f"not copied: {name}: {why}")
    for model, lag_s in done.lag_s.items():
        if lag_s is None or lag_s > 0:
            say(f"{model}: {'nothing copied yet' if lag_s is None else f'{lag_s:.0f} s behind'}")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    app.command()(take)
    app.command("import")(import_copy)
    app.command()(restore)
    app.command()(replicate)
