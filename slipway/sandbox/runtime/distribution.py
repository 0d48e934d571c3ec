"""Reading from an OCI registry, every byte checked against the digest that named it.

Source: OCI distribution-spec 1.1, "Pulling manifests" and "Pulling blobs". Plain http, on loopback.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from slipway.core.errors import PermanentError, TransientError
from slipway.sandbox.runtime.reference import Reference, is_digest

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TIMEOUT_S = 60.0
_LARGEST_DOCUMENT_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Blob:
    """What a manifest says of one blob."""

    digest: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image manifest.

    Args:
        digest: of the manifest that was asked for (of the index, where it was one).
        config: blob of the image's configuration.
        layers: lowest first.
    """

    digest: str
    config: Blob
    layers: tuple[Blob, ...]


class CheckedStream(io.RawIOBase):
    """Reads `source`, hashing and counting what passes.

    Args:
        source: anything with `read`.
        limit_bytes: more than this is refused at once; None for no limit.
    """

    def __init__(self, source: IO[bytes], limit_bytes: int | None = None) -> None:
        """Wrap `source`."""
        self._source = source
        self._hash = hashlib.sha256()
        self._limit_bytes = limit_bytes
        self.size_bytes = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, b"" at the end."""
        data = self._source.read(size)
        self._hash.update(data)
        self.size_bytes += len(data)
        if self._limit_bytes is not None and self.size_bytes > self._limit_bytes:
            raise PermanentError(
                f"the registry sends more than the {self._limit_bytes} bytes it announced",
                code="digest-mismatch",
                hint="push the image again",
            )
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(_CHUNK_BYTES):
            pass

    @property
    def digest(self) -> str:
        """Digest of what was read so far."""
        return f"sha256:{self._hash.hexdigest()}"


def check_digest(what: str, expected: str, got: str) -> None:
    """Compare two digests.

    Raises:
        PermanentError: they differ; the text names both (the kubelet shows it to people).
    """
    if got != expected:
        raise PermanentError(
            f"digest mismatch of {what}: expected {expected}, got {got}",
            code="digest-mismatch",
            hint="the registry's copy is damaged; push the image again",
        )


def read_manifest(reference: Reference) -> Manifest:
    """Fetch and check the manifest of an image, choosing this machine's platform from an index.

    Raises:
        PermanentError: unknown image, digest mismatch, not an image manifest.
        TransientError: the registry does not answer.
    """
    top_digest, document = _document(reference, reference.wanted)
    if document.get("mediaType") in _INDEXES or "manifests" in document:
        _, document = _document(reference, _for_this_machine(reference, document))
    try:
        config, layers = document["config"], document["layers"]
        return Manifest(top_digest, _blob(config), tuple(_blob(layer) for layer in layers))
    except (KeyError, TypeError, ValueError) as error:
        raise PermanentError(
            f"{reference.pinned(top_digest)} is not an image manifest: {error!r}",
            code="manifest-wrong",
            hint="push the image again",
        ) from error


def read_document(reference: Reference, blob: Blob) -> bytes:
    """Return a small blob, checked.

    Raises:
        PermanentError: unknown, too large, or digest mismatch.
        TransientError: the registry does not answer.
    """
    with open_blob(reference, blob) as stream:
        data = stream.read(_LARGEST_DOCUMENT_BYTES)
        stream.drain()
        check_digest(f"the config of {reference.repository}", blob.digest, stream.digest)
    return data


@contextlib.contextmanager
def open_blob(reference: Reference, blob: Blob) -> Iterator[CheckedStream]:
    """Open a blob for one pass; the caller compares `digest` after the last byte.

    Raises:
        PermanentError: unknown blob, or longer than announced.
        TransientError: the registry does not answer.
    """
    path = f"/v2/{reference.repository}/blobs/{blob.digest}"
    with _get(reference, path, "*/*", f"blob {blob.digest}") as response:
        yield CheckedStream(response, blob.size_bytes)


def _document(reference: Reference, wanted: str) -> tuple[str, dict[str, Any]]:
    path = f"/v2/{reference.repository}/manifests/{wanted}"
    accept = ", ".join((*_INDEXES, *_MANIFESTS))
    with _get(reference, path, accept, f"manifest {wanted}") as response:
        data = response.read(_LARGEST_DOCUMENT_BYTES)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if is_digest(wanted):
        check_digest(f"the manifest of {reference.repository}", wanted, digest)
    try:
        document = json.loads(data)
    except ValueError as error:
        raise PermanentError(
            f"the manifest of {reference.repository} is not JSON",
            code="manifest-wrong",
            hint="push the image again",
        ) from error
    return digest, document if isinstance(document, dict) else {}


def _for_this_machine(reference: Reference, index: dict[str, Any]) -> str:
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    for entry in index.get("manifests", []):
        wanted = entry.get("platform") or {"os": "linux", "architecture": architecture}
        if wanted.get("os") == "linux" and wanted.get("architecture") == architecture:
            return str(entry["digest"])
    raise PermanentError(
        f"{reference.repository} has no image for linux/{architecture}",
        code="platform-missing",
        hint="build the image for this machine",
    )


def _blob(entry: dict[str, Any]) -> Blob:
    digest = str(entry["digest"])
    if not is_digest(digest):
        raise ValueError(f"digest {digest!r}")
    return Blob(digest, int(entry["size"]), str(entry.get("mediaType", "")))


@contextlib.contextmanager
def _get(
    reference: Reference, path: str, accept: str, what: str
) -> Iterator[http.client.HTTPResponse]:
    host, _, port = reference.registry.partition(":")
    connection = http.client.HTTPConnection(host, int(port or 80), timeout=_TIMEOUT_S)
    try:
        try:
            connection.request("GET", path, headers={"Accept": accept})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _no_answer(reference, error) from error
        if response.status != 200:
            raise _refusal(reference, what, response)
        try:
            yield response
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            raise _no_answer(reference, error) from error
    finally:
        connection.close()


def _no_answer(reference: Reference, error: Exception) -> TransientError:
    return TransientError(
        f"registry {reference.registry} does not answer: {error}",
        code="registry-silent",
        hint="see the registry's log",
    )


def _refusal(
    reference: Reference, what: str, response: http.client.HTTPResponse
) -> PermanentError | TransientError:
    text = response.read(300).decode(errors="replace").strip()
    message = f"{reference.registry}/{reference.repository}: {what}: {response.status} {text}"
    if response.status >= 500 or response.status == 429:
        return TransientError(message, code="registry-failing", hint="see the registry's log")
    code = "image-not-found" if response.status == 404 else "registry-refuses"
    return PermanentError(message, code=code, hint="push the image first")
