"""GGUF: key-values and tensor infos, then the tensors, each at a multiple of the alignment.

Source: docs/gguf.md of https://github.com/ggml-org/ggml. Sizes are not stated: a tensor reaches to
the next one, with the padding between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from slipway.core.backup.cuts import Part

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_ALIGNMENT_KEY = "general.alignment"
_STRING, _ARRAY = 8, 9
_WHOLE = frozenset({0, 2, 4, 10})
"""Types of numbers without a sign."""

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value → its bytes."""
_MAX_TEXT_BYTES = 64 << 20
_MAX_COUNT = 1 << 24
_MAX_DEPTH = 4


class _NoGgufError(ValueError):
    """It says what a GGUF file cannot say."""


@dataclass(frozen=True)
class _Reader:
    file: BinaryIO

    def take(self, count: int) -> bytes:
        found = self.file.read(count)
        if len(found) != count:
            raise _NoGgufError("it ends too early")
        return found

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def count(self) -> int:
        found = self.number(8)
        if found > _MAX_COUNT:
            raise _NoGgufError("a count is too large")
        return found

    def text(self) -> bytes:
        length = self.number(8)
        if length > _MAX_TEXT_BYTES:
            raise _NoGgufError("a text is too long")
        return self.take(length)

    def value(self, kind: int, depth: int = 0) -> Any:
        """Return a number; everything else is passed over."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(depth)
        if kind not in _WIDTHS:
            raise _NoGgufError("an unknown type of value")
        return self.number(_WIDTHS[kind])

    def _array(self, depth: int) -> None:
        kind, count = self.number(4), self.count()
        if kind in _WIDTHS:
            self.file.seek(count * _WIDTHS[kind], 1)
            return
        if depth == _MAX_DEPTH:
            raise _NoGgufError("arrays too deep")
        for _ in range(count):
            self.value(kind, depth + 1)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a header says of the model.

    Args:
        numbers: key → value, of those that are whole numbers.
        texts: key → value.
        shapes: tensor → its dimensions, the one that changes fastest first.
        offsets: of the tensors, from where the first may begin.
        start_bytes: where that is.
    """

    numbers: Mapping[str, int]
    texts: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    offsets: tuple[tuple[int, str], ...]
    start_bytes: int


def contents(file: BinaryIO) -> Contents | None:
    """Return what the header says; None when it is no such file."""
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        return None
    try:
        return _contents(_Reader(file))
    except _NoGgufError:
        return None


def parts(file: BinaryIO, size_bytes: int) -> tuple[Part, ...]:
    """Return header and tensors; none when it is no such file."""
    header = contents(file)
    if header is None:
        return ()
    tensors, start = sorted(header.offsets), header.start_bytes
    ends = [*(offset for offset, _ in tensors[1:]), size_bytes - start]
    found = [Part(name="", offset_bytes=0, size_bytes=start, alone=True)]
    for (offset, name), end in zip(tensors, ends, strict=True) if tensors else ():
        found.append(Part(name=name, offset_bytes=start + offset, size_bytes=end - offset))
    return tuple(found)


def _contents(reader: _Reader) -> Contents:
    if reader.number(4) not in _VERSIONS:
        raise _NoGgufError("an unknown version")
    tensors, pairs = reader.count(), reader.count()
    numbers, texts = dict[str, int](), dict[str, str]()
    for _ in range(pairs):
        key, kind = reader.text().decode(errors="replace"), reader.number(4)
        value = reader.value(kind)
        if kind in _WHOLE:
            numbers[key] = value
        elif kind == _STRING:
            texts[key] = value.decode(errors="replace")
    alignment = numbers.get(_ALIGNMENT_KEY, _ALIGNMENT)
    if alignment < 1:
        raise _NoGgufError("an alignment of nothing")
    infos = list(_tensor_infos(reader, tensors))
    return Contents(
        numbers=numbers,
        texts=texts,
        shapes={name: shape for _, name, shape in infos},
        offsets=tuple((offset, name) for offset, name, _ in infos),
        start_bytes=-(-reader.file.tell() // alignment) * alignment,
    )


def _tensor_infos(reader: _Reader, count: int) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    for _ in range(count):
        name = reader.text().decode(errors="replace")
        dimensions = reader.number(4)
        if dimensions > _MAX_DEPTH:
            raise _NoGgufError("too many dimensions")
        shape = tuple(reader.number(8) for _ in range(dimensions))
        reader.take(4)  # its type
        yield reader.number(8), name, shape
