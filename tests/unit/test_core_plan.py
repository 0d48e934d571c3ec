from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.release.admission import requested
from slipway.core.release.plan import PlannedStep, ReleasePlan, Seen, plan_release
from slipway.core.release.record import Approval, Phase, ReleaseRecord, SlotRecord
from slipway.core.release.stages import OF_RELEASE
from slipway.core.routing import Slot
from slipway.core.service import (
    Implementation,
    RampPolicy,
    RampStep,
    Router,
    RouterKind,
    ServiceSpec,
    Strategy,
    WhenBusy,
    Wish,
)
from tests.examples import autoscaling, record, service, service_on_a_volume

STEPS = (
    RampStep(weight_percent=1, bake_s=10.0),
    RampStep(weight_percent=50, bake_s=20.0, approval=True),
)


def canary(**changes: Any) -> ServiceSpec:
    """Return a service whose releases are canaries, with this policy."""
    spec = service()
    ramp = RampPolicy(steps=STEPS, requests_min=40)
    policy = replace(spec.policy, strategy=Strategy.CANARY, ramp=ramp, **changes)
    return replace(spec, policy=policy)


def live(**changes: Any) -> ReleaseRecord:
    """Return the record of version 1, live in slot blue."""
    held = SlotRecord(slot=Slot.BLUE, workload="chat-blue", version="1")
    slots = (held, SlotRecord(slot=Slot.GREEN, workload="chat-green"))
    return replace(record("1"), phase=Phase.DONE, slots=slots, **changes)


def midway(phase: Phase, **changes: Any) -> ReleaseRecord:
    """Return the record of version 2 on its way from slot blue to slot green."""
    came = {"version": "2", "release_id": "chat-v2-2", "stable": Slot.BLUE, "candidate": Slot.GREEN}
    return replace(live(), **{**came, "phase": phase, **changes})


def seen(found: ReleaseRecord | None, **changes: Any) -> Seen:
    blank = Seen(
        record=found,
        holder="",
        ready={},
        asked={},
        alias="1",
        split_filter=True,
        files=2,
        size_bytes=3_400_000,
    )
    return replace(blank, **changes)


def plan(
    spec: ServiceSpec, found: ReleaseRecord | None, version: str = "2", **changes: Any
) -> ReleasePlan:
    return plan_release(requested(spec, version), seen(found, **changes), spec, now_ns=5)


def of(made: ReleasePlan, stage: str) -> tuple[PlannedStep, ...]:
    return tuple(step for step in made.steps if step.stage == stage)


def test_first_release_takes_every_stage_but_the_ramp() -> None:
    made = plan(canary(), None, alias=None)
    assert made.release_id == "chat-v2-1"
    assert made.begins == "version 2 of chat-model into slot blue; nobody serves yet"
    assert [step.stage for step in made.steps] == [stage.name for stage in OF_RELEASE]
    assert [step.stage for step in made.steps if step.skipped] == ["ramp"]
    assert of(made, "alias")[0].does == "live → version 2 (now nowhere)"
    assert of(made, "retire")[0].does == "nothing"
    assert "slot blue is emptied" in made.on_failure
    assert made.users_moved_s == 30.0


def test_canary_plans_a_line_for_every_step_with_its_reason() -> None:
    made = plan(canary(rollback_window_s=600.0), live())
    assert made.begins.endswith("into slot green; slot blue serves version 1")
    first, second = of(made, "ramp")
    assert first.does == "1 % of the users for 10 s and longer"
    assert first.why.startswith("needs 1 pod ready; rises on 40 requests")
    assert second.does == "50 % of the users for 20 s and longer, after a person's approval"
    assert of(made, "retire")[0].does == "keep slot blue warm for 600 s"
    assert "2 × as slow as the stable slot" in of(made, "benchmark")[0].why
    assert made.users_moved_s == 60.0
    assert "go back to it" in made.on_failure


def test_slot_that_is_still_warm_is_drained_first() -> None:
    warm = replace(
        midway(Phase.DONE),
        slots=tuple(replace(item, version=f"{n}") for n, item in enumerate(live().slots, start=1)),
    )
    made = plan(service(), warm, "3", ready={Slot.BLUE: 2, Slot.GREEN: 2})
    assert (
        of(made, "deploy")[0].does == "drain 2 pods of version 1, then deploy 2 pods as chat-blue"
    )
    assert of(made, "retire")[0].does == "drain slot green and scale it to zero"


def test_release_that_is_live_already_has_no_steps() -> None:
    made = plan(service(), live(), "1")
    assert (made.steps, made.users_moved_s) == ((), 0.0)
    assert made.begins == "version 1 is live already: nothing to do"


def test_unfinished_release_goes_on_after_what_it_has_proved() -> None:
    half = midway(
        Phase.RAMPING,
        strategy=Strategy.CANARY,
        steps=STEPS,
        weight_percent=1,
        approvals=(Approval(weight_percent=50, by="pat", at_ns=1),),
    )
    made = plan(canary(), half)
    assert made.begins == "goes on from ramping"
    skipped = [step.stage for step in made.steps if step.skipped]
    assert skipped == ["image", "test", "deploy", "smoke", "benchmark"]
    assert of(made, "image")[0].why == "built was proved by an earlier run"
    (ahead,) = of(made, "ramp")
    assert ahead.does == "50 % of the users for 20 s and longer"


@pytest.mark.parametrize(
    ("when_busy", "phase", "how"),
    [
        (WhenBusy.QUEUE, Phase.SMOKED, "is taken back first"),
        (WhenBusy.SUPERSEDE, Phase.RAMPING, "is taken back first"),
        (WhenBusy.QUEUE, Phase.BAKING, "goes to its end first"),
    ],
)
def test_other_versions_leftover_is_settled_before(
    when_busy: WhenBusy, phase: Phase, how: str
) -> None:
    made = plan(canary(when_busy=when_busy), midway(phase), "3")
    assert made.steps[0].does == f"release chat-v2-2 (phase {phase}) {how}"
    serves = Slot.GREEN if phase is Phase.BAKING else Slot.BLUE
    assert f"into slot {serves.other}; slot {serves} serves" in made.begins


def test_other_versions_leftover_refuses_as_the_release_itself_would() -> None:
    with pytest.raises(ConflictError, match="chat-v2-2 of service chat is unfinished"):
        plan(service(), midway(Phase.SMOKED), "3")


@pytest.mark.parametrize(
    ("when_busy", "means"),
    [
        (WhenBusy.REFUSE, "this request is refused"),
        (WhenBusy.QUEUE, "waits until that process has ended"),
        (WhenBusy.SUPERSEDE, "gives way"),
    ],
)
def test_held_lock_is_named_with_what_the_policy_says(when_busy: WhenBusy, means: str) -> None:
    made = plan(canary(when_busy=when_busy), live(), holder="host/1/ab12cd34")
    assert made.steps[0].does == "the service's lock is held by host/1/ab12cd34"
    assert means in made.steps[0].why


def test_held_lock_of_a_service_never_released_is_named_too() -> None:
    made = plan(service(), None, holder="host/1/ab12cd34")
    assert made.steps[0].stage == "turn"


def test_lock_of_a_stranger_is_refused() -> None:
    with pytest.raises(PermanentError) as caught:
        plan(service(), live(), holder="kube-scheduler")
    assert caught.value.code == "lock-foreign"


def test_weights_on_a_volume_stay_out_of_the_image() -> None:
    made = plan(service_on_a_volume(), live(), files=1)
    assert of(made, "image")[0].does == "pin slipway/simulated:base by its digest"
    assert of(made, "integrity")[0].does == "check 1 file, 3.4 MB, by their checksums"


def test_autoscaled_service_begins_with_the_share_of_its_first_step() -> None:
    spec = replace(canary(), autoscaling=autoscaling(min_replicas=2, max_replicas=20), replicas=2)
    made = plan(spec, live(), asked={Slot.BLUE: 8})
    assert of(made, "deploy")[0].does == (
        "deploy 2 pods as chat-green, and an autoscaler of their own"
    )
    assert of(made, "ramp")[1].why.startswith("needs 4 pods ready")
    assert "8 pods of the tested image" in of(made, "promote")[0].why


def test_first_release_of_an_autoscaled_service_begins_with_its_replicas() -> None:
    spec = replace(service(), autoscaling=autoscaling(min_replicas=1, max_replicas=4), replicas=3)
    assert of(plan(spec, None), "deploy")[0].does.startswith("deploy 3 pods as chat-blue")


_STAYS, _CHANGES = "a session that moved stays", "sessions change sides at random"
_FALLS, _FAILS = "falls back to slot blue", "fails its share of the users"


@pytest.mark.parametrize(
    ("router", "split_filter", "session", "dead"),
    [
        (Router(), True, _STAYS, _FALLS),
        (Router(), False, _CHANGES, _FALLS),
        (Router(sticky=Wish.OFF), True, _CHANGES, _FALLS),
        (Router(fall_back=Wish.OFF), True, _STAYS, _FAILS),
        (Router(kind=RouterKind.GATEWAY_API), True, _STAYS, _FALLS),
        (Router(kind=RouterKind.GATEWAY_API), False, _CHANGES, _FAILS),
        (
            Router(kind=RouterKind.GATEWAY_API, implementation=Implementation.OTHER),
            True,
            _CHANGES,
            _FAILS,
        ),
    ],
)
def test_step_says_what_users_may_count_on_while_they_are_divided(
    router: Router, split_filter: bool, session: str, dead: str
) -> None:
    made = plan(replace(canary(), router=router), live(), split_filter=split_filter)
    for step in of(made, "ramp"):
        assert step.why.endswith(f"{session}, a dead candidate {dead}")
