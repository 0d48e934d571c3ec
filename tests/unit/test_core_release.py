from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.errors import ConflictError, InputError
from slipway.core.release.admission import AlreadyDone, Request, Resume, Start, admit
from slipway.core.release.record import (
    FORWARD,
    Approval,
    Phase,
    ReleaseRecord,
    StageVerdict,
    advance,
    begin,
    go_on,
    hold,
    route_before,
    with_approval,
    with_candidate,
    with_verdict,
    with_weight,
)
from slipway.core.routing import Slot, all_to, empty
from slipway.core.service import RampStep, Strategy
from slipway.core.verdicts import Verdict
from tests.examples import IMAGE, advanced, record


def request(version: str = "1") -> Request:
    return Request(service="chat", model="chat-model", version=version)


def done(version: str = "1") -> ReleaseRecord:
    return advanced(record(version), *FORWARD[1:])


def rolled_back() -> ReleaseRecord:
    return advanced(record(), Phase.BUILT, Phase.ROLLING_BACK, Phase.ROLLED_BACK)


def admitted(version: str, before: ReleaseRecord) -> ReleaseRecord:
    started = admit(request(version), before, token="fresh", fence=1, now_ns=99)
    assert isinstance(started, Start)
    return started.record


def test_first_release_goes_to_blue_and_has_no_stable_slot() -> None:
    first = record()

    assert (first.release_id, first.phase) == ("chat-v1-1", Phase.REQUESTED)
    assert (first.candidate, first.stable) == (Slot.BLUE, None)
    assert [item.workload for item in first.slots] == ["chat-blue", "chat-green"]
    assert [(entry.phase, entry.at_ns) for entry in first.history] == [(Phase.REQUESTED, 1_000)]
    assert not first.terminal


def test_release_after_a_success_goes_to_the_other_slot() -> None:
    second = admitted("2", done("1"))

    assert (second.release_id, second.sequence) == ("chat-v2-2", 2)
    assert (second.candidate, second.stable) == (Slot.GREEN, Slot.BLUE)
    assert (second.preview_token, second.started_at_ns) == ("fresh", 99)
    assert second.slots == done("1").slots
    assert second.verdicts == ()


def test_release_after_a_rollback_keeps_the_slot_that_serves() -> None:
    second = advanced(admitted("2", done("1")), Phase.ROLLING_BACK, Phase.ROLLED_BACK)

    third = admitted("3", second)

    assert (third.candidate, third.stable) == (Slot.GREEN, Slot.BLUE)
    assert third.release_id == "chat-v3-3"


def test_release_after_a_failed_first_one_takes_the_same_slot_again() -> None:
    again = admitted("1", rolled_back())

    assert (again.candidate, again.stable) == (Slot.BLUE, None)


def test_same_version_of_an_unfinished_release_resumes_it() -> None:
    unfinished = advanced(record(), Phase.BUILT)

    outcome = admit(request("1"), unfinished, token="fresh", fence=1, now_ns=99)

    assert outcome == Resume(record=unfinished)


def test_other_version_during_an_unfinished_release_is_refused() -> None:
    with pytest.raises(ConflictError, match=r"chat-v1-1 .* unfinished") as caught:
        admit(request("2"), record(), token="fresh", fence=1, now_ns=99)

    assert caught.value.code == "release-unfinished"
    assert "slipway release chat 1" in caught.value.hint


def test_version_that_is_live_already_is_done_already() -> None:
    assert admit(request("1"), done("1"), token="x", fence=1, now_ns=9) == AlreadyDone(
        record=done("1")
    )


def test_every_phase_follows_the_one_before_it() -> None:
    current = record()
    for phase in FORWARD[1:]:
        current = advance(begin(current, "write"), phase, reason=f"to {phase}", now_ns=5)
        assert (current.phase, current.intent, current.reason) == (phase, "", f"to {phase}")
    assert current.terminal
    assert [entry.phase for entry in current.history] == list(FORWARD)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), Phase.TESTED),
        ((), Phase.REQUESTED),
        ((), Phase.ROLLED_BACK),
        ((Phase.BUILT, Phase.TESTED), Phase.BUILT),
        ((Phase.ROLLING_BACK,), Phase.BUILT),
        ((Phase.ROLLING_BACK, Phase.ROLLED_BACK), Phase.ROLLING_BACK),
        ((Phase.ROLLING_BACK, Phase.ROLLED_BACK), Phase.BUILT),
        (FORWARD[1:], Phase.ROLLING_BACK),
        (FORWARD[1:], Phase.REQUESTED),
    ],
)
def test_phase_out_of_order_is_refused(before: tuple[Phase, ...], after: Phase) -> None:
    current = advanced(record(), *before)

    with pytest.raises(ConflictError, match="cannot follow") as caught:
        advance(current, after, reason="", now_ns=9)

    assert caught.value.code == "phase-order"


@pytest.mark.parametrize("reached", range(len(FORWARD) - 1))
def test_rollback_may_begin_in_every_unfinished_phase(reached: int) -> None:
    current = advanced(record(), *FORWARD[1 : reached + 1], Phase.ROLLING_BACK, Phase.ROLLED_BACK)

    assert current.terminal


def test_rollback_that_was_interrupted_may_begin_again() -> None:
    again = advanced(record(), Phase.ROLLING_BACK, Phase.ROLLING_BACK)

    assert again.phase is Phase.ROLLING_BACK
    assert again.began_ns(Phase.ROLLING_BACK) == 2_000_000_000


def test_live_slot_is_the_candidate_from_promotion_on() -> None:
    second = admitted("2", done("1"))

    for phase in FORWARD[1:]:
        second = advanced(second, phase)
        promoted = phase in {Phase.PROMOTED, Phase.BAKING, Phase.DONE}
        assert second.live_slot is (Slot.GREEN if promoted else Slot.BLUE), phase


def test_live_slot_after_a_rollback_is_the_old_one() -> None:
    second = advanced(admitted("2", done("1")), *FORWARD[1:8], Phase.ROLLING_BACK)

    assert second.live_slot is Slot.BLUE
    assert advanced(second, Phase.ROLLED_BACK).live_slot is Slot.BLUE


def test_promotion_is_remembered_through_a_rollback() -> None:
    promoted = advanced(record(), *FORWARD[1:8])

    assert not advanced(record(), *FORWARD[1:7]).has_passed_promotion
    assert promoted.has_passed_promotion
    assert advanced(promoted, Phase.ROLLING_BACK, Phase.ROLLED_BACK).has_passed_promotion


def test_reached_phases_are_those_up_to_the_present_one() -> None:
    tested = advanced(record(), Phase.BUILT, Phase.TESTED)

    assert [phase for phase in FORWARD if tested.has_reached(phase)] == list(FORWARD[:3])


def test_release_that_rolls_back_has_reached_nothing() -> None:
    assert not advanced(record(), Phase.BUILT, Phase.ROLLING_BACK).has_reached(Phase.REQUESTED)


def test_began_is_the_time_of_the_last_entry_into_a_phase() -> None:
    tested = advanced(record(), Phase.BUILT, Phase.TESTED)

    assert tested.began_ns(Phase.REQUESTED) == 1_000
    assert tested.began_ns(Phase.TESTED) == 2_000_000_000


def test_began_of_a_phase_never_entered_is_refused() -> None:
    with pytest.raises(InputError, match="never reached baking") as caught:
        record().began_ns(Phase.BAKING)

    assert caught.value.code == "record-incomplete"


def test_candidate_slot_is_filled_and_the_other_left_alone() -> None:
    second = with_candidate(admitted("2", done("1")), image=IMAGE)

    assert second.slot(Slot.GREEN).version == "2"
    assert second.slot(Slot.GREEN).image == IMAGE
    assert second.slot(Slot.GREEN).release_id == "chat-v2-2"
    assert second.slot(Slot.BLUE) == done("1").slot(Slot.BLUE)


def test_verdict_of_a_stage_replaces_its_earlier_one() -> None:
    failed = StageVerdict(stage="tested", verdict=Verdict.ERROR, reasons=("no answer",))
    passed = replace(failed, verdict=Verdict.PASS, reasons=())
    smoke = replace(failed, stage="smoked")

    current = with_verdict(with_verdict(with_verdict(record(), failed), smoke), passed)

    assert current.verdicts == (smoke, passed)


def test_route_before_a_release_is_all_users_on_stable() -> None:
    assert route_before(record()) == empty("chat")
    assert route_before(admitted("2", done("1"))) == all_to("chat", Slot.BLUE)


def test_version_that_stayed_live_through_a_refused_release_is_done_already() -> None:
    live = with_candidate(done("1"), image="registry/m@sha256:1")
    start = admit(request("2"), live, token="x", fence=1, now_ns=9)
    assert isinstance(start, Start)
    back = advance(start.record, Phase.ROLLING_BACK, reason="bad", now_ns=10)
    refused = advance(back, Phase.ROLLED_BACK, reason="bad", now_ns=11)

    assert admit(request("1"), refused, token="y", fence=1, now_ns=12) == AlreadyDone(
        record=refused
    )


def ramping() -> ReleaseRecord:
    return replace(record("2"), phase=Phase.RAMPING, stable=Slot.GREEN)


def held() -> ReleaseRecord:
    return hold(ramping(), reason="no data", timeout_s=60.0, now_ns=5)


def test_held_release_goes_on_from_where_it_was() -> None:
    assert (held().phase, held().proved, held().reason) == (Phase.HELD, Phase.RAMPING, "no data")
    assert held().has_reached(Phase.BENCHMARKED)

    gone_on = go_on(held(), reason="data came", now_ns=6)

    assert (gone_on.phase, gone_on.hold) == (Phase.RAMPING, None)
    assert [entry.phase for entry in gone_on.history[-2:]] == [Phase.HELD, Phase.RAMPING]


def test_held_release_may_be_taken_back_and_is_held_no_more() -> None:
    back = advance(held(), Phase.ROLLING_BACK, reason="aborted", now_ns=7)

    assert (back.phase, back.hold, back.proved) == (Phase.ROLLING_BACK, None, None)


def test_held_release_without_its_reason_has_proved_nothing() -> None:
    assert not replace(held(), hold=None).has_reached(Phase.REQUESTED)


@pytest.mark.parametrize("phase", [Phase.HELD, Phase.DONE, Phase.ROLLING_BACK, Phase.ROLLED_BACK])
def test_release_that_cannot_wait_is_not_held(phase: Phase) -> None:
    with pytest.raises(ConflictError, match="cannot follow"):
        hold(replace(ramping(), phase=phase), reason="no data", timeout_s=60.0, now_ns=5)


def test_release_that_is_not_held_cannot_go_on() -> None:
    with pytest.raises(ConflictError, match="going on cannot follow ramping"):
        go_on(ramping(), reason="data came", now_ns=6)


def test_held_release_does_not_advance_by_itself() -> None:
    with pytest.raises(ConflictError):
        advance(held(), Phase.PROMOTED, reason="no", now_ns=7)


def test_weight_is_what_the_gateway_was_seen_to_give() -> None:
    at_five = with_weight(begin(ramping(), "5 %"), 5)
    assert (at_five.weight_percent, at_five.intent) == (5, "")
    promoted = advance(at_five, Phase.PROMOTED, reason="all", now_ns=7)
    assert promoted.weight_percent == 100
    back = advance(promoted, Phase.ROLLING_BACK, reason="bad", now_ns=8)
    assert back.weight_percent == 100
    assert advance(back, Phase.ROLLED_BACK, reason="bad", now_ns=9).weight_percent == 0


def test_step_is_approved_once_somebody_said_yes_to_its_weight() -> None:
    step = RampStep(weight_percent=50, bake_s=1.0, approval=True)
    yes = Approval(weight_percent=50, by="ann", at_ns=1)

    assert ramping().is_approved(replace(step, approval=False))
    assert not with_approval(ramping(), replace(yes, weight_percent=25)).is_approved(step)
    approved = with_approval(ramping(), yes)
    assert approved.is_approved(step)
    assert with_approval(approved, replace(yes, by="bob")) == approved


def test_canary_keeps_the_steps_it_began_with() -> None:
    steps = (RampStep(weight_percent=5, bake_s=1.0),)
    asked = replace(request("2"), strategy=Strategy.CANARY, steps=steps)

    start = admit(asked, done("1"), token="x", fence=7, now_ns=9)

    assert isinstance(start, Start)
    assert (start.record.strategy, start.record.steps) == (Strategy.CANARY, steps)
    assert start.record.fence == 7


def test_first_release_is_no_canary() -> None:
    asked = replace(
        request("2"), strategy=Strategy.CANARY, steps=(RampStep(weight_percent=5, bake_s=1.0),)
    )

    start = admit(asked, None, token="x", fence=1, now_ns=9)

    assert isinstance(start, Start)
    assert (start.record.strategy, start.record.steps) == (Strategy.BLUE_GREEN, ())
