"""ULIDs: names that no two runs share and that sort by time (https://github.com/ulid/spec)."""

from __future__ import annotations

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_LENGTH = 26
_RANDOM_BITS = 80


def ulid(at_ns: int, random_bits: int) -> str:
    """Return a ULID.

    Args:
        at_ns: since 1970 UTC.
        random_bits: 80 of them, as an integer.
    """
    value = (at_ns // 10**6) << _RANDOM_BITS | random_bits
    return "".join(_DIGITS[value >> 5 * place & 31] for place in reversed(range(_LENGTH)))


def time_of(name: str) -> int:
    """Return when a ULID was made, in ns since 1970 UTC.

    Raises:
        ValueError: it is none.
    """
    if len(name) != _LENGTH:
        raise ValueError(f"{name!r} is no ULID")
    value = 0
    for digit in name:
        value = value << 5 | _DIGITS.index(digit)
    return (value >> _RANDOM_BITS) * 10**6
