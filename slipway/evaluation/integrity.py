"""Is a model version what it claims to be, and safe to load? Looks at its files, runs none of them.

Formats: GGUF (ggml-org/ggml, docs/gguf.md: magic `GGUF`, version), safetensors
(huggingface/safetensors: 8 bytes little-endian header length, then a JSON object), pickle (Python,
pickletools; loading one runs what it says, so none is ever accepted).
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from slipway.core.errors import PermanentError
from slipway.core.weights import digest_of_files
from slipway.ports.models import ModelVersion

_CHAT_TEMPLATE = "chat_template.jinja"
_GGUF_MAGIC = b"GGUF"
_GGUF_VERSIONS = frozenset({2, 3})
_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_PICKLE_SUFFIXES = frozenset(
    {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".npz"}
)
_PICKLE_PROTOCOL = b"\x80"
_PICKLE_PROTOCOLS = frozenset(range(2, 6))
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe"})
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_BLOCK_BYTES = 1 << 20


def weights_digest(version: ModelVersion) -> str:
    """Return the sha256 over the version's file list with their checksums, hex."""
    return digest_of_files((file.path, file.sha256) for file in version.files)


def check_integrity(version: ModelVersion, folder: Path) -> None:
    """Check the files of a version that lie in `folder`.

    Args:
        version: as the registry states it.
        folder: where its files were fetched to.

    Raises:
        PermanentError: `model-unsafe` or `model-damaged`, with every problem that was found.
    """
    unsafe = tuple(_unsafe(version, folder))
    damaged = tuple(_damaged(version, folder))
    if not unsafe and not damaged:
        return
    raise PermanentError(
        f"{version.model} version {version.version} is not fit for release: "
        + "; ".join((*unsafe, *damaged)),
        code="model-unsafe" if unsafe else "model-damaged",
        hint="register a version without these files (weights as GGUF or safetensors, no code)"
        if unsafe
        else "register the model again from its source",
    )


def _unsafe(version: ModelVersion, folder: Path) -> Iterator[str]:
    for file in version.files:
        suffix = Path(file.path).suffix.lower()
        path = folder / file.path
        if suffix in _CODE_SUFFIXES:
            yield f"{file.path} is code"
        elif path.is_file() and _is_pickle(path):
            yield f"{file.path} is a pickle: loading it would run what it says"


def _damaged(version: ModelVersion, folder: Path) -> Iterator[str]:
    if not version.files:
        yield "it has no files"
    for file in version.files:
        path = folder / file.path
        problem = _different(path, file.sha256, file.size_bytes) or _malformed(path)
        if problem:
            yield f"{file.path}: {problem}"
    template = {file.path: file.sha256 for file in version.files}.get(_CHAT_TEMPLATE, "")
    if template != version.chat_template_sha256:
        yield "the chat template is not the one that was registered"


def _different(path: Path, sha256: str, size_bytes: int) -> str:
    if not path.is_file():
        return "it is missing"
    if not sha256:
        return "it has no checksum"
    size = path.stat().st_size
    if size != size_bytes:
        return f"{size} bytes, {size_bytes} were registered"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    got = digest.hexdigest()
    return "" if got == sha256 else f"sha256 {got}, {sha256} was registered"


def _malformed(path: Path) -> str:
    match path.suffix.lower():
        case ".gguf":
            return _gguf_problem(path)
        case ".safetensors":
            return _safetensors_problem(path)
        case ".jinja":
            return _template_problem(path)
        case ".json":
            return _json_problem(path)
        case _:
            return ""


def _gguf_problem(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != _GGUF_MAGIC:
        return f"it begins with {head[:4]!r}, GGUF files with {_GGUF_MAGIC!r}"
    number = int.from_bytes(head[4:8], "little")
    return "" if number in _GGUF_VERSIONS else f"GGUF version {number} is not known"


def _safetensors_problem(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(_MAX_SAFETENSORS_HEADER_BYTES, size - 8):
            return f"its header would be {length} bytes long"
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            return f"its header is not JSON: {error}"
    if not isinstance(header, dict):
        return "its header is not an object"
    tensors = [item for name, item in header.items() if name != "__metadata__"]
    try:
        end = max((item["data_offsets"][1] for item in tensors), default=0)
    except (KeyError, IndexError, TypeError):
        return "its header does not say where the tensors lie"
    held = size - 8 - length
    return "" if end == held else f"its tensors take {end} bytes, the file holds {held}"


def _template_problem(path: Path) -> str:
    # Jinja is what servers render chat templates with; parsing runs nothing of a template.
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        extensions=["jinja2.ext.loopcontrols"], autoescape=False
    )
    try:
        # `generation` marks the model's part for training; servers add the tag and render its body.
        environment.parse(_GENERATION_TAG.sub("", path.read_text()))
    except (TemplateSyntaxError, UnicodeDecodeError) as error:
        return f"the template does not parse: {error}"
    return ""


def _json_problem(path: Path) -> str:
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        return f"it is not JSON: {error}"
    return ""


def _is_pickle(path: Path) -> bool:
    """Whether the file is, or holds, something `pickle.load` would run."""
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == _PICKLE_PROTOCOL and head[1:] and head[1] in _PICKLE_PROTOCOLS:
        return True
    # PyTorch and NumPy archives are ZIP files with pickles inside; old ones have no protocol mark.
    if zipfile.is_zipfile(path):
        return True
    return path.suffix.lower() in _PICKLE_SUFFIXES
