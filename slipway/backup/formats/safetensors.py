"""safetensors: the length of a JSON header, the header, the tensors.

Source: the format's own README (https://github.com/huggingface/safetensors#format): 8 bytes little
endian, the header of so many bytes, at most 100 MB, then the buffer that `data_offsets` count in.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from slipway.core.backup.cuts import Part

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000


def parts(file: BinaryIO, size_bytes: int) -> tuple[Part, ...]:
    """Return header and tensors; none when it is no such file."""
    header = read_header(file, size_bytes)
    if header is None:
        return ()
    length, content = header
    start = LENGTH_BYTES + length
    found = [Part(name="", offset_bytes=0, size_bytes=start, alone=True)]
    for name, tensor in content.items():
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if name == "__metadata__":
            continue
        if not isinstance(offsets, list) or not _is_range(offsets):
            return ()
        first, end = offsets
        found.append(Part(name=name, offset_bytes=start + first, size_bytes=end - first))
    return tuple(sorted(found, key=lambda part: (part.offset_bytes, part.size_bytes)))


def read_header(file: BinaryIO, size_bytes: int) -> tuple[int, dict[str, Any]] | None:
    """Return the header's length in bytes and its content; None when there is none."""
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - LENGTH_BYTES):
        return None
    text = file.read(length)
    if not text.startswith(b"{"):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return length, content


def _is_range(offsets: list[Any]) -> bool:
    return (
        len(offsets) == 2
        and all(type(item) is int for item in offsets)
        and 0 <= offsets[0] <= offsets[1]
    )
