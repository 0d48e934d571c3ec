"""What a repository is: written once into `repo.json`, and read by every run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from slipway.core.backup.cuts import CutRules
from slipway.core.errors import PermanentError
from slipway.core.strict_json import NewerFormatError, UnfitJsonError, read_stored, to_json

FORMAT = 1


class Algorithm(StrEnum):
    """What names chunks; the value is part of their keys."""

    SHA256 = "sha256"
    BLAKE3 = "blake3"
    HMAC_SHA256 = "hmac-sha256"
    """Where they are encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """What the store was found to do, whatever it promises (`slipway backup doctor`).

    Args:
        checks_sha256: it refuses bytes whose sha256 is not the one that was stated.
        checks_crc32c: the same of a CRC-32C.
        conditional_writes: of several writers of one key exactly one wins.
        probed: `YYYYmmddTHHMMSSZ`; "" when nobody has looked: then nothing is relied on.
    """

    checks_sha256: bool = False
    checks_crc32c: bool = False
    conditional_writes: bool = False
    probed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """What all runs of a repository must agree on.

    Args:
        id: ULID.
        cuts: where files are cut.
        algorithm: of chunk ids.
        key_check: where chunks are encrypted: tells whether a key is the right one; public.
        store: what it does; the one field that may change.
    """

    id: str
    cuts: CutRules
    algorithm: Algorithm = Algorithm.SHA256
    key_check: str = ""
    store: StoreFacts = StoreFacts()
    format: int = FORMAT

    @property
    def checks_chunks(self) -> bool:
        """Return whether the store notices chunks that changed on their way to it."""
        if self.algorithm is Algorithm.BLAKE3:
            return self.store.checks_crc32c
        return self.store.checks_sha256


def to_storage(settings: RepositorySettings) -> bytes:
    """Return the settings as canonical JSON."""
    return to_json(settings).encode()


def from_storage(stored: bytes, place: str) -> RepositorySettings:
    """Return the settings that bytes state.

    Args:
        stored: content of `repo.json`.
        place: where the repository lies, for errors.

    Raises:
        PermanentError: `repository-newer`, made by a later Slipway; `repository-foreign`, it is
            no repository of Slipway.
    """
    try:
        settings: RepositorySettings = read_stored(
            RepositorySettings, stored, "repo.json", known_format=FORMAT
        )
    except NewerFormatError as error:
        raise PermanentError(
            f"the repository {place} has format {error.found}, this Slipway reads up to {FORMAT}",
            code="repository-newer",
            hint="use the Slipway that made it, or a later one; nothing was changed",
        ) from error
    except UnfitJsonError as error:
        raise PermanentError(
            f"{place} is no repository of Slipway: {error}",
            code="repository-foreign",
            hint="name another bucket or prefix; nothing was changed there",
        ) from error
    return settings
