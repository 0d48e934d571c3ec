"""Whether the files of a model fit together: tensors against what its configuration states.

Sums say that files are what they were. This says that they are a model: no shard is missing, no
layer, and the tables are as wide as the configuration has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slipway.backup.formats import gguf, safetensors
from slipway.core.errors import PermanentError

_INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blk)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte)\.weight$")

Shapes = Mapping[str, tuple[int, ...]]


def check_shapes(folder: Path) -> int:
    """Return how many tensors were looked at; files of other formats say nothing and are left.

    Raises:
        PermanentError: `model-damaged`, with every problem that was found.
    """
    problems, count = list[str](), 0
    shards = {path: _shapes_of(path) for path in sorted(folder.glob("*.safetensors"))}
    if shards:
        count += sum(map(len, shards.values()))
        problems += _of_index(folder, shards)
        config = _json(folder / _CONFIG)
        together = {name: shape for shapes in shards.values() for name, shape in shapes.items()}
        problems += _of_config(
            together,
            layers=config.get("num_hidden_layers"),
            width=config.get("hidden_size"),
            vocabulary=config.get("vocab_size"),
        )
    for path in sorted(folder.glob("*.gguf")):
        with path.open("rb") as file:
            found = gguf.contents(file)
        if found is not None:
            count += len(found.shapes)
            problems += [f"{path.name}: {problem}" for problem in _of_gguf(found)]
    if problems:
        raise PermanentError(
            f"the files in {folder} are no whole model: {'; '.join(problems)}",
            code="model-damaged",
            hint="register the model again from its source",
        )
    return count


def _shapes_of(path: Path) -> Shapes:
    with path.open("rb") as file:
        header = safetensors.read_header(file, path.stat().st_size)
    content = header[1] if header else {}
    return {
        name: tuple(tensor["shape"])
        for name, tensor in content.items()
        if name != "__metadata__" and isinstance(tensor, dict) and _is_shape(tensor.get("shape"))
    }


def _is_shape(stated: Any) -> bool:
    return isinstance(stated, list) and all(type(item) is int for item in stated)


def _of_index(folder: Path, shards: Mapping[Path, Shapes]) -> Iterator[str]:
    stated = _json(folder / _INDEX).get("weight_map", {})
    if not isinstance(stated, dict):
        yield f"{_INDEX} does not say which file has which tensor"
        return
    for name, file in stated.items():
        if name not in shards.get(folder / str(file), {}):
            yield f"{_INDEX} has tensor {name} in {file}, which does not"


def _of_config(shapes: Shapes, *, layers: Any, width: Any, vocabulary: Any) -> Iterator[str]:
    """Compare with what is stated; what is not stated as a number says nothing."""
    there = {int(found[1]) for name in shapes if (found := _LAYER.search(name))}
    if isinstance(layers, int) and there:
        missing = sorted(set(range(layers)) - there)
        if missing:
            yield f"of {layers} layers these have no tensor: {', '.join(map(str, missing[:5]))}"
    for name, shape in shapes.items():
        if not _EMBEDDING.search(name) or len(shape) != 2:
            continue
        if isinstance(width, int) and shape[1] != width:
            yield f"{name} is {shape[1]} wide, {width} is stated"
        if isinstance(vocabulary, int) and shape[0] < vocabulary:
            yield f"{name} has {shape[0]} rows, {vocabulary} tokens are stated"


def _of_gguf(found: gguf.Contents) -> Iterator[str]:
    family = found.texts.get("general.architecture", "")
    # Dimensions are written the other way round (docs/gguf.md of ggml).
    turned = {name: shape[::-1] for name, shape in found.shapes.items()}
    renamed = {name.replace("token_embd", "embed_tokens"): turned[name] for name in turned}
    yield from _of_config(
        renamed,
        layers=found.numbers.get(f"{family}.block_count"),
        width=found.numbers.get(f"{family}.embedding_length"),
        vocabulary=found.numbers.get(f"{family}.vocab_size"),
    )


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise PermanentError(
            f"{path} is not JSON: {error}",
            code="model-damaged",
            hint="register the model again from its source",
        ) from error
    return found if isinstance(found, dict) else {}
