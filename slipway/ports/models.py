"""Model versions, images, and the store of evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a model version, with what it must be."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A version as the registry states it.

    Args:
        files: every file, sorted by path.
        chat_template_sha256: of the chat template, empty when there is none.
        config_sha256: of the configuration file (`simulated.json`), empty when there is none.
    """

    model: str
    version: str
    source: str
    files: tuple[ModelFile, ...]
    chat_template_sha256: str = ""
    config_sha256: str = ""


class Registry(Protocol):
    """Model versions and their aliases."""

    def register(self, model: str, folder: Path, *, description: str = "") -> ModelVersion:
        """Upload `folder` as a new version with checksums and chat template."""

    def version(self, model: str, version: str) -> ModelVersion:
        """Return a version.

        Raises:
            InputError: unknown model or version, or a version without checksums.
        """

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Bring the version's files into `folder`, each checked against its checksum.

        Raises:
            PermanentError: a file's bytes differ from its checksum (`checksum-mismatch`).
        """

    def alias(self, model: str, alias: str) -> str | None:
        """Return the version an alias points at."""

    def set_alias(self, model: str, alias: str, version: str | None) -> None:
        """Point an alias at a version; None removes it. May be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in the registry of the installation.

    Args:
        reference: `HOST/REPOSITORY@sha256:…`, what a pod's `image` field says.
        digest: `sha256:…` of the manifest.
        pushed: False when it was already there and nothing was sent.
    """

    reference: str
    digest: str
    pushed: bool = False


class ImageStore(Protocol):
    """Container images."""

    def resolve(self, reference: str) -> Image:
        """Return `repository:tag` or `repository@digest` as an image by digest.

        Raises:
            InputError: it is not in the registry.
        """

    def append(
        self,
        base: Image,
        *,
        repository: str,
        files: Mapping[str, Path],
        labels: Mapping[str, str],
    ) -> Image:
        """Push `base` plus one layer holding `files` (path in the image → local file).

        The same inputs give the same digest; what is already there is not sent again.
        """

    def verify(self, image: Image) -> None:
        """Read every blob of the image and check its digest.

        Raises:
            PermanentError: a blob is missing or its bytes differ (`image-damaged`).
        """


class ObjectStore(Protocol):
    """Evidence and backups."""

    def put(self, key: str, body: bytes, *, content_type: str) -> str:
        """Store `body` under `key`; may be repeated. Returns its sha256."""

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`.

        Raises:
            PermanentError: there is no such key.
        """

    def list(self, prefix: str) -> Sequence[str]:
        """Return the keys that start with `prefix`, sorted."""

    def url(self, key: str) -> str:
        """Return where a person finds `key`."""
