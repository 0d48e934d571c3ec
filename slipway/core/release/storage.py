"""The release record as text: canonical JSON, read back strictly.

What cannot be read is never guessed: a damaged record, or one that a newer Slipway wrote, stops the
release with an error instead of being overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from slipway.core.errors import PermanentError
from slipway.core.release.record import SCHEMA_VERSION, Phase, ReleaseRecord
from slipway.core.routing import Slot
from slipway.core.strict_json import UnfitJsonError, read_as, read_object, to_json


def to_storage(record: ReleaseRecord) -> str:
    """Return the record as canonical JSON (sorted keys, no spaces), equal for equal records."""
    return to_json(record)


def from_storage(text: str) -> ReleaseRecord:
    """Return the record that `text` states.

    Fields with a default may be missing: an older Slipway of the same schema did not know them.

    Raises:
        PermanentError: code `record-schema-unknown`, written by another version of Slipway; code
            `record-damaged`, no JSON, or a field is missing, unknown or of the wrong type.
    """
    try:
        return _record(read_object(text))
    except UnfitJsonError as error:
        raise _damaged(str(error)) from error


def _record(found: dict[str, Any]) -> ReleaseRecord:
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
    record: ReleaseRecord = read_as(ReleaseRecord, found, "record")
    if sorted(item.slot for item in record.slots) != sorted(Slot):
        raise UnfitJsonError("record.slots must hold each slot once")
    return record


def _from_1(found: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 knew one strategy, and no weights but nobody and everybody."""
    everybody = found.get("phase") in {Phase.PROMOTED, Phase.BAKING, Phase.DONE}
    return {**found, "schema_version": 2, "weight_percent": 100 if everybody else 0}


_UPGRADES: Mapping[Any, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""Schema of an older Slipway → what turns its records into those of today."""


def _damaged(what: str) -> PermanentError:
    return PermanentError(
        f"the release record is damaged: {what}",
        code="record-damaged",
        hint="restore the record from the release's evidence in the object store;"
        " it is never overwritten",
    )
