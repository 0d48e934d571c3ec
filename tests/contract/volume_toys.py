"""A version of a model, the volume it belongs on, and a source that can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slipway.adapters import model_manifest
from slipway.adapters.weights_volume.placing import Source, place
from slipway.core.errors import TransientError
from slipway.core.weights import digest_of_files

CHUNK = 1000
FILES = {
    "config.json": b'{"a": 1}',
    "deep/weights.gguf": bytes(range(256)) * 20,
    "tokenizer.model": b"t" * 2500,
}


@dataclass
class FolderSource:
    """A source that hands out the files of a version, a chunk at a time.

    Attributes:
        served: bytes handed out, by file.
        failures: how many of the next chunks are answered by a broken connection.
        at_chunk: called before each chunk.
        log: file that gets a line for each file asked for, by whichever process.
    """

    files: dict[str, bytes]
    served: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    at_chunk: Callable[[], None] = lambda: None
    log: Path | None = None

    def get(self, key: str) -> bytes:
        self.served[key] = len(self.files[key])
        return self.files[key]

    def chunks(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{key}\n")
        body = self.files[key]
        for start in range(offset, len(body), CHUNK):
            self.at_chunk()
            if self.failures:
                self.failures -= 1
                raise TransientError("broken off", code="object-store-unreachable", hint="again")
            piece = body[start : start + CHUNK]
            self.served[key] = self.served.get(key, 0) + len(piece)
            yield piece


@dataclass(frozen=True)
class Shelf:
    """A service's folder on a volume, and the version that belongs there."""

    folder: Path
    digest: str
    source: FolderSource
    said: list[str] = field(default_factory=list)

    @property
    def files(self) -> Path:
        return self.folder / self.digest / "files"

    def place(self, source: Source | None = None) -> None:
        place(
            self.folder,
            self.digest,
            source or self.source,
            say=self.said.append,
            sleep=lambda _: None,
        )

    def content(self) -> dict[str, bytes]:
        found = sorted(path for path in self.files.rglob("*") if not path.is_dir())
        return {str(path.relative_to(self.files)): path.read_bytes() for path in found}

    def names(self) -> set[str]:
        """Return what lies in the folder beside the locks."""
        return {path.name for path in self.folder.iterdir()} - {".locks"}


def version(folder: Path, files: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """Write a version's files; returns its digest and everything a registry keeps of it."""
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    manifest = model_manifest.of_folder(folder)
    text = model_manifest.to_text(manifest)
    digest = digest_of_files((file.path, file.sha256) for file in manifest.files)
    return digest, {**files, model_manifest.FILE_NAME: text.encode()}


def shelf_below(folder: Path) -> Shelf:
    """Return a service's folder that is empty yet, and the version that belongs there."""
    digest, kept = version(folder / "model", FILES)
    return Shelf(folder / "volume" / "chat", digest, FolderSource(kept))
