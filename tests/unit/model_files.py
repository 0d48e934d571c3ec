"""Files of models as the libraries write them, byte by byte."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping


def safetensors(tensors: Mapping[str, bytes]) -> bytes:
    """Return a file of these tensors, in their order."""
    header, at = {}, 0
    for name, content in tensors.items():
        offsets = [at, at + len(content)]
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": offsets}
        at += len(content)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


def gguf(
    tensors: Mapping[str, bytes],
    *,
    alignment: int = 32,
    version: int = 3,
    numbers: Mapping[str, int] | None = None,
    rows: int = 1,
) -> bytes:
    """Return a file of these tensors with some key-values before them.

    Args:
        tensors: by name.
        alignment: of each.
        version: of the format.
        numbers: further key-values, of the family `toy`.
        rows: of each tensor.
    """

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    words = struct.pack("<IQ", 8, 2) + text(b"a") + text(b"bc")
    pairs = [
        text(b"general.alignment") + struct.pack("<II", 4, alignment),
        text(b"general.name") + struct.pack("<I", 8) + text(b"toy"),
        text(b"tokens") + struct.pack("<I", 9) + words,
        text(b"scores") + struct.pack("<IIQ", 9, 6, 3) + bytes(12),
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"toy"),
        *(
            text(f"toy.{key}".encode()) + struct.pack("<II", 4, value)
            for key, value in (numbers or {}).items()
        ),
    ]
    infos, data = b"", b""
    for name, content in tensors.items():
        shape = struct.pack("<IQQ", 2, len(content) // rows, rows)
        infos += text(name.encode()) + shape + struct.pack("<IQ", 0, len(data))
        data += content + bytes(-len(content) % alignment)
    counts = struct.pack("<IQQ", version, len(tensors), len(pairs))
    head = b"GGUF" + counts + b"".join(pairs) + infos
    return head + bytes(-len(head) % alignment) + data


def torch_archive(tensors: Mapping[str, bytes]) -> bytes:
    """Return a zip file of these tensors, stored as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in tensors.items():
            archive.writestr(zipfile.ZipInfo(f"archive/data/{name}"), content)
    return file.getvalue()
