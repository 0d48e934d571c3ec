"""A model of gigabytes and what becomes of it: tuned, with a tensor more, in other shards."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

_SHARDS = 4
_LAYERS = 20
_PER_LAYER = 12
_TUNED = 12
"""Tensors that fine-tuning changes, of 240: 5 %."""


def tensors(gigabytes: float, seed: int = 1) -> dict[str, tuple[int, int]]:
    """Return tensors by name, each a seed and a size in bytes; they make up the size together."""
    share = int(gigabytes * 1e9 / (_LAYERS * _PER_LAYER))
    rng = random.Random(seed)
    found = {}
    for layer in range(_LAYERS):
        for place in range(_PER_LAYER):
            size = int(share * rng.uniform(0.5, 1.5)) & ~1
            found[f"model.layers.{layer}.part{place}.weight"] = (rng.getrandbits(32), size)
    return found


def tuned(base: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return a version of which 5 % of the tensors have other values of the same size."""
    rng = random.Random(7)
    changed = set(rng.sample(sorted(base), _TUNED))
    return {
        name: ((seed ^ 0x5EED, size) if name in changed else (seed, size))
        for name, (seed, size) in base.items()
    }


def inserted(base: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return a version with one tensor more near the beginning: everything behind it moves."""
    size = min(size for _, size in base.values())
    return {"model.layers.0.added.weight": (99, size), **base}


def write(folder: Path, content: Mapping[str, tuple[int, int]], shards: int = _SHARDS) -> None:
    """Write a version as safetensors with its small files, in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = sorted(content)
    per_shard = -(-len(names) // shards)
    for shard in range(shards):
        part = names[shard * per_shard : (shard + 1) * per_shard]
        _write_shard(folder / f"model-{shard + 1:05}-of-{shards:05}.safetensors", part, content)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": _LAYERS}))
    (folder / "tokenizer.json").write_bytes(random.Random(3).randbytes(2_000_000))
    os.sync()


def _write_shard(path: Path, names: Iterable[str], content: Mapping[str, tuple[int, int]]) -> None:
    header, at = {}, 0
    for name in names:
        size = content[name][1]
        header[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            seed, size = content[name]
            file.write(random.Random(seed).randbytes(size))


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def same(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    if names != {path.relative_to(other) for path in other.rglob("*") if path.is_file()}:
        return False
    return all(_equal(one / name, other / name) for name in names)


def _equal(one: Path, other: Path) -> bool:
    with one.open("rb") as mine, other.open("rb") as theirs:
        while True:
            left, right = mine.read(1 << 20), theirs.read(1 << 20)
            if left != right:
                return False
            if not left:
                return True
