"""The release record as text: canonical JSON, read back strictly.

What cannot be read is never guessed: a damaged record, or one that a newer Slipway wrote, stops the
release with an error instead of being overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from slipway.core.errors import PermanentError
from slipway.core.release.record import SCHEMA_VERSION, Phase, ReleaseRecord
from slipway.core.routing import Slot


def to_storage(record: ReleaseRecord) -> str:
    """Return the record as canonical JSON (sorted keys, no spaces), equal for equal records."""
    return json.dumps(
        asdict(record), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def from_storage(text: str) -> ReleaseRecord:
    """Return the record that `text` states.

    Fields with a default may be missing: an older Slipway of the same schema did not know them.

    Raises:
        PermanentError: code `record-schema-unknown`, written by another version of Slipway; code
            `record-damaged`, no JSON, or a field is missing, unknown or of the wrong type.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _damaged("it is no JSON object")
    schema = found.get("schema_version")
    if type(schema) is int and schema in _UPGRADES:
        found = _UPGRADES[schema](found)
    elif schema != SCHEMA_VERSION:
        raise PermanentError(
            f"the release record has schema version {schema!r}, this Slipway reads"
            f" {SCHEMA_VERSION}",
            code="record-schema-unknown",
            hint="run the Slipway that wrote it, or a newer one; the record has been left as it is",
        )
    record = _read(ReleaseRecord, found, "record")
    if sorted(item.slot for item in record.slots) != sorted(Slot):
        raise _damaged("record.slots must hold each slot once")
    checked: ReleaseRecord = record
    return checked


def _from_1(found: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 knew one strategy, and no weights but nobody and everybody."""
    everybody = found.get("phase") in {Phase.PROMOTED, Phase.BAKING, Phase.DONE}
    return {**found, "schema_version": 2, "weight_percent": 100 if everybody else 0}


_UPGRADES: Mapping[Any, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""Schema of an older Slipway → what turns its records into those of today."""


def _read(expected: Any, value: Any, path: str) -> Any:
    """Return `value` as an instance of the type `expected`; `path` names it in errors."""
    if is_dataclass(expected):
        return _read_dataclass(expected, value, path)
    origin = get_origin(expected)
    if origin is tuple:
        return _read_tuple(get_args(expected)[0], value, path)
    if origin is UnionType:
        present = next(item for item in get_args(expected) if item is not NoneType)
        return None if value is None else _read(present, value, path)
    if issubclass(expected, StrEnum):
        if value not in list(expected):
            raise _damaged(f"{path} is {value!r}, none of {', '.join(expected)}")
        return expected(value)
    # `type(…) is`, not isinstance: true is no integer here.
    if type(value) is not expected:
        raise _damaged(f"{path} must be {expected.__name__}, not {type(value).__name__}")
    return value


def _read_tuple(item: Any, value: Any, path: str) -> Any:
    if not isinstance(value, list):
        raise _damaged(f"{path} must be a list")
    return tuple(_read(item, each, f"{path}[{index}]") for index, each in enumerate(value))


def _read_dataclass(expected: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _damaged(f"{path} must be an object")
    known = fields(expected)
    unknown = value.keys() - {item.name for item in known}
    if unknown:
        raise _damaged(f"{path} has unknown fields: {', '.join(sorted(unknown))}")
    required = {item.name for item in known if item.default is MISSING}
    missing = required - value.keys()
    if missing:
        raise _damaged(f"{path} lacks: {', '.join(sorted(missing))}")
    hints = _hints(expected)
    return expected(
        **{name: _read(hints[name], each, f"{path}.{name}") for name, each in value.items()}
    )


@cache
def _hints(expected: Any) -> dict[str, Any]:
    return get_type_hints(expected)


def _damaged(what: str) -> PermanentError:
    return PermanentError(
        f"the release record is damaged: {what}",
        code="record-damaged",
        hint="restore the record from the release's evidence in the object store;"
        " it is never overwritten",
    )
