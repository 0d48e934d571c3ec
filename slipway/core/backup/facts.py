"""What a store of backups was found to do, whatever it promises, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from slipway.core.backup.settings import StoreFacts
from slipway.core.backup.sums import SumKind
from slipway.core.errors import InputError

CHANGED_CHUNK = "changed-chunk"
"""The probe that sends a chunk as a backup does, with one bit changed on its way."""

CHANGED_FAST_CHUNK = "changed-fast-chunk"
"""The same of a repository whose chunks are named by BLAKE3."""

CREATE_ONCE = "create-once"
ONE_WINNER = "one-winner"

PROMISES = {
    CHANGED_CHUNK: "refuses a chunk that changed on its way, as Slipway sends it",
    CHANGED_FAST_CHUNK: "… and one that is named by BLAKE3",
}
"""What a good store does, for people."""

SUM_PROBES = {CHANGED_CHUNK: SumKind.SHA256, CHANGED_FAST_CHUNK: SumKind.CRC32C}
"""Probes of chunks that changed on their way, with the sum that such a chunk travels with."""


class Kept(StrEnum):
    """How a store keeps a promise."""

    YES = "yes"
    NO = "no"
    NOT_OFFERED = "not offered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one probe found.

    Args:
        probe: stable name of it, kebab-case.
        promise: what a good store does, for people.
        kept: whether this one does.
        said: what it answered, when that explains something.
    """

    probe: str
    promise: str
    kept: Kept
    said: str = ""


def facts_of(findings: Iterable[Finding], *, probed: str) -> StoreFacts:
    """Return what a repository may rely on.

    Args:
        findings: of all probes.
        probed: when, `YYYYmmddTHHMMSSZ`.

    Raises:
        InputError: `probe-missing`, nobody looked at what matters.
    """
    kept = {item.probe: item.kept is Kept.YES for item in findings}
    missing = sorted({CHANGED_CHUNK, CHANGED_FAST_CHUNK, CREATE_ONCE, ONE_WINNER} - set(kept))
    if missing:
        raise InputError(
            f"nobody probed {', '.join(missing)}",
            code="probe-missing",
            hint="run all probes: slipway backup doctor",
        )
    return StoreFacts(
        checks_sha256=kept[CHANGED_CHUNK],
        checks_crc32c=kept[CHANGED_FAST_CHUNK],
        conditional_writes=kept[CREATE_ONCE] and kept[ONE_WINNER],
        probed=probed,
    )
