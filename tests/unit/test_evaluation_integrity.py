"""Files of a model version: right bytes, right formats, nothing that runs."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest

from slipway.core.errors import PermanentError
from slipway.evaluation.integrity import check_integrity, weights_digest
from slipway.ports.models import ModelFile, ModelVersion

GGUF = b"GGUF" + (3).to_bytes(4, "little") + b"\0" * 16


def safetensors(header: object, data: bytes = b"\0" * 4) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


TENSOR = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def archive() -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps([1]))
    return body.getvalue()


def version_of(folder: Path, files: dict[str, bytes]) -> ModelVersion:
    made = []
    for path, body in sorted(files.items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
        digest = hashlib.sha256(body).hexdigest()
        made.append(ModelFile(path=path, sha256=digest, size_bytes=len(body)))
    template = files.get("chat_template.jinja")
    return ModelVersion(
        model="m",
        version="3",
        source="s",
        files=tuple(made),
        chat_template_sha256=hashlib.sha256(template).hexdigest() if template else "",
    )


GOOD = {
    "model.gguf": GGUF,
    "deep/model.safetensors": safetensors(
        {"__metadata__": {"a": "b"}, **TENSOR, "v": {"data_offsets": [4, 8]}}, b"\0" * 8
    ),
    "chat_template.jinja": b"{% for m in messages %}{%- generation -%}{{ m }}"
    b"{% endgeneration %}{% break %}{% endfor %}",
    "simulated.json": b'{"ttft_ms": 5}',
    "tokenizer.model": b"anything",
    "empty.txt": b"",
}


def test_a_sound_version_passes(tmp_path: Path) -> None:
    check_integrity(version_of(tmp_path, GOOD), tmp_path)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("model.gguf", b"GGML" + GGUF[4:], "GGUF files with"),
        ("model.gguf", b"", "GGUF files with"),
        ("model.gguf", b"GGUF" + (99).to_bytes(4, "little"), "version 99"),
        ("a.safetensors", b"", "header would be"),
        ("a.safetensors", safetensors(b"x" * 4)[:9], "header would be"),
        ("a.safetensors", safetensors(b"not json"), "not JSON"),
        ("a.safetensors", safetensors([1]), "not an object"),
        ("a.safetensors", safetensors({"w": {}}), "where the tensors lie"),
        ("a.safetensors", safetensors(TENSOR, b""), "the file holds 0"),
        ("a.safetensors", safetensors(TENSOR, b"\0" * 9), "the file holds 9"),
        ("chat_template.jinja", b"{% for %}", "does not parse"),
        ("chat_template.jinja", b"\xff\xfe", "does not parse"),
        ("simulated.json", b"{", "not JSON"),
    ],
)
def test_a_malformed_file_is_damage(tmp_path: Path, path: str, body: bytes, said: str) -> None:
    version = version_of(tmp_path, {**GOOD, path: body})
    with pytest.raises(PermanentError, match=said) as caught:
        check_integrity(version, tmp_path)
    assert caught.value.code == "model-damaged"
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("weights.pkl", b"old pickle without a mark"),
        ("pytorch_model.bin", archive()),
        ("innocent.txt", pickle.dumps({"a": 1})),
        ("innocent.model", archive()),
        ("modeling.py", b"print(1)"),
        ("lib.so", b"\x7fELF"),
    ],
)
def test_code_or_a_pickle_is_unsafe_under_any_name(tmp_path: Path, path: str, body: bytes) -> None:
    with pytest.raises(PermanentError, match=path) as caught:
        check_integrity(version_of(tmp_path, {**GOOD, path: body}), tmp_path)
    assert caught.value.code == "model-unsafe"


def test_changed_missing_and_unsummed_files_are_all_named_at_once(tmp_path: Path) -> None:
    version = version_of(tmp_path, {**GOOD, "a": b"1", "b": b"2", "c": b"3", "d": b"4"})
    (tmp_path / "a").write_bytes(b"9")
    (tmp_path / "b").unlink()
    (tmp_path / "c").write_bytes(b"longer")
    files = tuple(
        ModelFile(path="d", sha256="", size_bytes=1) if file.path == "d" else file
        for file in version.files
    )
    version = ModelVersion(
        model="m",
        version="3",
        source="s",
        files=files,
        chat_template_sha256=version.chat_template_sha256,
    )
    with pytest.raises(PermanentError) as caught:
        check_integrity(version, tmp_path)
    for said in ("a: sha256", "b: it is missing", "c: 6 bytes, 1 were", "d: it has no checksum"):
        assert said in str(caught.value)


def test_a_version_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="no files"):
        check_integrity(version_of(tmp_path, {}), tmp_path)


def test_another_chat_template_than_registered_is_refused(tmp_path: Path) -> None:
    whole = version_of(tmp_path, GOOD)
    other = ModelVersion(model="m", version="3", source="s", files=whole.files)
    with pytest.raises(PermanentError, match="chat template"):
        check_integrity(other, tmp_path)


def test_the_weights_digest_depends_on_every_path_and_checksum(tmp_path: Path) -> None:
    base = weights_digest(version_of(tmp_path, {"a": b"1", "b": b"2"}))
    assert base == weights_digest(version_of(tmp_path, {"b": b"2", "a": b"1"}))
    assert base != weights_digest(version_of(tmp_path, {"a": b"1", "c": b"2"}))
    assert base != weights_digest(version_of(tmp_path, {"a": b"1", "b": b"3"}))
