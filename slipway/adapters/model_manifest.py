"""The list of a model version's files with their checksums, as stored beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from slipway.core.errors import InputError, PermanentError
from slipway.ports.models import ModelFile

FILE_NAME = "slipway-manifest.json"
SCHEMA_VERSION = 1
CHAT_TEMPLATE = "chat_template.jinja"
CONFIG = "simulated.json"

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """What a version consists of.

    Args:
        files: every file, sorted by path; the manifest itself is not among them.
        chat_template_sha256: empty when there is none.
        config_sha256: empty when there is none.
    """

    files: tuple[ModelFile, ...]
    chat_template_sha256: str = ""
    config_sha256: str = ""


def of_folder(folder: Path) -> ModelManifest:
    """Read every file below `folder` and return the manifest.

    Raises:
        InputError: no such folder, no file in it, or a link (it would be stored as what it names).
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder",
            code="model-folder-missing",
            hint="give the folder that holds the files of the model",
        )
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    links = [str(path) for path in paths if path.is_symlink()]
    if links:
        raise InputError(
            f"{folder} holds links: {', '.join(links)}",
            code="model-folder-links",
            hint="put the files themselves there (cp -L)",
        )
    files = tuple(
        _describe(folder, path) for path in paths if path.relative_to(folder) != Path(FILE_NAME)
    )
    if not files:
        raise InputError(
            f"{folder} holds no file", code="model-folder-empty", hint="a model has at least one"
        )
    by_path = {file.path: file.sha256 for file in files}
    return ModelManifest(
        files=files,
        chat_template_sha256=by_path.get(CHAT_TEMPLATE, ""),
        config_sha256=by_path.get(CONFIG, ""),
    )


def to_text(manifest: ModelManifest) -> str:
    """Return the manifest as canonical JSON: equal manifests give equal bytes."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "files": [
            {"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes}
            for file in manifest.files
        ],
        "chat_template_sha256": manifest.chat_template_sha256,
        "config_sha256": manifest.config_sha256,
    }
    return json.dumps(value, sort_keys=True, indent=1) + "\n"


def from_text(text: str, *, owner: str) -> ModelManifest:
    """Read a stored manifest.

    Args:
        text: as `to_text` wrote it.
        owner: what it belongs to, for messages.

    Raises:
        PermanentError: damaged, of an unknown schema, or with a path that leaves its folder.
    """
    try:
        value = json.loads(text)
        if value["schema_version"] != SCHEMA_VERSION:
            raise _damaged(owner, f"its schema_version is {value['schema_version']}")
        return ModelManifest(
            files=tuple(_read_file(item) for item in value["files"]),
            chat_template_sha256=str(value["chat_template_sha256"]),
            config_sha256=str(value["config_sha256"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(owner, f"{type(error).__name__}: {error}") from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, hex, without holding them in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _describe(folder: Path, path: Path) -> ModelFile:
    return ModelFile(
        path=path.relative_to(folder).as_posix(),
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
    )


def _read_file(item: Mapping[str, Any]) -> ModelFile:
    path = PurePosixPath(item["path"])
    # The path is joined to a local folder later: it must not climb out of it.
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"the path {item['path']!r} leaves its folder")
    return ModelFile(path=str(path), sha256=str(item["sha256"]), size_bytes=int(item["size_bytes"]))


def _damaged(owner: str, why: str) -> PermanentError:
    return PermanentError(
        f"the checksums of {owner} cannot be read: {why}",
        code="checksums-damaged",
        hint="register the model again as a new version",
    )
