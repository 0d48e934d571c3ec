"""The images of one node: pulled by digest, unpacked once, listed and removed.

Layout below the store's folder: `layers/HEX/` one unpacked layer each, `trees/HEX/` the merged root
of each image (hard links into the layers), `records/HEX.json`, `drafts/` for what is not whole yet.
Everything final appears by rename, so a killed pull leaves nothing but a draft, swept at the start.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from slipway.core.errors import InputError, PermanentError
from slipway.sandbox.runtime.distribution import (
    Blob,
    CheckedStream,
    Manifest,
    check_digest,
    open_blob,
    read_document,
    read_manifest,
)
from slipway.sandbox.runtime.model import Image, image_from_json, to_json
from slipway.sandbox.runtime.reference import Reference, parse_reference
from slipway.sandbox.runtime.unpack import merge_layers, unpack_layer

_FOREIGN = ("+zstd", "encrypted")


class ImageStore:
    """The images below one folder; one pull at a time (the caller sees to it).

    Args:
        root: the folder, made when missing.
        registry: `HOST:PORT`; images of any other registry are refused.
    """

    def __init__(self, root: Path, registry: str) -> None:
        """Load the records and sweep unfinished work."""
        self._root = root
        self._registry = registry
        shutil.rmtree(root / "drafts", ignore_errors=True)
        for name in ("layers", "trees", "records", "drafts"):
            (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._images: dict[str, Image] = {}
        for path in sorted((root / "records").glob("*.json")):
            image = image_from_json(json.loads(path.read_text()))
            if self.tree(image).is_dir():
                self._images[image.id] = image

    @property
    def root(self) -> Path:
        """Folder of the store."""
        return self._root

    def all(self) -> tuple[Image, ...]:
        """Return every image."""
        return tuple(self._images.values())

    def tree(self, image: Image) -> Path:
        """Return the folder with the image's merged files: read only."""
        return self._root / "trees" / _hex(image.id)

    def used_bytes(self) -> int:
        """Return the size of the unpacked layers, a shared one counted per image."""
        return sum(image.size_bytes for image in self._images.values())

    def find(self, name: str) -> Image | None:
        """Return an image by id, by tag or by digest; None when it is not here.

        Raises:
            InputError: `name` is neither an id nor an image name.
        """
        known = self._images.get(name) or self._images.get(f"sha256:{name}")
        if known is not None or name.startswith("sha256:"):
            return known
        reference = parse_reference(name)
        wanted = reference.pinned(reference.digest) if reference.digest else reference.tagged
        for image in self._images.values():
            if wanted in image.digests or wanted in image.tags:
                return image
        return None

    def pull(self, name: str) -> Image:
        """Fetch, check and unpack an image; what is here already is not fetched again.

        Args:
            name: with a digest or a tag.

        Raises:
            InputError: a name of another registry.
            PermanentError: unknown image, digest mismatch, an archive that leads out.
            TransientError: the registry does not answer.
        """
        reference = parse_reference(name)
        if reference.registry != self._registry:
            raise InputError(
                f"image {name} is not in this sandbox's registry {self._registry}",
                code="registry-foreign",
                hint=f"push it to {self._registry}: the sandbox dials nothing outside itself",
            )
        manifest = read_manifest(reference)
        image = self._images.get(manifest.config.digest)
        if image is None or image.layers != tuple(layer.digest for layer in manifest.layers):
            image = self._unpack(reference, manifest)
        return self._name(image, reference, manifest.digest)

    def remove(self, name: str) -> None:
        """Forget an image with its files; layers that another image needs stay. Idempotent.

        Raises:
            InputError: `name` is neither an id nor an image name.
        """
        image = self.find(name)
        if image is None:
            return
        del self._images[image.id]
        self._record(image).unlink(missing_ok=True)
        self._discard(self.tree(image))
        kept = {layer for other in self._images.values() for layer in other.layers}
        for layer in set(image.layers) - kept:
            self._discard(self._layer(layer))
            self._size_file(layer).unlink(missing_ok=True)

    def _unpack(self, reference: Reference, manifest: Manifest) -> Image:
        config = _config(reference, manifest)
        size_bytes = 0
        for layer, diff_id in zip(manifest.layers, config["rootfs"]["diff_ids"], strict=True):
            size_bytes += self._fetch_layer(reference, layer, diff_id)
        layers = tuple(layer.digest for layer in manifest.layers)
        image = _image(manifest.config.digest, layers, size_bytes, config.get("config") or {})
        with _draft(self._root) as draft:
            merge_layers([self._layer(layer) for layer in layers], draft)
            draft.chmod(0o755)
            self._discard(self.tree(image))
            draft.rename(self.tree(image))
        return image

    def _fetch_layer(self, reference: Reference, layer: Blob, diff_id: str) -> int:
        """Return the layer's size in bytes, unpacking it when it is not here."""
        place = self._layer(layer.digest)
        size = self._size_file(layer.digest)
        if place.is_dir() and size.exists():
            return int(size.read_text())
        if any(mark in layer.media_type for mark in _FOREIGN):
            raise PermanentError(
                f"layer {layer.digest} has the unsupported type {layer.media_type}",
                code="layer-type-unsupported",
                hint="build the image with gzip layers",
            )
        with _draft(self._root) as draft, open_blob(reference, layer) as blob:
            size_bytes = _checked_unpack(blob, layer, diff_id, draft)
            size.write_text(str(size_bytes))
            self._discard(place)
            draft.rename(place)
        return size_bytes

    def _name(self, image: Image, reference: Reference, digest: str) -> Image:
        """Add the name an image was pulled by; a tag belongs to one image only."""
        tag = reference.tagged
        for other in self._images.values():
            if tag and tag in other.tags and other.id != image.id:
                self._save(replace(other, tags=tuple(name for name in other.tags if name != tag)))
        named = replace(
            image,
            tags=_with(image.tags, tag),
            digests=_with(image.digests, reference.pinned(digest)),
        )
        self._save(named)
        return named

    def _save(self, image: Image) -> None:
        draft = self._root / "drafts" / f"{_hex(image.id)}.json"
        draft.write_text(json.dumps(to_json(image)))
        draft.rename(self._record(image))
        self._images[image.id] = image

    def _record(self, image: Image) -> Path:
        return self._root / "records" / f"{_hex(image.id)}.json"

    def _layer(self, digest: str) -> Path:
        return self._root / "layers" / _hex(digest)

    def _size_file(self, digest: str) -> Path:
        return self._root / "layers" / f"{_hex(digest)}.size"

    def _discard(self, folder: Path) -> None:
        """Remove a folder at once for whoever looks: by a rename, then file by file."""
        if folder.exists():
            with _draft(self._root) as draft:
                folder.rename(draft / "old")


@contextlib.contextmanager
def _draft(root: Path) -> Iterator[Path]:
    """Give a fresh folder, removed at the end unless it was renamed away."""
    path = Path(tempfile.mkdtemp(dir=root / "drafts"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _checked_unpack(blob: CheckedStream, layer: Blob, diff_id: str, target: Path) -> int:
    """Unpack a layer blob; its own digest and that of its archive must be right.

    A damaged blob often fails as an archive first: its digest is the better explanation.
    """
    packed = layer.media_type.endswith(("gzip", ".tar.gzip"))
    plain = cast("IO[bytes]", gzip.GzipFile(fileobj=blob, mode="rb") if packed else blob)
    archive = CheckedStream(plain)
    try:
        size_bytes = unpack_layer(cast("IO[bytes]", archive), target)
        archive.drain()
        blob.drain()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        blob.drain()
        check_digest("a layer", layer.digest, blob.digest)
        raise PermanentError(
            f"layer {layer.digest} is not a readable archive: {error}",
            code="layer-broken",
            hint="build the image again",
        ) from error
    check_digest("a layer", layer.digest, blob.digest)
    check_digest("a layer's archive", diff_id, archive.digest)
    return size_bytes


def _config(reference: Reference, manifest: Manifest) -> dict[str, Any]:
    try:
        config = json.loads(read_document(reference, manifest.config))
        count = len(config["rootfs"]["diff_ids"])
    except (ValueError, KeyError, TypeError) as error:
        raise _config_wrong(reference, repr(error)) from error
    if count != len(manifest.layers):
        raise _config_wrong(reference, f"{count} diff ids for {len(manifest.layers)} layers")
    return cast("dict[str, Any]", config)


def _config_wrong(reference: Reference, why: str) -> PermanentError:
    return PermanentError(
        f"the config of {reference.repository} is not an image config: {why}",
        code="config-wrong",
        hint="build the image again",
    )


def _image(id_: str, layers: tuple[str, ...], size_bytes: int, config: dict[str, Any]) -> Image:
    return Image(
        id=id_,
        layers=layers,
        size_bytes=size_bytes,
        entrypoint=tuple(config.get("Entrypoint") or ()),
        cmd=tuple(config.get("Cmd") or ()),
        env=tuple(config.get("Env") or ()),
        working_dir=config.get("WorkingDir") or "",
        stop_signal=config.get("StopSignal") or "",
        user=config.get("User") or "",
    )


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if not name or name in names else (*names, name)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
