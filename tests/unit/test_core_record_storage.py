from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.core.errors import PermanentError
from slipway.core.release.record import Phase, StageVerdict, with_candidate, with_verdict
from slipway.core.release.storage import from_storage, to_storage
from slipway.core.service import Strategy
from slipway.core.verdicts import Verdict
from tests.examples import IMAGE, advanced, record


def stored(**changes: Any) -> str:
    fields = json.loads(to_storage(record()))
    return json.dumps({**fields, **changes})


def test_record_comes_back_as_it_was_stored() -> None:
    verdict = StageVerdict(stage="tested", verdict=Verdict.PASS, reasons=("good", "fast"))
    whole = with_verdict(with_candidate(advanced(record(), Phase.BUILT), image=IMAGE), verdict)

    assert from_storage(to_storage(whole)) == whole


def test_stored_text_is_canonical() -> None:
    text = to_storage(record())

    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_field_with_a_default_may_be_missing() -> None:
    fields = json.loads(to_storage(record()))
    del fields["failure_code"]
    del fields["digests"]["chat_template"]

    assert from_storage(json.dumps(fields)) == record()


@pytest.mark.parametrize(("phase", "weight"), [("ramping", 0), ("promoted", 100), ("done", 100)])
def test_record_of_schema_1_is_read_with_what_it_did_not_know(phase: str, weight: int) -> None:
    fields = json.loads(stored(schema_version=1, phase=phase))
    for unknown in ("fence", "strategy", "steps", "weight_percent", "hold", "approvals"):
        del fields[unknown]

    found = from_storage(json.dumps(fields))

    assert (found.schema_version, found.phase, found.weight_percent) == (2, phase, weight)
    assert (found.strategy, found.steps, found.hold) == (Strategy.BLUE_GREEN, (), None)


@pytest.mark.parametrize("version", [3, 0, "1", None, True, [1]])
def test_schema_of_another_slipway_is_left_alone(version: object) -> None:
    with pytest.raises(PermanentError, match="schema version") as caught:
        from_storage(stored(schema_version=version))

    assert caught.value.code == "record-schema-unknown"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no JSON object"),
        (stored(unheard_of=1), "record has unknown fields: unheard_of"),
        (stored(phase="flying"), "record.phase is 'flying', none of requested, built"),
        (stored(phase=["done"]), "record.phase is"),
        (stored(service=None), "record.service must be str, not NoneType"),
        (stored(sequence=True), "record.sequence must be int, not bool"),
        (stored(sequence=1.0), "record.sequence must be int, not float"),
        (stored(stable="red"), "record.stable is 'red'"),
        (stored(slots={}), "record.slots must be a list"),
        (stored(slots=[]), "must hold each slot once"),
        (stored(digests=[]), "record.digests must be an object"),
        (stored(digests={"image": 5}), "record.digests.image must be str"),
        (stored(history=[{"phase": "done", "reason": ""}]), r"record.history\[0\] lacks: at_ns"),
        (stored(tested_pod_uids=["a", 1]), r"record.tested_pod_uids\[1\] must be str"),
        ('{"schema_version": 2}', "record lacks: candidate, model"),
    ],
)
def test_damaged_record_is_refused_and_says_where(text: str, problem: str) -> None:
    with pytest.raises(PermanentError, match=problem) as caught:
        from_storage(text)

    assert caught.value.code == "record-damaged"
    assert "never overwritten" in caught.value.hint


def test_slots_named_twice_are_refused() -> None:
    blue = json.loads(to_storage(record()))["slots"][0]

    with pytest.raises(PermanentError, match="each slot once"):
        from_storage(stored(slots=[blue, blue]))
