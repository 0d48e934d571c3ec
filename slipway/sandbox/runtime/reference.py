"""Names of images, taken apart: `registry/repository:tag@digest`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slipway.core.errors import InputError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """One image name; `digest` wins over `tag` where both are given."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def wanted(self) -> str:
        """What the registry is asked for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def tagged(self) -> str:
        """Name with the tag, "" when the image was named by digest alone."""
        return f"{self.registry}/{self.repository}:{self.tag}" if self.tag else ""

    def pinned(self, digest: str) -> str:
        """Return the name with a digest."""
        return f"{self.registry}/{self.repository}@{digest}"


def is_digest(text: str) -> bool:
    """Say whether `text` is a whole sha256 digest, `sha256:` and 64 hex digits."""
    return _DIGEST.fullmatch(text) is not None


def parse_reference(name: str) -> Reference:
    """Take an image name apart (grammar: distribution/reference; default tag `latest`).

    Raises:
        InputError: it is not `HOST[:PORT]/repository` with a tag, a digest or both.
    """
    rest, _, digest = name.partition("@")
    registry, slash, path = rest.partition("/")
    repository, colon, tag = path.partition(":")
    whole = (
        bool(slash)
        and ("." in registry or ":" in registry or registry == "localhost")
        and _REPOSITORY.fullmatch(repository) is not None
        and (not colon or _TAG.fullmatch(tag) is not None)
        and ("@" not in name or is_digest(digest))
    )
    if not whole:
        raise InputError(
            f"{name!r} is not an image name",
            code="image-name-wrong",
            hint="write REGISTRY:PORT/repository@sha256:… or REGISTRY:PORT/repository:tag",
        )
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)
