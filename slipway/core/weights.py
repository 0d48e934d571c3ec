"""Weights on a volume: what identifies them, where they come from, how placing them can end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from slipway.core.errors import InputError

PLACING_REFUSED = 65
"""Exit code of the init container when a repeat would not help (EX_DATAERR of sysexits.h)."""

PLACING_FAILED = 75
"""Exit code of the init container when it may be repeated (EX_TEMPFAIL of sysexits.h)."""

REGISTRY_SCHEME = "mlflow-artifacts:/"
"""How a registry names files that its own server keeps."""

_S3_SCHEME = "s3://"


def digest_of_files(files: Iterable[tuple[str, str]]) -> str:
    """Return the sha256 over a list of files with their checksums, hex.

    Args:
        files: path and sha256 (hex) of each, in the order of their paths.
    """
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def s3_folder(source: str, artifacts: str) -> str:
    """Return where a version's files lie in S3, `s3://BUCKET/PREFIX`, without a slash at its end.

    Args:
        source: of the version, as the registry states it.
        artifacts: where the registry's server keeps what it calls `mlflow-artifacts:/` (its
            `--artifacts-destination`); empty when its sources name S3 themselves.

    Raises:
        InputError: the source is no place in S3 (`weights-source-unknown`).
    """
    found = source
    if artifacts and source.startswith(REGISTRY_SCHEME):
        found = f"{artifacts.rstrip('/')}/{source.removeprefix(REGISTRY_SCHEME).lstrip('/')}"
    bucket, _, prefix = found.removeprefix(_S3_SCHEME).rstrip("/").partition("/")
    if not found.startswith(_S3_SCHEME) or not bucket or not prefix:
        raise InputError(
            f"the version's files lie at {source}, which is no place in S3 that pods can read",
            code="weights-source-unknown",
            hint="set volume.artifacts in the service file to where the registry's server keeps "
            "its artifacts (s3://BUCKET), or use weights: image",
        )
    return found.rstrip("/")
