"""Container images in any registry that speaks the OCI distribution API (`ImageStore`).

Sources: OCI distribution-spec 1.1 (pull, push, cross-repository mount) and image-spec 1.1
(manifest, config, layer). What is pushed is reproducible: canonical JSON, layers as
`slipway.adapters.oci_layer` makes them, nothing that tells when or where it was made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from slipway.adapters.oci_layer import CHUNK_BYTES, TAR_TYPE, Blob, Layer, digest_of, inner_path
from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.ports.models import Image
from slipway.retries import call_with_retries

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
_INDEX_TYPES = frozenset({_INDEX_TYPE, _DOCKER_LIST_TYPE})
_ACCEPT = f"{MANIFEST_TYPE}, {_DOCKER_MANIFEST_TYPE}, {_INDEX_TYPE}, {_DOCKER_LIST_TYPE}"
_AS_OCI = {  # an OCI manifest names OCI layers; the bytes are the same
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{TAR_TYPE}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar": TAR_TYPE,
}
Read = TypeVar("Read")

_EPOCH = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What a container of the image starts with.

    Args:
        entrypoint: argv of the container's process.
        environment: its variables.
        labels: of the image.
        working_dir: absolute path.
        user: `UID` or `UID:GID`.
        architecture: Go's name of the machine, for example `amd64`.
    """

    entrypoint: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    user: str = "65532:65532"
    architecture: str = "amd64"


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class _Session:
    """One connection to the registry; every method maps what can go wrong to our errors.

    What passes is repeated by itself: all of it may be, since blobs and manifests are named by
    their digests. An upload is repeated from its beginning, with its bytes read anew.
    """

    def __init__(self, client: httpx.Client, host: str) -> None:
        self._client = client
        self._host = host

    def call(
        self, method: str, url: str, *, accept: frozenset[int] = frozenset(), **arguments: Any
    ) -> httpx.Response:
        """Send one request, again when it may help; see `_once`."""
        return call_with_retries(lambda: self._once(method, url, accept=accept, **arguments))

    def _once(
        self, method: str, url: str, *, accept: frozenset[int] = frozenset(), **arguments: Any
    ) -> httpx.Response:
        """Send one request; statuses of 400 and above raise unless they are in `accept`."""
        with self._mapped(method, url):
            response = self._client.request(method, url, **arguments)
        if response.status_code >= 400 and response.status_code not in accept:
            raise self._refused(method, url, response)
        return response

    @contextmanager
    def _mapped(self, method: str, url: str) -> Iterator[None]:
        try:
            yield
        except httpx.RequestError as error:  # connecting, reading, writing, timeouts
            raise TransientError(
                f"the registry {self._host} did not answer {method} {url}: {error!r}",
                code="registry-unreachable",
                hint="check that the registry runs and can be reached from here",
            ) from error

    def _refused(
        self, method: str, url: str, response: httpx.Response
    ) -> PermanentError | TransientError:
        status = response.status_code
        told = f"the registry {self._host} answered {method} {url} with {status}"
        if status >= 500 or status == 429:
            wait = response.headers.get("retry-after", "")
            return TransientError(
                told,
                code="registry-unavailable",
                hint="try again; if it lasts, read the registry's log",
                retry_after_s=float(wait) if wait.isdigit() else None,
            )
        if status in {401, 403}:
            return PermanentError(
                told,
                code="registry-forbidden",
                hint="give Slipway's credentials the right to pull and push this repository",
            )
        return PermanentError(
            f"{told}: {response.text[:300]}",
            code="registry-refused",
            hint="read the registry's answer above",
        )

    def manifest(self, repository: str, name: str) -> tuple[bytes, str] | None:
        """Return the bytes of a manifest and its media type; None when it is not there."""
        url = f"/v2/{repository}/manifests/{name}"
        response = self.call("GET", url, accept=frozenset({404}), headers={"accept": _ACCEPT})
        if response.status_code == 404:
            return None
        return response.content, response.headers.get("content-type", "").split(";")[0]

    def read_blob(
        self, repository: str, digest: str, read: Callable[[Iterator[bytes]], Read]
    ) -> Read | None:
        """Return what `read` makes of a blob's chunks; None when the blob is not there."""

        def once() -> Read | None:
            with self._blob(repository, digest) as chunks:
                return None if chunks is None else read(chunks)

        return call_with_retries(once)

    @contextmanager
    def _blob(self, repository: str, digest: str) -> Iterator[Iterator[bytes] | None]:
        url = f"/v2/{repository}/blobs/{digest}"
        with (
            self._mapped("GET", url),
            self._client.stream("GET", url, follow_redirects=True) as response,
        ):
            if response.status_code == 404:
                yield None
            elif response.status_code >= 400:
                response.read()
                raise self._refused("GET", url, response)
            else:
                yield response.iter_raw(CHUNK_BYTES)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether a blob is in a repository."""
        url = f"/v2/{repository}/blobs/{digest}"
        return self.call("HEAD", url, accept=frozenset({404})).status_code < 400

    def push_blob(self, repository: str, blob: Blob, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Send a blob in one stream, unless it is there already."""
        if not self.has_blob(repository, blob.digest):
            call_with_retries(lambda: self._upload(self._place(repository), blob, chunks()))

    def mount_blob(self, repository: str, blob: Blob, source: str) -> None:
        """Make a blob of the repository `source` available here; copied where mounting is off."""
        if repository == source or self.has_blob(repository, blob.digest):
            return
        started = self.call(
            "POST",
            f"/v2/{repository}/blobs/uploads/",
            params={"mount": blob.digest, "from": source},
        )
        if started.status_code == 201:
            return
        places = [str(started.headers["location"])]

        def copy() -> None:
            place = places.pop() if places else self._place(repository)
            with self._blob(source, blob.digest) as chunks:
                if chunks is None:
                    raise _damaged(f"{self._host}/{source}", f"its blob {blob.digest} is missing")
                self._upload(place, blob, chunks)

        call_with_retries(copy)

    def _place(self, repository: str) -> str:
        """Return where the registry wants the next upload."""
        return str(self._once("POST", f"/v2/{repository}/blobs/uploads/").headers["location"])

    def _upload(self, location: str, blob: Blob, chunks: Iterator[bytes]) -> None:
        # A stated length keeps httpx from chunked encoding, which some proxies buffer whole.
        self._once(
            "PUT",
            str(httpx.URL(location).copy_merge_params({"digest": blob.digest})),
            content=chunks,
            headers={
                "content-length": str(blob.size_bytes),
                "content-type": "application/octet-stream",
            },
        )

    def push_manifest(self, repository: str, tag: str, manifest: bytes) -> bool:
        """Put a manifest under `tag`; returns False when it stood there already."""
        there = self.manifest(repository, tag)
        if there is not None and there[0] == manifest:
            return False
        url = f"/v2/{repository}/manifests/{tag}"
        self.call("PUT", url, content=manifest, headers={"content-type": MANIFEST_TYPE})
        return True


def _damaged(image: str, reason: str) -> PermanentError:
    return PermanentError(
        f"the image {image} is damaged: {reason}",
        code="image-damaged",
        hint="delete the image from the registry and push it again; then check the registry's disk",
    )


class OciImageStore:
    """Images of one registry, see `slipway.ports.ImageStore`.

    Args:
        url: of the registry, for example `http://127.0.0.1:5000`; its host is what references say.
        credentials: user and password; None where the registry asks for none.
        architecture: which image of a multi-platform index is meant (Go's name).
        timeout_s: longest wait for the registry's next bytes.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: tuple[str, str] | None = None,
        architecture: str = "amd64",
        timeout_s: float = 60.0,
    ) -> None:
        self._url = url.rstrip("/")
        self._host = urlsplit(self._url).netloc
        self._credentials = credentials
        self._architecture = architecture
        self._timeout_s = timeout_s

    def resolve(self, reference: str) -> Image:
        """Return `[HOST/]repository:tag` or `[HOST/]repository@digest` as an image by digest.

        Raises:
            InputError: it is not in the registry (`image-not-found`), or no reference of it.
            PermanentError: the registry hands out other bytes than were asked for.
            TransientError: the registry does not answer.
        """
        repository, name = self._parse(reference)
        with self._session() as session:
            digest, _ = self._manifest(session, repository, name)
        return self._image(repository, digest)

    def append(
        self,
        base: Image,
        *,
        repository: str,
        files: Mapping[str, Path],
        labels: Mapping[str, str],
    ) -> Image:
        """Push `base` plus one layer holding `files`; see `slipway.ports.ImageStore.append`.

        The image also gets a tag made from its digest: many registries delete untagged ones.

        Raises:
            InputError: the base is not in the registry, or a file is missing.
            PermanentError: the registry refuses, or a blob of the base is damaged.
            TransientError: the registry does not answer.
        """
        source, name = self._parse(base.reference)
        layer = Layer(files)
        added = layer.blob()
        with self._session() as session:
            _, manifest = self._manifest(session, source, name)
            config = self._config(session, source, manifest)
            kept = [_as_blob(entry) for entry in manifest["layers"]]
            for blob in kept:
                session.mount_blob(repository, blob, source)
            session.push_blob(repository, added, layer.chunks)
            extended = _extended(config, added.digest, sorted(f"/{inner_path(p)}" for p in files))
            extended["config"]["Labels"] = {**(extended["config"].get("Labels") or {}), **labels}
            return self._finish(session, repository, "", extended, [*kept, added])

    def push_image(
        self, repository: str, tag: str, layers: Sequence[Mapping[str, Path]], config: ImageConfig
    ) -> Image:
        """Push an image made of files only, and point `tag` at it.

        Args:
            repository: without the registry's host.
            tag: moved when it stands somewhere else.
            layers: each path in the image → local file, the lowest first.
            config: what its containers start with.

        Raises:
            InputError: a file is missing.
            PermanentError: the registry refuses.
            TransientError: the registry does not answer.
        """
        stated = _fresh_config(config)
        blobs = []
        with self._session() as session:
            for files in layers:
                layer = Layer(files)
                blob = layer.blob()
                session.push_blob(repository, blob, layer.chunks)
                tops = sorted({f"/{inner_path(path).split('/')[0]}" for path in files})
                stated = _extended(stated, blob.digest, tops)
                blobs.append(blob)
            return self._finish(session, repository, tag, stated, blobs)

    def verify(self, image: Image) -> None:
        """Read every blob of the image and check its digest and size.

        Raises:
            PermanentError: a blob is missing or its bytes differ (`image-damaged`).
            TransientError: the registry does not answer.
        """
        repository, name = self._parse(image.reference)
        with self._session() as session:
            found = session.manifest(repository, name)
            if found is None:
                raise _damaged(image.reference, "its manifest is missing")
            if digest_of(iter([found[0]]))[0] != image.digest:
                raise _damaged(image.reference, "its manifest has another digest")
            manifest = json.loads(found[0])
            for blob in map(_as_blob, [manifest["config"], *manifest["layers"]]):
                read = session.read_blob(repository, blob.digest, digest_of)
                if read is None:
                    raise _damaged(image.reference, f"its blob {blob.digest} is missing")
                digest, size_bytes = read
                if digest != blob.digest or size_bytes != blob.size_bytes:
                    raise _damaged(image.reference, f"its blob {blob.digest} reads as {digest}")

    @contextmanager
    def _session(self) -> Iterator[_Session]:
        secure = self._url.startswith("https:")
        with httpx.Client(
            base_url=self._url,
            auth=self._credentials,
            timeout=self._timeout_s,
            headers={"accept-encoding": "identity"},  # digests are of the bytes as stored
            trust_env=False,
            verify=secure,  # plain http needs no certificates: loading them takes 20 ms
        ) as client:
            yield _Session(client, self._host)

    def _parse(self, reference: str) -> tuple[str, str]:
        """Split into repository and tag or digest."""
        rest = reference.removeprefix(f"{self._host}/")
        repository, at, name = rest.partition("@")
        if not at:
            repository, _, name = rest.rpartition(":")
        foreign = "." in repository.split("/")[0] or ":" in repository
        if not repository or not name or "/" in name or foreign:
            raise InputError(
                f"{reference!r} names no image of the registry {self._host}",
                code="image-reference-invalid",
                hint="write repository:tag or repository@sha256:…, without another registry's host",
            )
        return repository, name

    def _image(self, repository: str, digest: str, *, pushed: bool = False) -> Image:
        reference = f"{self._host}/{repository}@{digest}"
        return Image(reference=reference, digest=digest, pushed=pushed)

    def _manifest(
        self, session: _Session, repository: str, name: str
    ) -> tuple[str, dict[str, Any]]:
        """Return a manifest with its digest; of an index, the one of our platform."""
        found = session.manifest(repository, name)
        if found is None:
            raise InputError(
                f"the image {repository} {name} is not in the registry {self._host}",
                code="image-not-found",
                hint="check the name; push the image first (base images: install again)",
            )
        body, media_type = found
        digest, _ = digest_of(iter([body]))
        if name.startswith("sha256:") and digest != name:
            raise _damaged(f"{repository}@{name}", f"its manifest reads as {digest}")
        manifest: dict[str, Any] = json.loads(body)
        if media_type not in _INDEX_TYPES:
            return digest, manifest
        wanted = {"os": "linux", "architecture": self._architecture}
        for entry in manifest["manifests"]:
            if wanted.items() <= entry.get("platform", {}).items():
                return self._manifest(session, repository, entry["digest"])
        raise InputError(
            f"the image {repository} {name} has no variant for linux/{self._architecture}",
            code="image-platform-missing",
            hint="name an image built for this platform",
        )

    def _config(
        self, session: _Session, repository: str, manifest: Mapping[str, Any]
    ) -> dict[str, Any]:
        stated = _as_blob(manifest["config"])
        body = session.read_blob(repository, stated.digest, b"".join) or b""
        if digest_of(iter([body]))[0] != stated.digest:
            raise _damaged(f"{self._host}/{repository}", f"its config {stated.digest} differs")
        config: dict[str, Any] = json.loads(body)
        return config

    def _finish(
        self,
        session: _Session,
        repository: str,
        tag: str,
        config: Mapping[str, Any],
        layers: Sequence[Blob],
    ) -> Image:
        """Push config and manifest; without `tag` the digest makes one."""
        body = _canonical(config)
        digest, size_bytes = digest_of(iter([body]))
        blob = Blob(CONFIG_TYPE, digest, size_bytes)
        session.push_blob(repository, blob, lambda: iter([body]))
        manifest = _canonical(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": blob.as_json(),
                "layers": [layer.as_json() for layer in layers],
            }
        )
        digest, _ = digest_of(iter([manifest]))
        chosen = tag or f"slipway-{digest.removeprefix('sha256:')[:16]}"
        pushed = session.push_manifest(repository, chosen, manifest)
        return self._image(repository, digest, pushed=pushed)


def _as_blob(entry: Mapping[str, Any]) -> Blob:
    media_type = str(entry["mediaType"])
    return Blob(_AS_OCI.get(media_type, media_type), str(entry["digest"]), int(entry["size"]))


def _fresh_config(config: ImageConfig) -> dict[str, Any]:
    return {
        "architecture": config.architecture,
        "os": "linux",
        "created": _EPOCH,
        "config": {
            "Entrypoint": list(config.entrypoint),
            "Env": [f"{name}={value}" for name, value in sorted(config.environment.items())],
            "Labels": dict(config.labels),
            "User": config.user,
            "WorkingDir": config.working_dir,
        },
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    }


def _extended(config: Mapping[str, Any], diff_id: str, paths: Sequence[str]) -> dict[str, Any]:
    """Return an image config with one more layer; an uncompressed layer's digest is its diff id."""
    step = {"created": _EPOCH, "created_by": f"slipway: add {' '.join(paths)}"}
    root = config["rootfs"]
    return {
        **config,
        "created": _EPOCH,
        "config": dict(config.get("config") or {}),
        "rootfs": {**root, "diff_ids": [*root["diff_ids"], diff_id]},
        "history": [*(config.get("history") or []), step],
    }
