"""Small objects of a repository: JSON, and below it its sha256, so that a flipped bit is noticed.

Much hangs on them: who misreads a list of what is condemned names what is about to go. What does
not fit is read again, for a bit may have flipped on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

from slipway.core.errors import PermanentError
from slipway.core.strict_json import UnfitJsonError, read_stored, to_json
from slipway.ports.backups import BackupStore

TRIES = 5

_Value = TypeVar("_Value")


def with_sum(text: bytes) -> bytes:
    """Return what is stored for a text of one line."""
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


def without_sum(stored: bytes) -> bytes | None:
    """Return the text that was stored; None when it is not what its sum says."""
    text, _, _ = stored.partition(b"\n")
    return text if stored == with_sum(text) else None


def get_if_there(store: BackupStore, key: str) -> bytes | None:
    """Return an object's bytes; None when there is none.

    Raises:
        SlipwayError: of the store.
    """
    try:
        return store.get(key)
    except PermanentError as error:
        if error.code != "object-missing":
            raise
        return None


def get_until(
    get: Callable[[], bytes | None], is_right: Callable[[bytes], bool]
) -> tuple[bytes | None, bool]:
    """Read until what comes is right, some five times; return what came last, and whether it is.

    Args:
        get: reads once; None when there is nothing.
        is_right: of what came.
    """
    stored = None
    for _ in range(TRIES):
        stored = get()
        if stored is None or is_right(stored):
            return stored, True
    return stored, False


def to_stored(value: Any) -> bytes:
    """Return what is stored for a frozen dataclass."""
    return with_sum(to_json(value).encode())


class DamagedValueError(PermanentError):
    """What is stored is not what was written; code `repository-damaged`."""


def read_value(store: BackupStore, kind: type[_Value], key: str, place: str) -> _Value | None:
    """Return the value under a key; None when there is none.

    Raises:
        DamagedValueError: it has another sha256 than it states.
        PermanentError: `repository-damaged`, it is whole and states something else.
        SlipwayError: of the store.
    """
    stored, is_right = get_until(
        lambda: get_if_there(store, key), lambda found: without_sum(found) is not None
    )
    if stored is None:
        return None
    if not is_right:
        raise _damaged(DamagedValueError, key, place, "it has another sha256 than it states")
    try:
        value: _Value = read_stored(kind, without_sum(stored) or b"", key)
    except UnfitJsonError as error:
        raise _damaged(PermanentError, key, place, str(error)) from error
    return value


def _damaged(kind: type[PermanentError], key: str, place: str, how: str) -> PermanentError:
    return kind(
        f"{key} of {place} is damaged: {how}",
        code="repository-damaged",
        hint="look at the object; when nothing runs in the repository it may be removed",
    )
