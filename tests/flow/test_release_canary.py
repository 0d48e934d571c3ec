"""Canaries: users move in steps, and what stops them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import pytest

from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.core.release.record import Approval, Phase, ReleaseRecord
from slipway.core.routing import Slot, all_to
from slipway.core.service import RampStep, Router, Wish
from slipway.core.verdicts import Verdict
from tasks.approve import approve_step
from tests.flow.sweeps import swept
from tests.flow.world import SERVICE, World

STEPS = (
    RampStep(weight_percent=10, bake_s=5.0),
    RampStep(weight_percent=25, bake_s=5.0),
    RampStep(weight_percent=50, bake_s=5.0),
)


FIRST_OF_RAMP, LAST_OF_RAMP = 29, 47
"""Numbers of the writes that a canary makes beside those of any release (test_release_crashes)."""


@pytest.fixture
def canary(world: World) -> World:
    """Return a world in which version 1 serves 50 users' requests a second."""
    world.set_canary(*STEPS)
    world.let_users_stream(per_s=50)
    return world


def weights(world: World) -> list[int]:
    """Return the weights of the candidate that were written, in order."""
    words = [what.partition("green ")[2] for what in world.journal.writes if "route" in what]
    shares = [int(found.split(",")[0]) for found in words if found[:1].isdigit()]
    return [share for share, _ in groupby(shares)]


def test_canary_rises_step_by_step_to_everybody(canary: World) -> None:
    assert canary.release("2")["outcome"] == "done"
    assert weights(canary) == [10, 25, 50, 100]
    assert canary.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
    assert (canary.alias, canary.record.weight_percent) == ("2", 100)
    assert all(row.status == 200 for row in canary.cluster.rows)
    assert canary.cluster.violations == []
    ramp = canary.journal.writes[FIRST_OF_RAMP - 1 : LAST_OF_RAMP]
    assert ramp[0].startswith("record ramping: every gate")
    assert ramp[-1].startswith("record promoted")


def test_canary_leaves_a_verdict_and_figures_of_every_weight(canary: World) -> None:
    canary.release("2")
    verdicts = {item.stage: item.verdict for item in canary.record.verdicts}
    assert {f"ramp {weight} %" for weight in (10, 25, 50)} <= verdicts.keys()
    assert verdicts["ramp 50 %"] is Verdict.PASS
    stored = json.loads(canary.objects.get(f"releases/{SERVICE}/chat-v2-2/000002/ramp.json"))
    assert [item["weight_percent"] for item in stored["weights"]] == [10, 25, 50]
    figures = {item["name"]: item for item in stored["weights"][-1]["evidence"]}
    assert figures["error_rate_percent"]["n"] >= 20


def test_each_weight_lasts_for_its_bake(canary: World) -> None:
    seen: list[tuple[int, float]] = []

    def note() -> None:
        share = canary.cluster.routes[SERVICE].percent(Slot.GREEN)
        if not seen or seen[-1][0] != share:
            seen.append((share, canary.clock.monotonic()))

    canary.clock.while_waiting.append(note)
    canary.release("2")
    times = dict(seen)
    assert times[25] - times[10] >= 5.0
    assert times[50] - times[25] >= 5.0


def test_first_release_has_nobody_to_compare_with_and_takes_no_steps(fresh: World) -> None:
    fresh.set_canary(*STEPS)
    assert fresh.release("1")["outcome"] == "done"
    assert fresh.record.steps == ()


def failing(world: World) -> None:
    world.gateway.fails_every[Slot.GREEN] = 3


def slow(world: World) -> None:
    world.gateway.ttft_ms[Slot.GREEN] = 200.0


@pytest.mark.parametrize("trouble", [failing, slow])
def test_canary_that_fares_worse_is_taken_back_at_its_first_weight(
    canary: World, trouble: Callable[[World], None]
) -> None:
    trouble(canary)
    with pytest.raises(PermanentError) as caught:
        canary.release("2")
    assert caught.value.code == "canary-failed"
    assert max(weights(canary)) == 10
    canary.assert_taken_back("2", code="canary-failed")
    assert canary.record.weight_percent == 0


def test_trouble_of_both_slots_is_not_the_canarys(canary: World) -> None:
    canary.gateway.fails_every = dict.fromkeys(Slot, 4)
    assert canary.release("2")["outcome"] == "done"


def test_failing_canary_beside_a_failing_stable_slot_is_held_and_never_promoted(
    canary: World,
) -> None:
    """Found by the simulation, seed 1546: twice 80 % is a limit that nobody can break."""
    canary.set_canary(*STEPS, data_timeout_s=20.0, hold_timeout_s=20.0)
    canary.gateway.fails_every = {Slot.BLUE: 1, Slot.GREEN: 2}
    with pytest.raises(PermanentError) as caught:
        canary.release("2")
    assert caught.value.code == "hold-expired"
    assert weights(canary) == [10]
    canary.assert_taken_back("2", code="hold-expired")


def test_canary_without_users_is_held_and_taken_back_when_none_come(world: World) -> None:
    world.set_canary(*STEPS, data_timeout_s=30.0, hold_timeout_s=60.0)
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "hold-expired"
    phases = [entry.phase for entry in world.record.history]
    assert phases[-3:] == [Phase.HELD, Phase.ROLLING_BACK, Phase.ROLLED_BACK]
    assert weights(world) == [10]
    world.assert_taken_back("2", code="hold-expired")


def test_held_canary_goes_on_when_users_come(world: World) -> None:
    world.set_canary(*STEPS, data_timeout_s=30.0, hold_timeout_s=600.0)
    world.at_write("record held", lambda: world.let_users_stream(per_s=100))
    assert world.release("2")["outcome"] == "done"
    phases = [entry.phase for entry in world.record.history]
    assert phases[phases.index(Phase.HELD) + 1] is Phase.RAMPING


def test_log_that_cannot_be_read_holds_and_never_promotes(
    canary: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary.set_canary(*STEPS, data_timeout_s=30.0, hold_timeout_s=60.0)

    def away(*_: object, **__: object) -> None:
        raise TransientError("the log is away", code="access-log-missing", hint="bring it back")

    monkeypatch.setattr(canary.traffic, "access_rows", away)
    with pytest.raises(PermanentError) as caught:
        canary.release("2")
    assert caught.value.code == "hold-expired"
    assert "the log is away" in caught.value.message
    canary.assert_taken_back("2", code="hold-expired")


def test_step_that_needs_approval_is_not_taken_without_it(canary: World) -> None:
    canary.set_canary(STEPS[0], replace(STEPS[2], approval=True), hold_timeout_s=60.0)
    with pytest.raises(PermanentError, match="needs a person's approval") as caught:
        canary.release("2")
    assert caught.value.code == "hold-expired"
    assert weights(canary) == [10]


def test_step_that_is_approved_from_elsewhere_is_taken(canary: World) -> None:
    canary.set_canary(STEPS[0], replace(STEPS[2], approval=True), hold_timeout_s=60.0)
    canary.at_write("record held", lambda: canary.clock.while_waiting.append(approve))
    said: list[str] = []

    def approve() -> None:
        if not said:
            said.append(approve_step(SERVICE, 50))

    assert canary.release("2")["outcome"] == "done"
    assert weights(canary) == [10, 50, 100]
    (approval,) = canary.record.approvals
    assert said == [f"chat-v2-2: 50 % allowed by {approval.by}"]
    assert canary.cluster.orders[SERVICE] == {}


class _Desk:
    """Somebody who answers in Prefect's UI at once; see `tasks.approval.ApprovalDesk`."""

    aborted = ""

    def __init__(self, record: ReleaseRecord, step: RampStep, *, timeout_s: float) -> None:
        self.step = step

    def approval(self) -> Approval | None:
        return Approval(weight_percent=self.step.weight_percent, by="pat", at_ns=1)

    def close(self, approval: Approval | None) -> None:
        """Leave the form as it was answered."""


class _DeskThatRefuses(_Desk):
    aborted = "pat"


def test_yes_in_prefect_goes_into_the_record_and_the_canary_rises(
    canary: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary.set_canary(STEPS[0], replace(STEPS[2], approval=True), hold_timeout_s=60.0)
    monkeypatch.setattr("tasks.ramp.ApprovalDesk", _Desk)
    assert canary.release("2")["outcome"] == "done"
    assert [item.by for item in canary.record.approvals] == ["pat"]


def test_no_in_prefect_gives_the_users_back(canary: World, monkeypatch: pytest.MonkeyPatch) -> None:
    canary.set_canary(STEPS[0], replace(STEPS[2], approval=True), hold_timeout_s=60.0)
    monkeypatch.setattr("tasks.ramp.ApprovalDesk", _DeskThatRefuses)
    with pytest.raises(PermanentError, match="aborted by pat"):
        canary.release("2")
    canary.assert_taken_back("2", code="aborted")


def test_approval_of_what_nobody_asked_is_refused(canary: World) -> None:
    with pytest.raises(InputError, match="no release of service chat is under way"):
        approve_step(SERVICE, 50)
    canary.die_at_write("record ramping: 25 % of the users")
    canary.die_in_release("2")
    canary.journal.next_process()
    with pytest.raises(InputError, match="asks nobody about 25 %"):
        approve_step(SERVICE, 25)


@pytest.mark.parametrize(
    ("intent", "code"),
    [
        ("25 % of the users", "candidate-unhealthy"),
        ("all users to slot green", "promotion-refused"),
    ],
)
def test_candidate_that_dies_while_the_intent_is_written_gets_no_more_users(
    canary: World, intent: str, code: str
) -> None:
    canary.at_write(
        f"record ramping: {intent}", lambda: canary.cluster.break_pods(SERVICE, Slot.GREEN)
    )
    with pytest.raises(PermanentError) as caught:
        canary.release("2")
    assert caught.value.code == code
    canary.assert_taken_back("2", code=code)


def test_candidate_whose_pods_die_loses_its_users_at_once(canary: World) -> None:
    died_s: list[float] = []

    def die() -> None:
        if not died_s and weights(canary)[-1:] == [25]:
            canary.cluster.break_pods(SERVICE, Slot.GREEN)
            died_s.append(canary.clock.monotonic())

    def note() -> None:
        died_s.append(canary.clock.monotonic())

    canary.at_write("route blue 75, green 25", lambda: canary.at_write("route blue 100", note))
    canary.clock.while_waiting.append(die)
    with pytest.raises(PermanentError) as caught:
        canary.release("2")
    assert caught.value.code == "candidate-unhealthy"
    assert died_s[1] - died_s[0] <= 5.0
    canary.assert_taken_back("2", code="candidate-unhealthy")


@pytest.mark.parametrize("write", swept(range(FIRST_OF_RAMP, LAST_OF_RAMP + 1)))
def test_canary_killed_after_a_write_ends_as_if_never_killed(canary: World, write: int) -> None:
    canary.journal.die_after = write
    canary.die_in_release("2")
    assert canary.release_after_death("2")["outcome"] == "done"
    assert canary.record.phase is Phase.DONE
    assert canary.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
    assert (canary.replicas(Slot.BLUE), canary.replicas(Slot.GREEN)) == (0, 2)
    assert (canary.alias, canary.record.weight_percent) == ("2", 100)
    assert all(row.status == 200 for row in canary.cluster.rows)
    assert canary.cluster.violations == []


@pytest.mark.parametrize("verb", ["observe", "access_rows", "read"])
def test_watch_of_hours_outlives_many_short_outages(
    canary: World, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    canary.set_policy(bake_s=300.0)  # longer than looks may fail in a row
    port = canary.workloads if verb == "observe" else canary.traffic
    real, calls = getattr(port, verb), 0

    def unsteady(*args: object, **named: object) -> object:
        nonlocal calls
        last = (canary.journal.writes or [""])[-1]
        watches = last.startswith(("record ramping", "record baking"))
        calls += watches
        if watches and calls % 5 >= 3:
            raise TransientError("not now", code="api-busy", hint="again")
        return real(*args, **named)

    monkeypatch.setattr(port, verb, unsteady)
    assert canary.release("2")["outcome"] == "done"
    assert calls > 25, "more outages than a task may be repeated"


def test_watch_whose_looks_all_fail_ends_within_minutes(
    canary: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> None:
        def away(*_: object, **__: object) -> None:
            raise TransientError("not now", code="api-busy", hint="again")

        monkeypatch.setattr(canary.traffic, "read", away)

    canary.at_write("route blue 75, green 25", break_down)
    began_s = canary.clock.monotonic()
    with pytest.raises(TransientError):
        canary.release("2")
    assert canary.clock.monotonic() - began_s < 1200


@pytest.mark.parametrize("router", [Router(sticky=Wish.REQUIRED), Router(fall_back=Wish.REQUIRED)])
def test_gateway_that_cannot_divide_users_as_required_refuses_before_any_write(
    canary: World, router: Router
) -> None:
    canary.spec = replace(canary.spec, router=router)
    canary.cluster.split_filter = False
    before = list(canary.journal.writes)
    with pytest.raises(PermanentError) as caught:
        canary.release("2")
    assert caught.value.code == "split-filter-missing"
    assert canary.journal.writes == before
    canary.cluster.split_filter = True
    assert canary.release("2")["outcome"] == "done"
