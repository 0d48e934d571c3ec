"""Which backups may go, by policy and by what else speaks for them, and what that frees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slipway.backup.repository import Repository
from slipway.backup.verifying import Library, read_library
from slipway.core.backup.manifest import Manifest
from slipway.core.backup.names import ManifestName
from slipway.core.backup.retention import Policy, Reasons, Version, reasons_to_keep
from slipway.core.backup.verification import UNREADABLE, ledger_of, standing_of
from slipway.core.errors import PermanentError

USD_PER_GB_MONTH = 0.023
"""S3 Standard in us-east-1, the first 50 TB (https://aws.amazon.com/s3/pricing/, 2026)."""

Uses = Mapping[tuple[str, str], tuple[str, ...]]
"""Model and version of the registry → what runs it, or may go back to it, in words."""


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """What a policy keeps.

    Args:
        kept: backups with the reasons to keep them.
        going: backups that nothing speaks for.
        freed_bytes: of chunks that only those need.
        damaged: backups whose manifest cannot be read; while there are any, nothing is removed,
            for nobody knows what they need.
    """

    kept: Mapping[ManifestName, tuple[str, ...]]
    going: tuple[ManifestName, ...]
    freed_bytes: int
    damaged: Mapping[ManifestName, str]


def plan_prune(repository: Repository, policy: Policy, *, now_ns: int, uses: Uses) -> PrunePlan:
    """Return what a policy keeps and what it lets go; changes nothing.

    Args:
        repository: to look at.
        policy: for every model.
        now_ns: since 1970 UTC.
        uses: versions that are in use.
    """
    library = read_library(repository)
    names = {str(name): name for name in library.manifests}
    reasons = reasons_to_keep(_versions(repository, library, uses), policy, now_ns=now_ns)
    kept = _by_name(names, reasons)
    going = tuple(name for text, name in names.items() if not reasons[text])
    return PrunePlan(
        kept=kept,
        going=going,
        freed_bytes=_freed_bytes(library, going),
        damaged=library.damaged,
    )


def _by_name(
    names: Mapping[str, ManifestName], reasons: Reasons
) -> Mapping[ManifestName, tuple[str, ...]]:
    return {names[text]: why for text, why in reasons.items() if why}


def _versions(repository: Repository, library: Library, uses: Uses) -> Iterable[Version]:
    """Yield what the policy decides by; raises `records-unreadable`: see `plan_prune`."""
    records = dict(repository.records())
    lost = [key for key, record in records.items() if record is UNREADABLE]
    if lost:
        raise PermanentError(
            f"what {lost[0]} of {repository.place} says was verified cannot be read",
            code="records-unreadable",
            hint="verify first: slipway backup verify; nothing was removed",
        )
    ledger = ledger_of(records.values())
    holds = repository.holds()
    for name, manifest in library.manifests.items():
        standing = standing_of(manifest, ledger)
        yield Version(
            name=str(name),
            model=name.model,
            taken_at_ns=manifest.taken_at_ns,
            verified_at_ns=standing.verified_at_ns,
            broken=bool(standing.broken),
            tags=frozenset(manifest.tags),
            holds=(holds[name].reason,) if name in holds else (),
            in_use=uses.get((name.model, manifest.origin.registry_version), ()),
        )


def _freed_bytes(library: Library, going: Iterable[ManifestName]) -> int:
    gone = set(going)
    stays = _chunks(manifest for name, manifest in library.manifests.items() if name not in gone)
    goes = _chunks(library.manifests[name] for name in gone)
    return sum(size for key, size in goes.items() if key not in stays)


def _chunks(manifests: Iterable[Manifest]) -> Mapping[str, int]:
    return {
        str(manifest.key_of(chunk)): chunk.size_bytes
        for manifest in manifests
        for chunk in manifest.chunks
    }
