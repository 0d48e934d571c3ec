"""A release that cannot be carried out: refused before its first write, with what is short."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from slipway.core.errors import PermanentError, TransientError
from slipway.core.feasibility.values import Certificate, Way
from slipway.core.release.record import Phase
from slipway.core.service import WhenBusy, WhenFull
from tasks.plan import planned_release
from tests.examples import holder_on
from tests.fakes.preflight import node
from tests.flow.world import SERVICE, World

Trouble = Callable[[World], None]
GPU = "nvidia.com/gpu"


def _resources(world: World, **changes: Any) -> None:
    world.spec = replace(world.spec, resources=replace(world.spec.resources, **changes))


def _guest(cpu: str = "0", **changes: Any) -> dict[str, Any]:
    asked = {"cpu": cpu, **{key.replace("gpus", GPU): value for key, value in changes.items()}}
    return {"containers": [{"name": "c", "resources": {"requests": asked}}], "nodeName": "node-a"}


def _no_gpus(world: World) -> None:
    _resources(world, gpus=1)
    world.preflight.node_objects = [node("node-a", "zone-a", gpus=2), node("b", "zone-b", gpus=0)]
    world.preflight.add_pod("guest", _guest(gpus="1"))


def _small_quota(world: World) -> None:
    world.preflight.add_quota("team", {"pods": "3"})


def _limit_range(world: World) -> None:
    limits = [{"type": "Container", "min": {"cpu": "100m"}}]
    meta = {"name": "bounds", "namespace": "serving"}
    world.preflight.others.append(
        {"kind": "LimitRange", "metadata": meta, "spec": {"limits": limits}}
    )


def _budget(world: World) -> None:
    selector = {"matchLabels": {"slipway.dev/serves": SERVICE}}
    meta = {"name": "keep", "namespace": "serving"}
    spec = {"selector": selector, "minAvailable": 2}
    world.preflight.others.append({"kind": "PodDisruptionBudget", "metadata": meta, "spec": spec})


def _certificate(world: World) -> None:
    now_s = world.clock.time_ns() // 1_000_000_000
    shown = Certificate(host="h", begins_s=now_s - 80 * 86_400, ends_s=now_s + 3 * 86_400)
    world.preflight.shown["chat.localhost"] = shown


def _edited_route(world: World) -> None:
    world.cluster.edited_route = "an extra rule"


def _budget_usd(world: World) -> None:
    _resources(world, price_usd_per_hour=Decimal(36))
    world.set_policy(overlap_budget_usd=Decimal("0.50"))


TROUBLES: list[tuple[Trouble, str]] = [
    (
        lambda world: world.preflight.denied.add("create pods in serving"),
        "create pods in serving: is not allowed; 1 permission more [permission-missing]",
    ),
    (lambda world: world.images.images.clear(), "is not in the registry; 1 image more"),
    (
        lambda world: world.preflight.add_pod("chat-test", _guest(), namespace="serving"),
        "Pod/serving/chat-test: the name is taken, by what belongs to somebody else",
    ),
    (_edited_route, "routes of chat: an extra rule; 1 route more"),
    (_certificate, "must be valid for 7 days, 3 days are left; 4 days more"),
    (_budget, "PodDisruptionBudget/serving/keep: lets none of the candidate's 2 pods be evicted"),
    (
        _small_quota,
        "2 pods of chat-green: needs 2 pods of quota team (pods), 1 pod free; 1 pod more",
    ),
    (
        lambda world: world.preflight.add_quota("team", {"limits.cpu": "9"}),
        "container server states no limits.cpu, and quota team (limits.cpu) lets in only pods",
    ),
    (_limit_range, "asks for 0.05 CPUs of cpu, LimitRange bounds allows at least 0.1 CPUs"),
    (
        lambda world: _resources(world, node_selector=(("gpu", "H100"),)),
        "needs a node with gpu=H100, 0 of 2 nodes have it; 1 more",
    ),
    (lambda world: _resources(world, gpus=9), "one pod needs 9 GPUs on one node, the largest has"),
    (_no_gpus, "2 pods of chat-green: needs 2 GPUs, 1 GPU free in zone-a; 1 GPU more [gpu-short]"),
    (_budget_usd, "overlap of 2 pods: costs up to 1.20 USD (60 s at 36 USD an hour and pod)"),
]


@pytest.mark.parametrize(("trouble", "said"), TROUBLES)
def test_release_that_cannot_be_carried_out_is_refused_before_anything_is_written(
    world: World, trouble: Trouble, said: str
) -> None:
    world.journal.next_process()
    trouble(world)
    before = world.final_state()
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "infeasible"
    assert said in caught.value.message
    assert world.journal.writes == []
    assert world.final_state() == before


def test_what_the_api_server_refuses_in_a_dry_run_is_refused_before_anything_is_kept(
    world: World,
) -> None:
    before = world.final_state()
    world.cluster.refusal = PermanentError(
        "a webhook says no", code="refused", hint="ask its owner"
    )
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "refused"
    assert world.final_state() == before


def test_plan_shows_the_same_shortfall_as_the_release(world: World) -> None:
    _no_gpus(world)
    planned = planned_release(SERVICE, "2").feasibility
    assert planned is not None
    assert planned.way is None
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert all(str(item) in caught.value.message for item in planned.shortfalls)


def test_plan_shows_way_price_and_what_could_not_be_seen(world: World) -> None:
    _resources(world, price_usd_per_hour=Decimal(36))
    world.preflight.hidden = {"pods", "LimitRange"}
    found = planned_release(SERVICE, "2").feasibility
    assert found is not None
    assert (found.way, found.overlap.longest_usd) == (Way.BLUE_GREEN, Decimal("1.20"))
    assert {item.what for item in found.unseen} == {
        "Pods in all namespaces",
        "LimitRanges in serving",
        "certificates of the gateway",
    }


def test_version_that_is_live_already_is_nothing_to_refuse(world: World) -> None:
    _no_gpus(world)
    assert world.release("1")["outcome"] == "done"
    assert planned_release(SERVICE, "1").feasibility is None


@pytest.mark.parametrize("killed_at", ["apply Pod chat-test", "apply Deployment chat-green"])
def test_release_killed_after_its_pods_were_made_goes_on_where_it_was_just_enough(
    world: World, killed_at: str
) -> None:
    world.preflight.add_quota("team", {"pods": "4"})
    world.die_at_write(killed_at)
    world.die_in_release("2")
    world.journal.next_process()
    planned = planned_release(SERVICE, "2").feasibility
    assert planned is not None
    assert (planned.way, planned.shortfalls) == (Way.BLUE_GREEN, ())
    assert world.release_after_death("2")["outcome"] == "done"


def test_release_that_is_unfinished_is_brought_to_its_end_however_full_it_is(world: World) -> None:
    world.die_at_write("record smoked")
    world.die_in_release("2")
    _small_quota(world)
    world.journal.next_process()
    planned = planned_release(SERVICE, "2")
    assert planned.feasibility is not None
    assert planned.feasibility.way is None
    assert not planned.refused
    assert world.release_after_death("2")["outcome"] == "done"


def test_release_after_another_ones_leftover_is_looked_at_under_the_lock(world: World) -> None:
    world.set_policy(when_busy=WhenBusy.QUEUE)
    world.die_at_write("record smoked")
    world.die_in_release("2")
    _resources(world, gpus=9)
    with pytest.raises(PermanentError) as caught:
        world.release_after_death("3")
    assert caught.value.code == "infeasible"
    assert (world.record.version, world.record.phase) == ("2", Phase.ROLLED_BACK)
    assert world.cluster.leases[SERVICE].holder == ""


def test_release_waits_for_room_and_begins_when_there_is_some(world: World) -> None:
    world.set_policy(when_full=WhenFull.QUEUE, queue_timeout_s=600.0)
    _small_quota(world)
    world.preflight.add_pod("guest", _guest(), namespace="serving")
    world.preflight.others[0]["spec"]["hard"]["pods"] = "4"
    began = world.clock.monotonic()

    def leave() -> None:
        if world.clock.monotonic() - began > 60:
            world.preflight.others[:] = world.preflight.others[:1]

    world.clock.while_waiting.append(leave)
    assert world.release("2")["outcome"] == "done"
    assert world.clock.monotonic() - began > 60


def test_release_that_waited_for_room_in_vain_has_written_nothing(world: World) -> None:
    world.set_policy(when_full=WhenFull.QUEUE, queue_timeout_s=600.0)
    world.journal.next_process()
    world.preflight.add_quota("team", {"pods": "4"})
    world.preflight.add_pod("guest", _guest(), namespace="serving")
    began = world.clock.monotonic()
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "infeasible"
    assert "s for room)" in caught.value.message
    assert world.clock.monotonic() - began >= 600
    assert world.journal.writes == []


def test_release_waits_for_pods_that_end_whatever_its_policy_says(world: World) -> None:
    world.preflight.add_quota("team", {"pods": "4"})
    ending = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    world.preflight.add_pod("guest", _guest(), namespace="serving", **ending)
    world.clock.while_waiting.append(lambda: world.preflight.others.__delitem__(slice(1, None)))
    assert world.release("2")["outcome"] == "done"


def test_wait_for_room_outlives_an_api_server_that_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set_policy(when_full=WhenFull.QUEUE, queue_timeout_s=600.0)
    world.preflight.add_quota("team", {"pods": "4"})
    world.preflight.add_pod("guest", _guest(), namespace="serving")
    look, looks = world.preflight.nodes, iter(range(100))

    def unsteady() -> Any:
        number = next(looks)
        if number in {1, 2}:
            raise TransientError("away", code="api-unreachable", hint="wait")
        if number == 3:
            world.preflight.others[:] = world.preflight.others[:1]
        return look()

    monkeypatch.setattr(world.preflight, "nodes", unsteady)
    assert world.release("2")["outcome"] == "done"


def test_first_look_that_fails_is_said_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> Any:
        raise TransientError("away", code="api-unreachable", hint="wait")

    monkeypatch.setattr(world.preflight, "nodes", away)
    with pytest.raises(TransientError):
        world.release("2")


def test_error_of_the_routes_that_is_no_edit_is_not_taken_for_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_service: str) -> None:
        raise PermanentError("no route", code="not-installed", hint="install it")

    monkeypatch.setattr(world.traffic, "read", missing)
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "not-installed"


def test_service_released_while_this_one_waited_for_room_is_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen before the lock says nothing of the slot that another release has filled."""
    looked: list[float] = []
    look = world.preflight.nodes

    def counting() -> Any:
        looked.append(time.monotonic())
        return look()

    monkeypatch.setattr(world.preflight, "nodes", counting)
    world.release("2")
    assert len(looked) == 1
    world.set_policy(when_busy=WhenBusy.QUEUE)
    lease = world.releases.take(
        world.releases.lock(SERVICE), holder=holder_on("other"), duration_s=5
    )
    assert lease.holder
    world.release("3")
    assert len(looked) == 2
