"""Model registry on MLflow: versions with checksums, aliases.

A version's files lie in the artifacts of one run. Beside them lies `slipway-manifest.json` with the
checksum of each; the tag `slipway.manifest_sha256` binds the version to that manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slipway.adapters import model_manifest
from slipway.adapters.mlflow_errors import mapped, unless_it_exists
from slipway.core.errors import InputError, PermanentError, SlipwayError
from slipway.ports.models import ModelFile, ModelVersion
from slipway.retries import call_with_retries

MANIFEST_TAG = "slipway.manifest_sha256"
EXPERIMENT = "slipway-models"

_FOLDER = "model"

# MLflow's own retries (7 with doubling pauses) take minutes against a server that is not there; the
# task that calls decides about repeats.
_CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class MlflowRegistry:
    """`slipway.ports.Registry` on an MLflow tracking server.

    Args:
        url: of the server.
        cache: folder where fetched files stay, named by their sha256.
    """

    url: str
    cache: Path

    def register(self, model: str, folder: Path, *, description: str = "") -> ModelVersion:
        """Upload `folder` as a new version with checksums; every call makes another version.

        Raises:
            InputError: the folder is missing, empty or holds links; or the name is not allowed.
            TransientError: the server does not answer.
            PermanentError: the server refuses.
        """
        manifest = model_manifest.of_folder(folder)
        text = model_manifest.to_text(manifest)
        with self._mapped(f"register a version of {model}"):
            run_id = self._new_run(model)
            self._client.log_artifacts(run_id, str(folder), _FOLDER)
            # Last: an upload that was cut off leaves no manifest and never becomes a version.
            self._client.log_text(run_id, text, f"{_FOLDER}/{model_manifest.FILE_NAME}")
            self._client.set_terminated(run_id)
            made = self._client.create_model_version(
                model,
                source=f"{self._client.get_run(run_id).info.artifact_uri}/{_FOLDER}",
                run_id=run_id,
                tags={MANIFEST_TAG: hashlib.sha256(text.encode()).hexdigest()},
                description=description,
            )
        return _version(model, str(made.version), str(made.source), manifest)

    def version(self, model: str, version: str) -> ModelVersion:
        """Return a version with the checksums of its files.

        Raises:
            InputError: `unknown-model`, `unknown-version`, or `checksums-missing`.
            PermanentError: its manifest is damaged or is not the one it was registered with.
            TransientError: the server does not answer.
        """
        name = f"{model} version {version}"
        stored = self._stored_version(model, version)
        expected = stored.tags.get(MANIFEST_TAG)
        if expected is None:
            raise InputError(
                f"{name} has no checksums (no tag {MANIFEST_TAG})",
                code="checksums-missing",
                hint=f"register it with `slipway model register {model} FOLDER`",
            )
        with tempfile.TemporaryDirectory(prefix="slipway-manifest-") as draft:
            path = self._download(str(stored.source), model_manifest.FILE_NAME, Path(draft), name)
            text = path.read_text()
        got = hashlib.sha256(text.encode()).hexdigest()
        if got != expected:
            raise _mismatch(name, model_manifest.FILE_NAME, expected, got)
        manifest = model_manifest.from_text(text, owner=name)
        return _version(model, str(stored.version), str(stored.source), manifest)

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Bring the version's files into `folder`, each checked against its checksum.

        A file that lies in the cache is checked again and not sent again. Other files that are in
        `folder` stay there.

        Returns:
            `folder`.

        Raises:
            PermanentError: a file is missing, or its bytes differ (`checksum-mismatch`).
            TransientError: the server does not answer.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        for file in version.files:
            cached = self._cached(version, file)
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                target.hardlink_to(cached)
            except OSError:  # another file system, or one without links
                shutil.copyfile(cached, target)
        return folder

    def alias(self, model: str, alias: str) -> str | None:
        """Return the version an alias points at, None when the model has no such alias.

        Raises:
            InputError: `unknown-model`.
            TransientError: the server does not answer.
        """
        aliases = self._stored_model(model).aliases
        found = aliases.get(alias)
        return None if found is None else str(found)

    def set_alias(self, model: str, alias: str, version: str | None) -> None:
        """Point an alias at a version; None removes it. May be repeated.

        An alias that is right already is not written: MLflow would call its webhooks once more.

        Raises:
            InputError: `unknown-model` or `unknown-version`.
            TransientError: the server does not answer.
        """
        if self.alias(model, alias) == version:
            return
        if version is None:
            with self._mapped(f"remove the alias {alias} of {model}"):
                self._client.delete_registered_model_alias(model, alias)
            return
        number = str(self._stored_version(model, version).version)
        with self._mapped(f"point the alias {alias} of {model} at version {version}"):
            self._client.set_registered_model_alias(model, alias, number)

    @cached_property
    def _client(self) -> Any:
        _settle()
        # 1.6 s: only a process that talks to the registry pays for it.
        from mlflow.tracking.client import MlflowClient

        # It tells of every upload on the terminal, which belongs to whoever called us.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def _new_run(self, model: str) -> str:
        with unless_it_exists():  # somebody else may register the first version just now, too
            self._client.create_registered_model(model)
        if self._client.get_experiment_by_name(EXPERIMENT) is None:
            with unless_it_exists():
                self._client.create_experiment(EXPERIMENT)
        number = self._client.get_experiment_by_name(EXPERIMENT).experiment_id
        return str(self._client.create_run(number, run_name=f"register {model}").info.run_id)

    def _stored_model(self, model: str) -> Any:
        with self._mapped(
            f"find the model {model}",
            missing=InputError(
                f"the registry at {self.url} has no model {model}",
                code="unknown-model",
                hint=f"check the name, or register it: `slipway model register {model} FOLDER`",
            ),
        ):
            return self._client.get_registered_model(model)

    def _stored_version(self, model: str, version: str) -> Any:
        missing = InputError(
            f"the model {model} has no version {version}",
            code="unknown-version",
            hint=f"its versions are listed at {self.url}/#/models/{model}",
        )
        if not version.isascii() or not version.isdigit():
            self._stored_model(model)
            raise missing
        # Asked first: MLflow gives the same answer for an unknown model and an unknown version.
        self._stored_model(model)
        with self._mapped(f"find version {version} of {model}", missing=missing):
            return self._client.get_model_version(model, version)

    def _cached(self, version: ModelVersion, file: ModelFile) -> Path:
        """Return the checked file in the cache, fetched when it is not there."""
        cached = self.cache / file.sha256
        if cached.is_file() and model_manifest.sha256_of(cached) == file.sha256:
            return cached
        name = f"{version.model} version {version.version}"
        with tempfile.TemporaryDirectory(dir=self.cache, prefix=".fetch-") as draft:
            path = self._download(version.source, file.path, Path(draft), name)
            got = model_manifest.sha256_of(path)
            if got != file.sha256:
                raise _mismatch(name, file.path, file.sha256, got)
            path.chmod(0o444)  # it may be linked into many folders: nobody writes through one
            path.replace(cached)
        return cached

    def _download(self, source: str, path: str, folder: Path, name: str) -> Path:
        missing = (
            InputError(
                f"{name} has no checksums ({path} is not among its files)",
                code="checksums-missing",
                hint="register it again",
            )
            if path == model_manifest.FILE_NAME
            else PermanentError(
                f"the file {path} of {name} is gone from {source}",
                code="model-file-missing",
                hint="restore it from the backup, or register the model again",
            )
        )

        def once() -> Path:
            with self._mapped(f"download {path} of {name}", missing=missing):
                _settle()
                from mlflow.artifacts import download_artifacts

                return Path(
                    download_artifacts(
                        artifact_uri=f"{source}/{path}", dst_path=str(folder), tracking_uri=self.url
                    )
                )

        # MLflow's client repeats requests, but no download that broke off in the middle.
        return call_with_retries(once)

    @contextmanager
    def _mapped(self, what: str, *, missing: SlipwayError | None = None) -> Iterator[None]:
        with mapped(f"cannot {what}", url=self.url, missing=missing):
            yield


def _settle() -> None:
    """Settle how MLflow's client behaves, where the user has not; it reads the environment."""
    for name, value in _CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)


def _version(
    model: str, version: str, source: str, manifest: model_manifest.ModelManifest
) -> ModelVersion:
    return ModelVersion(
        model=model,
        version=version,
        source=source,
        files=manifest.files,
        chat_template_sha256=manifest.chat_template_sha256,
        config_sha256=manifest.config_sha256,
    )


def _mismatch(name: str, path: str, expected: str, got: str) -> PermanentError:
    return PermanentError(
        f"the file {path} of {name} has sha256 {got}, {expected} was registered",
        code="checksum-mismatch",
        hint="its bytes changed after it was registered: restore it, or register it again",
    )
