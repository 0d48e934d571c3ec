"""Autoscaled services: floors before users move, nothing fights, nothing is left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.release.orders import OrderKind
from slipway.core.release.record import Phase
from slipway.core.routing import Route, Slot, all_to
from slipway.core.service import AutoscalerKind, RampStep
from slipway.manifests.autoscaling import autoscaler
from slipway.ports.traffic import RouteProof
from tests.examples import autoscaling
from tests.fakes.cluster import FakeAutoscaler, Fault
from tests.flow.sweeps import swept
from tests.flow.world import SERVICE, World

STEPS = (
    RampStep(weight_percent=10, bake_s=5.0),
    RampStep(weight_percent=50, bake_s=5.0),
)
LOAD = 5
"""Pods that all users need."""

RELEASE_WRITES = 64
"""Writes of an autoscaled canary that goes well, from its first to its last."""

TAKEN_BACK_WRITES = 49
"""Writes of one whose users fare worse, up to the phase `rolled_back`."""

BLUE, GREEN = "chat-blue", "chat-green"


def going_live(world: World, kind: AutoscalerKind = AutoscalerKind.HPA) -> World:
    """Release version 1 into slot blue and let its load scale it up."""
    world.set_autoscaling(kind)
    world.let_load_scale(LOAD)
    world.release("1")
    world.clock.sleep(1.0)
    assert world.replicas(Slot.BLUE) == LOAD
    world.controller.scaled.clear()
    world.journal.next_process()
    return world


@pytest.fixture
def scaled(fresh: World) -> World:
    """Return a world in which version 1 serves with five pods of two to eight."""
    return going_live(fresh)


@pytest.fixture
def canary(scaled: World) -> World:
    """Return such a world whose releases rise in steps, under users."""
    scaled.set_canary(*STEPS)
    scaled.let_users_stream(per_s=50)
    return scaled


def numbers(world: World, name: str) -> list[int]:
    """Return how many pods a Deployment was scaled to by its autoscaler, in order."""
    return [after for scaled, _, after in world.controller.scaled if scaled == name]


def place(world: World, beginning: str) -> int:
    """Return the place of the first write whose words begin so."""
    return next(at for at, what in enumerate(world.journal.writes) if what.startswith(beginning))


def test_first_release_begins_with_the_least_number_and_is_scaled_from_there(
    fresh: World,
) -> None:
    fresh.set_autoscaling()
    assert fresh.release("1")["outcome"] == "done"
    assert (fresh.replicas(Slot.BLUE), fresh.floors()) == (2, {BLUE: 2})


def test_canary_gets_the_pods_of_each_weight_before_its_users(canary: World) -> None:
    assert canary.release("2")["outcome"] == "done"
    order = [
        f"apply HorizontalPodAutoscaler {GREEN}, at least 2",
        f"floor of HorizontalPodAutoscaler {BLUE} {LOAD}",
        "route blue 90, green 10",
        f"apply HorizontalPodAutoscaler {GREEN}, at least 3",
        "route blue 50, green 50",
        f"apply HorizontalPodAutoscaler {GREEN}, at least 5",
        "route green 100",
        f"remove HorizontalPodAutoscaler {BLUE}",
        f"scale {BLUE} to 0",
    ]
    places = [place(canary, what) for what in order]
    assert places == sorted(places)
    assert all(row.status == 200 for row in canary.cluster.rows)
    assert canary.cluster.violations == []


def test_stable_slot_never_shrinks_while_users_may_come_back(canary: World) -> None:
    canary.release("2")
    assert numbers(canary, BLUE) == []
    assert (canary.replicas(Slot.BLUE), canary.floors()) == (0, {GREEN: 2})


def test_candidate_grows_with_its_floors_and_does_not_flap(canary: World) -> None:
    canary.release("2")
    assert numbers(canary, GREEN) == [3, 5]


def test_service_shrinks_again_when_the_release_is_over(canary: World) -> None:
    canary.release("2")
    canary.controller.users_need = 2
    canary.clock.sleep(1.0)
    assert canary.replicas(Slot.GREEN) == 2


def test_blue_green_has_everybodys_pods_before_the_switch(scaled: World) -> None:
    assert scaled.release("2")["outcome"] == "done"
    route = place(scaled, "route green 100")
    assert place(scaled, f"floor of HorizontalPodAutoscaler {BLUE} {LOAD}") < route
    assert place(scaled, f"scale {GREEN} to {LOAD}") < route
    assert scaled.floors() == {GREEN: 2}


def test_blue_green_waits_for_pods_of_load_that_grew_since_the_deployment(scaled: World) -> None:
    def grow() -> None:
        scaled.controller.users_need = 7
        scaled.clock.sleep(1.0)

    scaled.at_write("record smoked", grow)
    assert scaled.release("2")["outcome"] == "done"
    floor = place(scaled, f"apply HorizontalPodAutoscaler {GREEN}, at least 7")
    assert floor < place(scaled, "route green 100")


def test_load_that_grows_in_the_ramp_takes_nothing_back(canary: World) -> None:
    def grow() -> None:
        canary.controller.users_need = 8

    canary.at_write("route blue 50, green 50", grow)
    assert canary.release("2")["outcome"] == "done"
    assert canary.replicas(Slot.GREEN) == 8
    assert canary.record.scaling is not None
    assert canary.record.scaling.needed > LOAD
    assert all(row.status == 200 for row in canary.cluster.rows)


def grow_at(world: World, write: str, users_need: int) -> None:
    """Let the load grow, and the slots with it, just when something is written."""

    def grow() -> None:
        world.controller.users_need = users_need
        world.clock.sleep(1.0)

    world.at_write(write, grow)


@pytest.mark.parametrize(
    "moment",
    ["route blue 90, green 10", "record ramping: 50 % of the users to slot green"],
)
def test_stable_slot_that_grew_in_the_ramp_keeps_that_for_whoever_comes_back(
    canary: World, moment: str
) -> None:
    grow_at(canary, moment, 8)
    assert canary.release("2")["outcome"] == "done"
    held = numbers(canary, BLUE)
    assert held == sorted(held), "it shrank while its users were on the way"
    assert held[-1] > LOAD
    floor = place(canary, f"floor of HorizontalPodAutoscaler {BLUE} {held[-1]}")
    assert floor < place(canary, "route blue 50, green 50")


@pytest.mark.parametrize("moment", ["record smoked", "record ramping: all users to slot green"])
def test_blue_green_holds_what_the_stable_slot_grew_to_while_pods_started(
    scaled: World, moment: str
) -> None:
    grow_at(scaled, moment, 7)
    assert scaled.release("2")["outcome"] == "done"
    switch = place(scaled, "route green 100")
    assert place(scaled, f"floor of HorizontalPodAutoscaler {BLUE} 7") < switch
    assert place(scaled, f"apply HorizontalPodAutoscaler {GREEN}, at least 7") < switch
    assert numbers(scaled, BLUE) == [7]


@pytest.mark.parametrize("kind", list(AutoscalerKind))
def test_failing_canary_is_emptied_for_good_and_the_stable_slot_is_free_again(
    fresh: World, kind: AutoscalerKind
) -> None:
    """KEDA wakes a Deployment of no pods: its object must be gone before (Argo #4973)."""
    world = going_live(fresh, kind)
    world.set_canary(*STEPS)
    world.let_users_stream(per_s=50)
    world.gateway.fails_every[Slot.GREEN] = 3
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "canary-failed"
    for _ in range(5):
        world.clock.sleep(1.0)
    assert (world.replicas(Slot.BLUE), world.replicas(Slot.GREEN)) == (LOAD, 0)
    assert world.floors() == {BLUE: 2}
    assert numbers(world, BLUE) == []
    assert world.cluster.routes[SERVICE] == all_to(SERVICE, Slot.BLUE)


def test_stable_floor_is_let_go_only_when_the_metric_shows_the_users_again(canary: World) -> None:
    scaling = canary.spec.autoscaling
    assert scaling is not None
    canary.spec = replace(canary.spec, autoscaling=replace(scaling, settle_s=120.0))
    canary.gateway.fails_every[Slot.GREEN] = 3
    back_s: list[float] = []

    def note() -> None:
        back_s.append(canary.clock.monotonic())

    def watch() -> None:
        canary.at_write("route blue 100", note)

    canary.at_write("route blue 90, green 10", watch)
    canary.at_write(f"floor of HorizontalPodAutoscaler {BLUE} 2", note)
    with pytest.raises(PermanentError):
        canary.release("2")
    assert back_s[1] - back_s[0] >= 120.0


def test_bake_lasts_until_the_metric_shows_the_users(scaled: World) -> None:
    settings = scaled.spec.autoscaling
    assert settings is not None
    scaled.spec = replace(scaled.spec, autoscaling=replace(settings, settle_s=90.0))
    began_s: list[float] = []
    scaled.at_write("record baking", lambda: began_s.append(scaled.clock.monotonic()))
    scaled.release("2")
    assert scaled.clock.monotonic() - began_s[0] >= 90.0


def test_pods_that_never_come_hold_the_canary_and_take_it_back(canary: World) -> None:
    canary.set_canary(*STEPS, data_timeout_s=30.0, hold_timeout_s=60.0)

    def no_more() -> None:
        for item in canary.cluster.slot_deployments(SERVICE, Slot.GREEN):
            item.fault = Fault.NEVER_READY

    canary.at_write("route blue 90, green 10", no_more)
    with pytest.raises(PermanentError) as caught:
        canary.release("2")
    assert caught.value.code == "hold-expired"
    assert "2 ready pods of 3 needed" in caught.value.message
    assert (canary.replicas(Slot.GREEN), canary.floors()) == (0, {BLUE: 2})


def test_time_that_a_canary_bakes_does_not_count_as_time_without_pods(canary: World) -> None:
    long = RampStep(weight_percent=10, bake_s=60.0)
    canary.set_canary(long, STEPS[1], data_timeout_s=30.0, hold_timeout_s=60.0)

    def load_slowly() -> None:
        canary.cluster.looks_until_ready = 10

    canary.at_write("route blue 90, green 10", load_slowly)
    assert canary.release("2")["outcome"] == "done"
    assert Phase.HELD not in {entry.phase for entry in canary.record.history}


def test_warm_slot_keeps_its_floor_until_it_is_retired(scaled: World) -> None:
    scaled.set_policy(rollback_window_s=600.0)
    scaled.release("2")
    assert scaled.floors() == {BLUE: LOAD, GREEN: 2}
    assert scaled.replicas(Slot.BLUE) == LOAD
    scaled.clock.advance(601.0)
    assert "scaled to zero" in scaled.reconcile()[SERVICE]
    assert (scaled.replicas(Slot.BLUE), scaled.floors()) == (0, {GREEN: 2})


def test_rollback_within_the_window_takes_the_warm_pods_and_adds_what_users_need(
    scaled: World,
) -> None:
    scaled.set_policy(rollback_window_s=600.0)
    scaled.release("2")
    warm = {pod.uid for pod in scaled.cluster.pods_of(SERVICE, Slot.BLUE)}
    scaled.controller.users_need = 7
    scaled.clock.sleep(1.0)
    assert scaled.replicas(Slot.GREEN) == 7
    assert scaled.rollback()["outcome"] == "done"
    now = {pod.uid for pod in scaled.cluster.pods_of(SERVICE, Slot.BLUE)}
    assert warm <= now
    assert (len(now), scaled.alias) == (7, "1")


def _die_while_retiring(scaled: World) -> None:
    """Release, until the process dies with the old slot's autoscaler removed; abort it."""
    scaled.at_write(f"scale {BLUE} to 0", lambda: scaled.order(OrderKind.ABORT))
    scaled.die_at_write(f"scale {BLUE} to 0")
    scaled.die_in_release("2")
    scaled.journal.next_process()


def test_abort_while_the_old_slot_is_retired_brings_it_and_its_autoscaler_back(
    scaled: World,
) -> None:
    _die_while_retiring(scaled)
    assert scaled.abort()["aborted"]
    assert (scaled.replicas(Slot.BLUE), scaled.replicas(Slot.GREEN)) == (LOAD, 0)
    assert (scaled.floors(), scaled.alias) == ({BLUE: 2}, "1")


def test_old_slot_that_comes_back_is_told_in_the_record_before_anything_is_written(
    scaled: World,
) -> None:
    _die_while_retiring(scaled)
    before = len(scaled.journal.writes)
    scaled.abort()
    since = scaled.journal.writes[before:]
    back = next(n for n, what in enumerate(since) if what.startswith("scale") and BLUE in what)
    assert "comes back with" in since[back - 1]


def somebodys(world: World, target: str = BLUE, kind: AutoscalerKind = AutoscalerKind.HPA) -> None:
    """Have a person scale a slot."""
    made = autoscaler(
        SERVICE, "serving", autoscaling(kind), slot=Slot.BLUE, workload=target, floor=3
    )
    made["metadata"]["name"] = "by-hand"
    made["metadata"]["labels"] = {}
    world.cluster.autoscalers["serving", made["kind"], "by-hand"] = FakeAutoscaler(
        uid="uid-by-hand", manifest=made, resource_version=1
    )


@pytest.mark.parametrize("kind", list(AutoscalerKind))
@pytest.mark.parametrize("asked", [lambda w: w.release("2"), lambda w: w.rollback()])
def test_slot_that_a_person_scales_is_refused_before_the_first_write(
    world: World, kind: AutoscalerKind, asked: Callable[[World], object]
) -> None:
    somebodys(world, kind=kind)
    world.journal.next_process()
    with pytest.raises(
        PermanentError, match="serving/by-hand scales Deployment chat-blue"
    ) as caught:
        asked(world)
    assert caught.value.code == "autoscaler-foreign"
    assert "by-hand" in caught.value.hint
    assert world.journal.writes == []


def test_slot_that_a_person_begins_to_scale_meanwhile_is_not_deployed_to(world: World) -> None:
    world.at_write("record tested", lambda: somebodys(world, GREEN))
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "autoscaler-foreign"
    assert not any(what.startswith("apply Deployment") for what in world.journal.writes)
    world.assert_taken_back("2", code="autoscaler-foreign")


def test_unfinished_release_is_brought_to_its_end_whoever_scales_its_slots(world: World) -> None:
    world.die_at_write("record promoted")
    world.die_in_release("2")
    somebodys(world, GREEN)
    assert world.release_after_death("2")["outcome"] == "done"


def test_service_that_gets_an_autoscaler_begins_with_the_next_slot(world: World) -> None:
    world.set_autoscaling()
    assert world.release("2")["outcome"] == "done"
    assert world.floors() == {GREEN: 2}
    world.journal.next_process()
    assert world.release("3")["outcome"] == "done"
    # The slot was applied with a number before: it is not left at the one that the API falls to.
    assert (world.replicas(Slot.BLUE), world.floors()) == (2, {BLUE: 2})


def test_service_that_loses_its_autoscaler_has_a_fixed_number_again(scaled: World) -> None:
    scaled.spec = replace(scaled.spec, autoscaling=None, replicas=3)
    assert scaled.release("2")["outcome"] == "done"
    assert (scaled.replicas(Slot.GREEN), scaled.floors()) == (3, {})
    scaled.journal.next_process()
    assert scaled.release("3")["outcome"] == "done"
    assert (scaled.replicas(Slot.BLUE), scaled.record.scaling) == (3, None)


def test_stable_slot_of_a_service_that_loses_its_autoscaler_does_not_shrink_in_the_ramp(
    canary: World,
) -> None:
    canary.spec = replace(canary.spec, autoscaling=None, replicas=LOAD)
    canary.gateway.fails_every[Slot.GREEN] = 3
    with pytest.raises(PermanentError):
        canary.release("2")
    assert numbers(canary, BLUE) == []
    assert (canary.replicas(Slot.BLUE), canary.floors()) == (LOAD, {})


def test_cluster_without_keda_refuses_before_the_slot_is_touched(scaled: World) -> None:
    scaled.set_autoscaling(AutoscalerKind.KEDA)
    scaled.cluster.unknown_kinds.add("ScaledObject")
    with pytest.raises(PermanentError) as caught:
        scaled.release("2")
    assert caught.value.code == "autoscaler-unknown"
    assert not any(what.startswith("apply Deployment") for what in scaled.journal.writes)
    assert scaled.floors() == {BLUE: 2}


def test_slot_that_is_routed_to_again_keeps_what_scales_it(
    scaled: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm = scaled.traffic.confirm

    def route_back(route: Route, *, timeout_s: float) -> RouteProof:
        proof = confirm(route, timeout_s=timeout_s)
        if scaled.record.intent.startswith("retire"):
            scaled.cluster.routes[SERVICE] = all_to(SERVICE, Slot.BLUE)
        return proof

    monkeypatch.setattr(scaled.traffic, "confirm", route_back)
    with pytest.raises(PermanentError) as caught:
        scaled.release("2")
    assert caught.value.code == "slot-not-idle"
    assert scaled.floors()[BLUE] == LOAD


def test_slot_is_never_scaled_by_two_when_the_kind_changes(scaled: World) -> None:
    scaled.set_autoscaling(AutoscalerKind.KEDA)
    scaled.set_policy(rollback_window_s=600.0)
    scaled.release("2")
    kinds = {key[1:] for key in scaled.cluster.autoscalers}
    assert kinds == {("HorizontalPodAutoscaler", BLUE), ("ScaledObject", GREEN)}
    scaled.rollback()
    kinds = {key[1:] for key in scaled.cluster.autoscalers}
    assert kinds == {("ScaledObject", BLUE), ("ScaledObject", GREEN)}


def test_stale_process_changes_no_autoscaler_of_its_heir(scaled: World) -> None:
    (found,) = scaled.autoscalers.find("serving", (BLUE,))
    scaled.take_over()
    scaled.autoscalers.stamp("serving", found, fence=99)
    with pytest.raises(ConflictError) as stale:
        scaled.autoscalers.set_floor("serving", found, 8, fence=2)
    assert stale.value.code == "lock-lost"
    with pytest.raises(ConflictError) as changed:
        scaled.autoscalers.remove("serving", found)
    assert changed.value.code == "conflict"
    assert scaled.floors() == {BLUE: 2}


def test_takeover_stamps_what_scales_the_slots(scaled: World) -> None:
    scaled.release("2")
    stamped = [what for what in scaled.journal.writes if what.startswith("stamp Horizontal")]
    assert stamped == [f"stamp HorizontalPodAutoscaler {BLUE}"]


def test_sweep_covers_every_write(canary: World) -> None:
    canary.release("2")
    assert len(canary.journal.writes) == RELEASE_WRITES


@pytest.mark.parametrize("write", swept(range(1, RELEASE_WRITES + 1)))
def test_autoscaled_canary_killed_after_a_write_ends_as_if_never_killed(
    canary: World, write: int
) -> None:
    canary.journal.die_after = write
    canary.die_in_release("2")
    assert canary.release_after_death("2")["outcome"] == "done"
    assert (canary.replicas(Slot.BLUE), canary.floors()) == (0, {GREEN: 2})
    assert canary.replicas(Slot.GREEN) == LOAD
    assert numbers(canary, BLUE) == []
    assert all(row.status == 200 for row in canary.cluster.rows)
    assert canary.cluster.violations == []


def test_failing_sweep_covers_every_write(canary: World) -> None:
    canary.gateway.fails_every[Slot.GREEN] = 3
    with pytest.raises(PermanentError):
        canary.release("2")
    assert place(canary, "record rolled_back") + 1 == TAKEN_BACK_WRITES


@pytest.mark.parametrize("write", swept(range(1, TAKEN_BACK_WRITES)))
def test_failing_autoscaled_canary_killed_after_a_write_is_taken_back(
    canary: World, write: int
) -> None:
    canary.gateway.fails_every[Slot.GREEN] = 3
    canary.journal.die_after = write
    canary.die_in_release("2")
    with pytest.raises(PermanentError):
        canary.release_after_death("2")
    assert canary.record.phase is Phase.ROLLED_BACK
    assert (canary.replicas(Slot.BLUE), canary.replicas(Slot.GREEN)) == (LOAD, 0)
    assert (canary.floors(), numbers(canary, BLUE)) == ({BLUE: 2}, [])
