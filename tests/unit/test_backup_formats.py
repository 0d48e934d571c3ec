from __future__ import annotations

import io
import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.backup.formats import parts_of
from slipway.core.backup.cuts import CutRules, fits, pieces
from tests.unit.model_files import gguf, safetensors, torch_archive

RULES = CutRules(chunk_bytes=1_000, group_below_bytes=100)
TENSORS = {
    "blk.0.attn": bytes(range(256)) * 5,
    "blk.0.norm": b"n" * 64,
    "blk.1.attn": b"q" * 777,
    "output": b"o" * 300,
}
Making = Callable[[Mapping[str, bytes]], bytes]


def parts(content: bytes) -> list[tuple[str, bytes]]:
    found = parts_of(io.BytesIO(content), len(content))
    return [(part.name, content[part.offset_bytes : part.end_bytes]) for part in found]


def chunks(content: bytes) -> set[bytes]:
    cut = pieces(parts_of(io.BytesIO(content), len(content)), len(content), RULES)
    return {content[item.offset_bytes : item.offset_bytes + item.size_bytes] for item in cut}


@pytest.mark.parametrize("make", [safetensors, gguf, torch_archive])
def test_each_tensor_is_found_where_it_lies(make: Making) -> None:
    found = {name.rpartition("/")[2]: content for name, content in parts(make(TENSORS))}
    for name, content in TENSORS.items():
        assert found[name].rstrip(b"\0") == content.rstrip(b"\0")


@pytest.mark.parametrize("make", [safetensors, gguf, torch_archive])
def test_inserted_tensor_leaves_the_chunks_of_the_others(make: Making) -> None:
    before, after = chunks(make(TENSORS)), chunks(make({"new": b"x" * 512, **TENSORS}))
    large = {item for item in before if len(item) > 256}
    assert sum(len(item) for item in large - after) <= 1_000  # at most the header


def test_tensors_in_another_file_are_the_same_chunks() -> None:
    names = list(TENSORS)
    whole = chunks(safetensors(TENSORS))
    shards = chunks(safetensors({name: TENSORS[name] for name in names[:2]})) | chunks(
        safetensors({name: TENSORS[name] for name in names[2:]})
    )
    assert len(shards - whole) == 2  # their headers


def _with_header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(100)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        struct.pack("<Q", 10**9) + b"{}",
        struct.pack("<Q", 4) + b"{abc",
        struct.pack("<Q", 4) + b"[12]",
        _with_header({"a": {"data_offsets": [0, 1, 2]}}),
        _with_header({"a": {"data_offsets": [5, 1]}}),
        _with_header({"a": {"data_offsets": "0-5"}}),
        _with_header({"a": 3}),
        _with_header({"a": {"data_offsets": [0, 10_000]}}),
        _with_header({"a": {"data_offsets": [0, 60]}, "b": {"data_offsets": [30, 90]}}),
        b"GGUF",
        gguf(TENSORS, version=99),
        gguf(TENSORS)[:60],
        gguf(TENSORS)[:300],
        gguf(TENSORS, alignment=64).replace(
            b"general.alignment\x04\0\0\0@", b"general.alignment\x04\0\0\0\0"
        ),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77),
        b"PK\x03\x04 no archive",
        torch_archive(TENSORS)[:-10],
    ],
)
def test_file_whose_header_cannot_be_is_cut_at_fixed_places(content: bytes) -> None:
    assert parts(content) == []


def test_arrays_of_arrays_without_end_are_no_gguf() -> None:
    deep = struct.pack("<IQ", 9, 1) * 50
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    assert parts(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + deep) == []


@given(st.sampled_from((safetensors, gguf, torch_archive)), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_damaged_header_is_never_an_error(make: Making, rng: Random) -> None:
    content = bytearray(make(TENSORS))
    for _ in range(rng.randint(1, 4)):
        # Where headers lie: at the beginning, and at the end of archives.
        place = rng.choice((rng.randrange(400), -rng.randint(1, 400)))
        content[place] = rng.randrange(256)
    with tempfile.TemporaryFile() as file:  # refuses what a file in memory takes
        file.write(content)
        found = parts_of(file, len(content))
    assert fits(found, len(content))


@pytest.mark.parametrize("field", [slice(-10, -6), slice(-6, -2)], ids=["size", "place"])
def test_archive_whose_directory_lies_elsewhere_is_no_error(field: slice) -> None:
    content = bytearray(torch_archive(TENSORS))
    content[field] = struct.pack("<I", 1 << 30)
    with tempfile.TemporaryFile() as file:  # unlike one in memory it seeks to no such place
        file.write(content)
        assert parts_of(file, len(content)) == ()
