"""Where the tensors of a file lie, by the file's own header; no tensor is read."""

from __future__ import annotations

from typing import BinaryIO

from slipway.backup.formats import gguf, safetensors, zipped
from slipway.core.backup.cuts import Part, fits

_READERS = (safetensors.parts, gguf.parts, lambda file, _: zipped.parts(file))


def parts_of(file: BinaryIO, size_bytes: int) -> tuple[Part, ...]:
    """Return the parts of a file in the order of their offsets; none when its format is unknown.

    A header that says what cannot be is no error: a backup keeps what is there, cut at fixed
    places.

    Args:
        file: open for reading, anywhere.
        size_bytes: of the file.
    """
    for reader in _READERS:
        found = reader(file, size_bytes)
        if found and fits(found, size_bytes):
            return found
    return ()
