"""Keys of a repository: what lies where in its bucket (docs/reference/backup-format.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

TAKEN = "%Y%m%dT%H%M%SZ"
"""How the name of a backup states when it was begun."""

REPOSITORY = "repo.json"
CHUNKS = "chunks/"
MANIFESTS = "manifests/"
VERIFIED = "verified/"
DRILLS = "drills/"
HOLDS = "holds/"
WRITERS = "writers/"
CONDEMNED = "condemned/"
DOCTOR = "doctor/"
FOLDERS = (CHUNKS, CONDEMNED, DOCTOR, DRILLS, HOLDS, MANIFESTS, VERIFIED, WRITERS)
SUM = ".sum"
"""Behind a manifest's key: the key of its sha256."""

_JSON = ".json"
_EPOCH_DIGITS = 12
_TAKEN = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_CHUNK = re.compile(r"chunks/([a-z0-9-]+)/([0-9a-f]{2})/([0-9a-f]{64})\.([0-9]+)")


@dataclass(frozen=True, slots=True, order=True)
class ChunkKey:
    """What names a stored chunk: the hash of its content, and the epoch it was written in.

    A key that was removed is never written again: what is stored anew after a removal carries the
    epoch of that removal, so that whoever removes late removes nothing new.

    Args:
        digest: hex.
        epoch: the removal that was published last when it was written, 0 before the first.
        algorithm: of the digest.
    """

    digest: str
    epoch: int = 0
    algorithm: str = "sha256"

    def __str__(self) -> str:
        return f"{CHUNKS}{self.algorithm}/{self.digest[:2]}/{self.digest}.{self.epoch}"


def read_chunk_key(key: str) -> ChunkKey | None:
    """Return what a key names; None when it is no chunk's."""
    found = _CHUNK.fullmatch(key)
    if found is None or found[2] != found[3][:2]:
        return None
    return ChunkKey(found[3], int(found[4]), found[1])


@dataclass(frozen=True, slots=True, order=True)
class ManifestName:
    """What names a backup.

    Args:
        model: of the registry; any characters.
        taken: `YYYYmmddTHHMMSSZ`, when it was begun.
        writer: ULID of the run that wrote it.
    """

    model: str
    taken: str
    writer: str

    @property
    def key(self) -> str:
        """Where the manifest lies."""
        return f"{folder_of_model(self.model)}{self.taken}-{self.writer}{_JSON}"

    def __str__(self) -> str:
        return f"{self.model}@{self.taken}-{self.writer}"


def folder_of_model(model: str) -> str:
    """Return what the keys of a model's manifests begin with."""
    return f"{MANIFESTS}{quote(model, safe='')}/"


def read_manifest_key(key: str) -> ManifestName | None:
    """Return what a key names; None when it is no manifest's."""
    model, _, name = key.removeprefix(MANIFESTS).partition("/")
    taken, _, writer = name.removesuffix(_JSON).partition("-")
    named = ManifestName(unquote(model), taken, writer)
    is_one = model and _TAKEN.fullmatch(taken) and writer and named.key == key
    return named if is_one else None


def condemned_key(epoch: int) -> str:
    """Return where the list of a removal lies; in the order of the epochs."""
    return f"{CONDEMNED}{epoch:0{_EPOCH_DIGITS}}{_JSON}"


def drill_key(name: str) -> str:
    """Return where a restore drill writes down what it saw; `name` is a ULID."""
    return f"{DRILLS}{name}{_JSON}"


def record_key(name: str) -> str:
    """Return where a verification writes down what it saw; `name` is a ULID."""
    return f"{VERIFIED}{name}{_JSON}"


def writer_key(writer: str) -> str:
    """Return where a run that is under way says so."""
    return f"{WRITERS}{writer}{_JSON}"


def hold_key(manifest: ManifestName) -> str:
    """Return where it is stated that a backup must not be removed."""
    return f"{HOLDS}{manifest.key.removeprefix(MANIFESTS)}"


def held_manifest(key: str) -> ManifestName | None:
    """Return the backup whose hold a key is; None when it is none's."""
    return read_manifest_key(f"{MANIFESTS}{key.removeprefix(HOLDS)}")
