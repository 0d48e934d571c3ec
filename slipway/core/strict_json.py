"""Frozen values as canonical JSON, and back: what does not fit is refused, never guessed."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints


class UnfitJsonError(ValueError):
    """A text states no value of the type that is expected; says where it does not fit."""


class NewerFormatError(UnfitJsonError):
    """A text states that a later program wrote it.

    Args:
        found: the format that it states.
    """

    def __init__(self, found: int) -> None:
        super().__init__(f"it has format {found}")
        self.found = found


def to_json(value: Any) -> str:
    """Return a dataclass as canonical JSON (sorted keys, no spaces), equal for equal values."""
    return json.dumps(
        asdict(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object that `text` is.

    Raises:
        UnfitJsonError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnfitJsonError(f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnfitJsonError("it is no JSON object")
    return found


def read_stored(expected: Any, stored: bytes, path: str, *, known_format: int | None = None) -> Any:
    """Return stored bytes as an instance of the type `expected`; see `read_as`.

    Args:
        known_format: the latest value of the field `format` that can be read; None when there is
            no such field.

    Raises:
        NewerFormatError: they state a later format, whatever else they state.
        UnfitJsonError: they state no such value.
    """
    try:
        found = read_object(stored.decode())
    except UnicodeDecodeError as error:
        raise UnfitJsonError(f"it is no text: {error}") from error
    version = found.get("format")
    if known_format is not None and type(version) is int and version > known_format:
        raise NewerFormatError(version)
    return read_as(expected, found, path)


def read_as(expected: Any, value: Any, path: str) -> Any:
    """Return `value` as an instance of the type `expected`.

    Fields with a default may be missing: who wrote it earlier did not know them.

    Args:
        expected: a dataclass, tuple, StrEnum, plain type, or one of these or None.
        value: as JSON states it.
        path: names the value in errors.

    Raises:
        UnfitJsonError: a field is missing, unknown or of another type.
    """
    if is_dataclass(expected):
        return _read_dataclass(expected, value, path)
    origin = get_origin(expected)
    if origin is tuple:
        return _read_tuple(get_args(expected)[0], value, path)
    if origin is UnionType:
        present = next(item for item in get_args(expected) if item is not NoneType)
        return None if value is None else read_as(present, value, path)
    if issubclass(expected, StrEnum):
        if value not in list(expected):
            raise UnfitJsonError(f"{path} is {value!r}, none of {', '.join(expected)}")
        return expected(value)
    # `type(…) is`, not isinstance: true is no integer here.
    if type(value) is not expected:
        raise UnfitJsonError(f"{path} must be {expected.__name__}, not {type(value).__name__}")
    return value


def _read_tuple(item: Any, value: Any, path: str) -> Any:
    if not isinstance(value, list):
        raise UnfitJsonError(f"{path} must be a list")
    return tuple(read_as(item, each, f"{path}[{index}]") for index, each in enumerate(value))


def _read_dataclass(expected: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise UnfitJsonError(f"{path} must be an object")
    known = fields(expected)
    unknown = value.keys() - {item.name for item in known}
    if unknown:
        raise UnfitJsonError(f"{path} has unknown fields: {', '.join(sorted(unknown))}")
    required = {item.name for item in known if item.default is MISSING}
    missing = required - value.keys()
    if missing:
        raise UnfitJsonError(f"{path} lacks: {', '.join(sorted(missing))}")
    hints = _hints(expected)
    return expected(
        **{name: read_as(hints[name], each, f"{path}.{name}") for name, each in value.items()}
    )


@cache
def _hints(expected: Any) -> dict[str, Any]:
    return get_type_hints(expected)
