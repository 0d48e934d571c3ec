"""Files that are what they were, and are no model: a shard, a layer or a row is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipway.backup.shapes import check_shapes
from slipway.core.errors import PermanentError
from tests.unit.model_files import gguf


def shard(path: Path, **shapes: tuple[int, ...]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 2
        for one in shape:
            size *= one
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {"num_hidden_layers": 2, "hidden_size": 4, "vocab_size": 10}
    (tmp_path / "config.json").write_text(json.dumps(config))
    first = {"model.embed_tokens.weight": (10, 4), "model.layers.0.mlp.weight": (4, 4)}
    second = {"model.layers.1.mlp.weight": (4, 4), "model.norm.weight": (4,)}
    shard(tmp_path / "a.safetensors", **first)
    shard(tmp_path / "b.safetensors", **second)
    where = dict.fromkeys(first, "a.safetensors") | dict.fromkeys(second, "b.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return tmp_path


def problem(folder: Path) -> str:
    with pytest.raises(PermanentError) as caught:
        check_shapes(folder)
    assert caught.value.code == "model-damaged"
    return caught.value.message


def test_whole_model_is_looked_at(folder: Path) -> None:
    assert check_shapes(folder) == 4


def test_missing_shard_is_named_by_its_tensors(folder: Path) -> None:
    (folder / "b.safetensors").unlink()
    said = problem(folder)
    assert "has tensor model.norm.weight in b.safetensors, which does not" in said
    assert "of 2 layers these have no tensor: 1" in said


@pytest.mark.parametrize(
    ("shape", "said"),
    [((10, 8), "is 8 wide, 4 is stated"), ((9, 4), "has 9 rows, 10 tokens are stated")],
)
def test_table_of_another_size_is_named(folder: Path, shape: tuple[int, int], said: str) -> None:
    layer = {"model.layers.0.mlp.weight": (4, 4)}
    shard(folder / "a.safetensors", **{"model.embed_tokens.weight": shape}, **layer)
    assert said in problem(folder)


def test_notes_that_are_none_are_named(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": []}')
    assert "does not say which file has which tensor" in problem(folder)
    index.write_text("{")
    assert "is not JSON" in problem(folder)


def test_padded_table_more_layers_and_other_names_are_no_problem(folder: Path) -> None:
    names = {"model.embed_tokens.weight": (12, 4), "model.layers.0.mlp.weight": (4, 4)}
    shard(folder / "a.safetensors", **names)
    further = {"model.layers.1.mlp.weight": (4, 4), "model.norm.weight": (4,)}
    shard(folder / "b.safetensors", **further, **{"model.layers.2.mtp.weight": (1,)})
    check_shapes(folder)
    (folder / "config.json").write_text("[]")
    check_shapes(folder)


def test_gguf_is_held_against_its_own_numbers(tmp_path: Path) -> None:
    stated = {"block_count": 2, "embedding_length": 4, "vocab_size": 10}
    layers = {f"blk.{number}.attn.weight": bytes(40) for number in range(2)}
    whole = {"token_embd.weight": bytes(40), **layers}
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf(whole, numbers=stated, rows=10))
    assert check_shapes(tmp_path) == 3
    file.write_bytes(gguf(whole, numbers={**stated, "block_count": 3}, rows=10))
    assert "model.gguf: of 3 layers these have no tensor: 2" in problem(tmp_path)
    file.write_bytes(gguf(whole, numbers={**stated, "embedding_length": 5}, rows=10))
    assert "is 4 wide, 5 is stated" in problem(tmp_path)
    file.write_bytes(gguf(whole, rows=10))
    assert check_shapes(tmp_path) == 3


def test_folder_without_weights_that_say_their_shapes_is_left(tmp_path: Path) -> None:
    (tmp_path / "simulated.json").write_text("{}")
    (tmp_path / "odd.gguf").write_bytes(b"GGUF" + bytes(3))
    assert check_shapes(tmp_path) == 0
