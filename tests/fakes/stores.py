"""Fakes of the model registry, the image registry, the object store and the servers' metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.core.service import ServerKind
from slipway.ports.models import Image, ModelFile, ModelVersion
from tests.fakes.cluster import FakeCluster, next_figure
from tests.fakes.journal import Journal

IMAGE_HOST = "127.0.0.1:5000"


class FakeRegistry:
    """Model versions in memory.

    Attributes:
        contents: the files of a version, by (model, version) and path; a test may damage them.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._versions: dict[tuple[str, str], ModelVersion] = {}
        self.contents: dict[tuple[str, str], dict[str, bytes]] = {}
        self.aliases: dict[tuple[str, str], str] = {}

    def register(self, model: str, folder: Path, *, description: str = "") -> ModelVersion:
        """Take a folder as the model's next version."""
        self._journal.reach()
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.add(model, files)

    def add(self, model: str, files: Mapping[str, bytes]) -> ModelVersion:
        """Take files as the model's next version."""
        number = str(1 + sum(key[0] == model for key in self._versions))
        return self.change(model, number, files)

    def change(self, model: str, number: str, files: Mapping[str, bytes]) -> ModelVersion:
        """Put files in place of a version's, checksums and all."""
        version = ModelVersion(
            model=model,
            version=number,
            source=f"mlflow-artifacts:/{model}/{number}",
            files=tuple(
                ModelFile(path=path, sha256=_sha256(body), size_bytes=len(body))
                for path, body in sorted(files.items())
            ),
            chat_template_sha256=_sha256_of(files, "chat_template.jinja"),
            config_sha256=_sha256_of(files, "simulated.json"),
        )
        self._versions[model, number] = version
        self.contents[model, number] = dict(files)
        return version

    def version(self, model: str, version: str) -> ModelVersion:
        """Return a version."""
        self._journal.reach()
        if (model, version) not in self._versions:
            raise InputError(
                f"model {model} has no version {version}",
                code="unknown-version",
                hint="register it first",
            )
        return self._versions[model, version]

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Write the version's files into `folder`, each checked."""
        self._journal.reach()
        for file in version.files:
            body = self.contents[version.model, version.version][file.path]
            if _sha256(body) != file.sha256:
                raise PermanentError(
                    f"file {file.path} of {version.model} version {version.version} has sha256"
                    f" {_sha256(body)}, not {file.sha256}",
                    code="checksum-mismatch",
                    hint="register the version again",
                )
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)
        return folder

    def alias(self, model: str, alias: str) -> str | None:
        """Return the version an alias points at."""
        self._journal.reach()
        return self.aliases.get((model, alias))

    def set_alias(self, model: str, alias: str, version: str | None) -> None:
        """Point an alias at a version; None removes it."""
        self._journal.reach()
        if self.aliases.get((model, alias)) == version:
            return
        if version is None:
            del self.aliases[model, alias]
        else:
            self.aliases[model, alias] = version
        self._journal.wrote(f"alias {alias} to {version}")


class FakeImageStore:
    """Images in memory: a digest is the hash of what went in.

    Attributes:
        images: every image, by `repository@digest` and `repository:tag`.
        damaged: no image verifies any more.
    """

    def __init__(self, journal: Journal, *, bases: Sequence[str] = ()) -> None:
        self._journal = journal
        self.images: dict[str, Image] = {}
        self.damaged = False
        for base in bases:
            self._keep(base.partition(":")[0], f"sha256:{_sha256(base.encode())}", also=base)

    def resolve(self, reference: str) -> Image:
        """Return an image by its digest."""
        self._journal.reach()
        name = reference.removeprefix(f"{IMAGE_HOST}/")
        if name not in self.images:
            raise InputError(
                f"image {reference} is not in the registry",
                code="image-unknown",
                hint="push it first",
            )
        return self.images[name]

    def append(
        self,
        base: Image,
        *,
        repository: str,
        files: Mapping[str, Path],
        labels: Mapping[str, str],
    ) -> Image:
        """Keep a base plus files as a new image."""
        self._journal.reach()
        layer = repr([(path, _sha256(files[path].read_bytes())) for path in sorted(files)])
        text = f"{base.digest} {layer} {sorted(labels.items())}"
        digest = f"sha256:{_sha256(text.encode())}"
        known = self.images.get(f"{repository}@{digest}")
        if known is not None:
            return known
        kept = self._keep(repository, digest)
        self._journal.wrote(f"push {repository}")
        return Image(reference=kept.reference, digest=digest, pushed=True)

    def verify(self, image: Image) -> None:
        """Check an image's blobs."""
        self._journal.reach()
        if self.damaged:
            raise PermanentError(
                f"image {image.reference}: a blob's bytes differ from its digest",
                code="image-damaged",
                hint="delete the blob and push the image again",
            )

    def _keep(self, repository: str, digest: str, *, also: str | None = None) -> Image:
        image = Image(reference=f"{IMAGE_HOST}/{repository}@{digest}", digest=digest)
        self.images[f"{repository}@{digest}"] = image
        if also is not None:
            self.images[also] = image
        return image


class FakeObjectStore:
    """Objects in memory."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.objects: dict[str, bytes] = {}
        self.unreachable = False

    def put(self, key: str, body: bytes, *, content_type: str) -> str:
        """Keep a body."""
        self._reach()
        changed = self.objects.get(key) != body
        self.objects[key] = body
        if changed:
            self._journal.wrote(f"put {key}")
        return _sha256(body)

    def get(self, key: str) -> bytes:
        """Return a body."""
        self._reach()
        if key not in self.objects:
            raise PermanentError(
                f"there is no object {key}", code="object-missing", hint="look at its prefix"
            )
        return self.objects[key]

    def list(self, prefix: str) -> Sequence[str]:
        """Return the keys below a prefix."""
        self._reach()
        return sorted(key for key in self.objects if key.startswith(prefix))

    def url(self, key: str) -> str:
        """Return a made-up address."""
        return f"fake://evidence/{key}"

    def _reach(self) -> None:
        self._journal.reach()
        if self.unreachable:
            raise TransientError(
                "the object store does not answer", code="store-unreachable", hint="start it"
            )


class FakeMetrics:
    """Open requests at the servers, one figure per look."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    def running_requests(self, kind: ServerKind, addresses: Sequence[str]) -> int:
        """Return the next figure; servers that do not exist have nothing open."""
        self._cluster.journal.reach()
        return next_figure(self._cluster.server_requests) if addresses else 0


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _sha256_of(files: Mapping[str, bytes], path: str) -> str:
    return _sha256(files[path]) if path in files else ""
