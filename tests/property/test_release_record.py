from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.release.admission import AlreadyDone, Request, Resume, admit
from slipway.core.release.record import (
    FORWARD,
    TERMINAL,
    Digests,
    Phase,
    ReleaseRecord,
    advance,
    route_before,
)
from slipway.core.release.storage import from_storage, to_storage
from tests.examples import record
from tests.property.strategies import digests, ended_histories, records

phases = st.lists(st.sampled_from(list(Phase)), max_size=30)


@given(phases)
def test_phases_never_leave_their_order_whatever_is_asked(asked: list[Phase]) -> None:
    current = record()
    for step, phase in enumerate(asked):
        try:
            current = advance(current, phase, reason="asked", now_ns=step)
        except ConflictError:
            continue
        assert current.phase is phase

    passed = [entry.phase for entry in current.history]
    forward = [phase for phase in passed if phase in FORWARD]
    assert tuple(forward) == FORWARD[: len(forward)]
    back = passed[len(forward) :]
    assert passed == forward + back
    assert set(back) <= {Phase.ROLLING_BACK, Phase.ROLLED_BACK}
    assert back.count(Phase.ROLLED_BACK) <= 1
    assert not (back and forward[-1] in TERMINAL)


@given(records(ended_histories()), st.sampled_from(list(Phase)))
def test_ended_release_never_changes_its_phase(ended: ReleaseRecord, phase: Phase) -> None:
    assert ended.terminal
    with pytest.raises(ConflictError, match="cannot follow"):
        advance(ended, phase, reason="", now_ns=0)


@given(records(), st.sampled_from(list(Phase)))
def test_change_of_phase_clears_the_intent_and_keeps_the_past(
    before: ReleaseRecord, phase: Phase
) -> None:
    try:
        after = advance(before, phase, reason="because", now_ns=7)
    except ConflictError:
        return
    assert after.intent == ""
    assert after.history[:-1] == before.history
    # Two phases prove a weight of their own.
    kept = replace(after, phase=before.phase, weight_percent=before.weight_percent)
    assert kept == replace(before, intent="", reason="because", history=after.history)


@given(records(), st.integers(1, 99).map(str))
def test_request_starts_resumes_or_is_refused_and_never_two_at_once(
    before: ReleaseRecord, version: str
) -> None:
    request = Request(service="chat", model="chat-model", version=version)
    try:
        outcome = admit(request, before, token="fresh", fence=1, now_ns=5)
    except ConflictError:
        assert not before.terminal
        assert before.version != version
        return
    if isinstance(outcome, Resume | AlreadyDone):
        assert outcome.record == before
        assert before.version == version
        return
    assert before.terminal
    assert outcome.record.release_id != before.release_id
    assert outcome.record.sequence == before.sequence + 1
    # The new candidate is never the slot that serves users.
    assert outcome.record.stable is before.live_slot
    assert outcome.record.candidate is not before.live_slot


@given(records())
def test_route_before_a_release_never_names_its_candidate(current: ReleaseRecord) -> None:
    assert not route_before(current).names(current.candidate)


@given(records(), digests)
def test_record_comes_back_as_stored(current: ReleaseRecord, known: Digests) -> None:
    whole = replace(current, digests=known)
    text = to_storage(whole)

    assert from_storage(text) == whole
    assert to_storage(from_storage(text)) == text


@given(records(), st.data())
def test_damaged_text_is_refused_or_means_a_record(
    current: ReleaseRecord, data: st.DataObject
) -> None:
    text = to_storage(current)
    start = data.draw(st.integers(0, len(text)))
    damaged = text[:start] + data.draw(st.text(max_size=3)) + text[start + 1 :]

    try:
        found = from_storage(damaged)
    except PermanentError:
        return
    assert from_storage(to_storage(found)) == found
