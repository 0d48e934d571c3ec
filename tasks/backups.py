"""Back up what is in use, read it back, heal it, and let go what the policy does not keep."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from slipway.adapters.service_file import load_services
from slipway.backup.removing import remove
from slipway.backup.repairing import Remedies, repair
from slipway.backup.replicating import replicate
from slipway.backup.retaining import USD_PER_GB_MONTH, Uses, plan_prune
from slipway.backup.taking import Order, take
from slipway.backup.verifying import Verified, read_library, verify
from slipway.bootstrap.backups import (
    Opened,
    make_backups,
    open_backups,
    replicas_of,
    surroundings,
)
from slipway.bootstrap.releases import backup_jobs, connect, registry
from slipway.core.backup.manifest import Origin
from slipway.core.backup.periods import Period
from slipway.core.backup.retention import Policy
from slipway.core.backup.ulid import time_of
from slipway.core.errors import InputError, PermanentError, SlipwayError
from slipway.core.release.going_back import versions_in_use as used_by
from slipway.core.service import ServiceSpec
from slipway.manifests.backups import VolumeSource
from slipway.settings import Settings, backup_settings
from tasks.backup_jobs import back_up_volume
from tasks.backup_reports import SpokenProgress, report_trend, tell, tell_event
from tasks.session import installation
from tasks.stage import repeatable

_ROUND_DAYS = 28
"""Everything is read back within four weeks."""

POLICY = Policy(last=3, periods={Period.DAILY: 7, Period.WEEKLY: 4, Period.MONTHLY: 6})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A version of a model that is to be backed up.

    Args:
        model: of the registry.
        version: of the registry.
        uses: what runs it, or may go back to it, in words.
        on_volume: the services whose volumes hold its files, with the digest of these.
    """

    model: str
    version: str
    uses: tuple[str, ...]
    on_volume: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBackup:
    """A backup that was taken.

    Args:
        name: of it.
        size_bytes: of its files.
        sent_bytes: that the repository did not have.
    """

    source: Source
    name: str
    size_bytes: int
    sent_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """What is known of the repository after a repair.

    Args:
        seen: by the last verification.
        healed: digests of chunks that were bad, with where good copies were found.
    """

    seen: Verified
    healed: Mapping[str, str] = field(default_factory=dict)


def versions_in_use(model: str = "") -> list[Source]:
    """Return the versions that serve, that may serve again, or that a service's alias names.

    Args:
        model: only of this one; "": of all services.

    Raises:
        InputError: `nothing-in-use`, there is none: a backup of nothing proves nothing.
    """
    settings = installation()
    uses: dict[tuple[str, str], list[str]] = {}
    volumes: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, spec in load_services(settings.services).items():
        if model and spec.model != model:
            continue
        ports = connect(name, settings)
        stored = ports.releases.load(name)
        for version, use in used_by(stored.record).items() if stored else ():
            uses.setdefault((spec.model, version), []).append(use)
        for slot in stored.record.slots if stored and _backed_up_there(spec) else ():
            volumes.setdefault((spec.model, slot.version), []).append((name, slot.weights))
        alias = _alias(settings, spec.model, spec.alias)
        if alias:
            uses.setdefault((spec.model, alias), []).append(f"alias {spec.alias}")
    if not uses:
        raise InputError(
            f"no version of {model or 'any model'} is in use",
            code="nothing-in-use",
            hint="release one first; to back up a folder: slipway backup take FOLDER --model NAME",
        )
    return [
        Source(
            model=name,
            version=version,
            uses=tuple(why),
            on_volume=tuple(item for item in volumes.get((name, version), ()) if item[1]),
        )
        for (name, version), why in sorted(uses.items())
    ]


@repeatable("open repository", run_name="open repository")
def open_repository() -> Opened:
    """Open the repository of backups; make it where nothing is."""
    return make_backups(backup_settings())


@repeatable("take backup", run_name="{source.model} version {source.version}")
def take_backup(backups: Opened, source: Source) -> TakenBackup:
    """Back up one version, each file checked against the registry's sum before; idempotent."""
    begun_s = time.monotonic()
    settings, own = installation(), backup_settings()
    known = registry(settings).version(source.model, source.version)
    folder = registry(settings).fetch(known, _files(settings, source))
    order = Order(
        model=source.model,
        folder=folder,
        origin=Origin(
            place=known.source,
            tool=f"slipway {version_of('slipway-llm')}",
            registry_version=source.version,
        ),
        checksums={file.path: file.sha256 for file in known.files},
    )
    size_bytes = sum(file.size_bytes for file in known.files)
    with SpokenProgress(f"{source.model} version {source.version}", size_bytes) as progress:
        taken = take(backups.repository, backups.codec, order, surroundings(own, progress))
    return TakenBackup(
        source=source,
        name=str(taken.name),
        size_bytes=taken.manifest.size_bytes,
        sent_bytes=taken.sent_bytes,
        seconds=time.monotonic() - begun_s,
    )


@repeatable("take backup of a volume", run_name="{source.model} version {source.version}")
def take_from_volume(source: Source) -> TakenBackup:
    """Have a Job back up one version where it lies, its files checked against the digest."""
    service, weights = source.on_volume[0]
    settings = installation()
    ports = connect(service, settings)
    there = VolumeSource(spec=ports.spec, version=source.version, weights=weights)
    done = back_up_volume(ports, backup_jobs(settings), there)
    return TakenBackup(
        source=source,
        name=done["backup"],
        size_bytes=done["size_bytes"],
        sent_bytes=done["sent_bytes"],
        seconds=done["seconds"],
    )


def take_each(
    backups: Opened, sources: Sequence[Source]
) -> tuple[list[TakenBackup], dict[Source, SlipwayError]]:
    """Back up every version; one that cannot be must not keep the others from it."""
    taken, failed = [], {}
    for source in sources:
        try:
            from_volume = bool(source.on_volume)
            taken.append(take_from_volume(source) if from_volume else take_backup(backups, source))
        except SlipwayError as error:
            tell(f"not backed up: {source.model} version {source.version}: {error.message}")
            failed[source] = error
    return taken, failed


def require_all_taken(failed: Mapping[Source, SlipwayError]) -> None:
    """Refuse to be content when a version could not be backed up.

    Raises:
        PermanentError: `backup-incomplete`, with the versions and why.
    """
    if failed:
        raise PermanentError(
            "; ".join(
                f"{source.model} version {source.version} was not backed up: {error.message}"
                for source, error in failed.items()
            ),
            code="backup-incomplete",
            hint="mend what is said, and run the flow again; the others are backed up",
        )


@repeatable("verify", run_name="verify")
def verify_chunks(backups: Opened, *, everything: bool = False) -> Verified:
    """Read back what was never read, and a 28th of the rest, oldest first; or all of it."""
    stored_bytes = sum(count for _, count in backups.repository.stored_sizes())
    with SpokenProgress("read back", stored_bytes) as progress:
        seen = verify(
            backups.repository,
            backups.codec,
            surroundings(backup_settings(), progress),
            budget_bytes=None if everything else stored_bytes // _ROUND_DAYS,
        )
    for key in seen.unreadable:
        tell(f"damaged: {key}: what it said was verified was read anew")
    return seen


@repeatable("repair", run_name="repair")
def repair_chunks(backups: Opened, seen: Verified) -> Healed:
    """Heal what was found bad, from the registry's files and from replicas; look again.

    Raises:
        PermanentError: `backup-broken`, no good copy is anywhere.
    """
    if not seen.broken and not seen.damaged:
        return Healed(seen=seen)
    settings, own = installation(), backup_settings()
    folders: dict[str, list[Path]] = {}
    for name in seen.broken:
        version = backups.repository.load(name).origin.registry_version
        source = Source(model=name.model, version=version, uses=())
        known = registry(settings).version(name.model, version)
        folders.setdefault(name.model, []).append(
            registry(settings).fetch(known, _files(settings, source))
        )
    remedies = Remedies(replicas=replicas_of(own, own.replicas), folders=folders)
    done = repair(backups.repository, backups.codec, surroundings(own), remedies)
    for key, where in done.healed.items():
        tell(f"healed: chunk {key.digest[:12]} from {where}")
    for name, new in done.back.items():
        tell(f"back: {name}, as {new}")
    if done.lost or done.damaged:
        raise PermanentError(
            f"{len(done.lost)} chunks and {len(done.damaged)} manifests cannot be healed",
            code="backup-broken",
            hint="the next backup sends lost chunks anew; a manifest that no replica has: "
            "slipway backup give-up VERSION",
        )
    return Healed(
        seen=verify(backups.repository, backups.codec, surroundings(own), budget_bytes=0),
        healed={key.digest: where for key, where in done.healed.items()},
    )


@repeatable("require recent backups", run_name="require recent backups")
def require_recent(seen: Verified, max_age_hours: float) -> str:
    """Refuse to be content when a model in use has no verified backup that is young enough.

    Raises:
        PermanentError: `backup-overdue`, with the models.
    """
    youngest_ns: dict[str, int] = {}
    for name, standing in seen.standings.items():
        if standing.verified_at_ns is not None:
            taken_ns = time_of(name.writer)
            youngest_ns[name.model] = max(youngest_ns.get(name.model, 0), taken_ns)
    hours = {
        model: (time.time_ns() - youngest_ns[model]) / 3.6e12 if model in youngest_ns else None
        for model in sorted({item.model for item in versions_in_use()})
    }
    overdue = [model for model, age in hours.items() if age is None or age > max_age_hours]
    for model in overdue:
        tell_event("model.backup.overdue", model, {"max_age_hours": max_age_hours})
    if overdue:
        raise PermanentError(
            f"no verified backup younger than {max_age_hours:g} h of: {', '.join(overdue)}",
            code="backup-overdue",
            hint="look at the last runs of the flow backup, and run it",
        )
    return ", ".join(f"{model} {age:.1f} h" for model, age in hours.items())


@repeatable("copy to replicas", run_name="copy to replicas")
def copy_to_replicas(backups: Opened) -> str:
    """Copy to each replica what it does not have."""
    own = backup_settings()
    said = []
    for place in own.replicas:
        other = open_backups(own, place).repository
        done = replicate(backups.repository, other, backups.codec, surroundings(own))
        behind = [f"{model} {lag} s" for model, lag in done.lag_s.items() if lag != 0]
        said.append(f"{place}: {len(done.copied)} copied, behind: {', '.join(behind) or 'nothing'}")
    return "; ".join(said) or "no replica is configured"


@repeatable("trend", run_name="trend")
def trend(backups: Opened, healed: Healed) -> list[dict[str, Any]]:
    """Show how the repository grew over the last nights."""
    library = read_library(backups.repository)
    return report_trend(library.manifests.values(), healed.seen.verified_share)


@repeatable("prune", run_name="prune")
def prune_backups(backups: Opened, sources: Sequence[Source]) -> str:
    """Remove what the policy lets go; what is in use and what was verified last stays."""
    uses: Uses = {(item.model, item.version): item.uses for item in sources}
    repository = backups.repository
    plan = plan_prune(repository, POLICY, now_ns=time.time_ns(), uses=uses)
    if plan.damaged:
        return f"nothing: {len(plan.damaged)} manifests are damaged"
    around = surroundings(backup_settings())
    done = remove(repository, plan.going, now_ns=around.now_ns, random_bits=around.random_bits)
    usd = plan.freed_bytes / 1e9 * USD_PER_GB_MONTH
    said = f"{len(done.manifests)} backups, {done.chunks} chunks, {usd:.2f} USD each month"
    return f"{said}; waits for {len(done.waits_for)} runs" if done.waits_for else said


def _backed_up_there(spec: ServiceSpec) -> bool:
    return spec.volume is not None and spec.volume.backup is not None


def _alias(settings: Settings, model: str, alias: str) -> str | None:
    try:
        return registry(settings).alias(model, alias)
    except InputError as error:
        if error.code != "unknown-model":  # a service that was never released may have none yet
            raise
        return None


def _files(settings: Settings, source: Source) -> Path:
    """Return where the files of a version lie between two nights."""
    return settings.cache.parent / "backups" / source.model.replace("/", "%2F") / source.version
