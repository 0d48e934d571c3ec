"""Archives of PyTorch (`torch.save`) and other zip files: the bytes of their members.

Source: APPNOTE.TXT of PKWARE, sections 4.3.7 and 4.3.12. A member's own header may be padded, so
it is a part of its own: the bytes behind it are equal in every archive that has the same tensor.
"""

from __future__ import annotations

import zipfile
from typing import BinaryIO

from slipway.core.backup.cuts import Part

_MAGIC = b"PK\x03\x04"
_HEADER_BYTES = 30
_NAME_AT, _EXTRA_AT = 26, 28


def parts(file: BinaryIO) -> tuple[Part, ...]:
    """Return header and content of each member; none when it is no such file."""
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        return ()
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    # A later version of the format, and names that are no text: a file for fixed cuts like any.
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return ()
    found = []
    for member in members:
        if member.header_offset < 0:
            return ()
        file.seek(member.header_offset)
        header = file.read(_HEADER_BYTES)
        if len(header) != _HEADER_BYTES or not header.startswith(_MAGIC):
            return ()
        lengths = (int.from_bytes(header[at : at + 2], "little") for at in (_NAME_AT, _EXTRA_AT))
        start = member.header_offset + _HEADER_BYTES + sum(lengths)
        before = start - member.header_offset
        found.append(Part(name="", offset_bytes=member.header_offset, size_bytes=before))
        found.append(
            Part(name=member.filename, offset_bytes=start, size_bytes=member.compress_size)
        )
    return tuple(sorted(found, key=lambda part: (part.offset_bytes, part.size_bytes)))
