"""Whoever held the lock before writes nothing any more once another process has taken over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from slipway.core.errors import ConflictError, PermanentError, TransientError
from slipway.core.release.record import Phase
from slipway.core.release.storage import from_storage
from slipway.core.routing import Slot, all_to
from slipway.manifests.names import FENCE_ANNOTATION
from slipway.manifests.release_objects import record_name
from slipway.ports.records import StoredRecord
from slipway.ports.workloads import Manifest
from tasks.plan import planned_release
from tests.flow.world import MODEL, SERVICE, World

_ROUTES = (("VirtualService", SERVICE), ("DestinationRule", SERVICE))
_GUARDED = (
    ("ConfigMap", record_name(SERVICE)),
    *_ROUTES,
    ("Deployment", "chat-blue"),
    ("Deployment", "chat-green"),
)


def _first_decision(world: World) -> Callable[[], None]:
    """Return what checks, at the first write that is no stamp, that everything is stamped."""

    def check() -> None:
        number = world.cluster.leases[SERVICE].fence
        found = {world.cluster.fences.get(item) for item in _GUARDED}
        assert found == {number}, world.cluster.fences

    return check


def test_heir_stamps_everything_before_its_first_decision(world: World) -> None:
    world.release("2")
    world.journal.next_process()
    world.at_write("record requested", _first_decision(world))
    world.release("3")
    assert world.journal.writes[:5] == [
        f"stamp {record_name(SERVICE)}",
        *(f"stamp {kind} {name}" for kind, name in _GUARDED[1:]),
    ]


@pytest.mark.parametrize("stamp", range(1, 6))
def test_heir_killed_between_two_stamps_is_followed_by_one_that_stamps_all_again(
    world: World, stamp: int
) -> None:
    world.release("2")
    world.journal.next_process()
    world.journal.die_after = stamp
    world.die_in_release("3")
    world.journal.next_process()
    world.at_write("record requested", _first_decision(world))
    world.clock.advance(60)
    assert world.release("3")["outcome"] == "done"


def test_every_write_of_a_release_carries_its_locks_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    apply, scale, route = world.workloads.apply, world.workloads.scale, world.traffic.apply

    def applied(manifest: Manifest, *, dry_run: bool = False) -> object:
        notes = manifest["metadata"].get("annotations", {})
        seen[f"{manifest['kind']} {dry_run}"] = int(notes[FENCE_ANNOTATION])
        return apply(manifest, dry_run=dry_run)

    def scaled(*args: Any, **named: Any) -> None:
        seen["scale"] = named["fence"]
        scale(*args, **named)

    def routed(*args: Any, **named: Any) -> None:
        seen["route"] = named["fence"]
        route(*args, **named)

    monkeypatch.setattr(world.workloads, "apply", applied)
    monkeypatch.setattr(world.workloads, "scale", scaled)
    monkeypatch.setattr(world.traffic, "apply", routed)
    world.release("2")
    number = world.cluster.leases[SERVICE].fence
    kinds = {"Pod True", "Pod False", "Deployment True", "Deployment False", "scale", "route"}
    assert seen == dict.fromkeys(kinds, number)
    assert world.record.fence == number


def test_number_above_ours_on_any_object_means_that_the_lock_is_lost(world: World) -> None:
    for item in (_GUARDED[0], *_ROUTES, _GUARDED[3]):
        before = dict(world.cluster.fences)
        world.cluster.fences[item] = 99
        world.journal.next_process()
        with pytest.raises(ConflictError) as caught:
            world.release("2")
        assert caught.value.code == "lock-lost"
        assert world.writes() == []
        world.cluster.fences = before


def test_former_holder_that_wakes_in_a_write_stops_and_takes_nothing_back(world: World) -> None:
    """It has looked at its lock, was stopped, and writes now: the cluster alone can refuse."""

    def heir_took_over() -> None:
        number = world.cluster.leases[SERVICE].fence + 1
        world.cluster.fences.update(dict.fromkeys(_GUARDED, number))

    world.at_write("apply Deployment chat-green", heir_took_over)
    with pytest.raises(ConflictError) as caught:
        world.release("2")
    assert caught.value.code == "lock-lost"
    assert world.record.phase is Phase.TESTED
    assert world.journal.writes[-1].startswith("apply Deployment")


def test_record_that_the_former_holder_writes_meanwhile_is_read_again_and_stamped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, late = world.releases.load, [True]

    def load_before_its_last_write(service: str) -> StoredRecord | None:
        found = load(service)
        if late:
            late.clear()
            assert found is not None
            world.releases.save(found.record, version=found.version)
        return found

    monkeypatch.setattr(world.releases, "load", load_before_its_last_write)
    assert world.release("2")["outcome"] == "done"


@pytest.mark.parametrize("version", ["1", "2"])
def test_alias_that_a_former_holder_moved_is_put_right_when_a_release_opens(
    world: World, version: str
) -> None:
    world.registry.aliases[MODEL, "live"] = "3"
    world.at_write("record requested", lambda: _assert_alias(world, "1"))
    world.release(version)
    assert world.alias == version


def test_alias_put_right_is_where_a_release_that_fails_moves_it_back_to(world: World) -> None:
    world.registry.aliases[MODEL, "live"] = "3"
    world.at_write("record baking", lambda: world.cluster.break_pods(SERVICE, Slot.GREEN))
    with pytest.raises(PermanentError):
        world.release("2")
    world.assert_taken_back("2", code="candidate-unhealthy")


def test_alias_is_left_to_a_release_that_goes_on_after_its_users_moved(world: World) -> None:
    world.die_at_write("record promoted")
    world.die_in_release("2")
    assert world.alias == "1"
    world.at_write("stamp Deployment chat-green", lambda: _assert_alias(world, "1"))
    assert world.release_after_death("2")["outcome"] == "done"
    assert (world.alias, world.record.alias_before) == ("2", "1")


def test_evidence_of_a_former_holder_lies_beside_that_which_counts(world: World) -> None:
    world.release("2")
    kept = dict(world.objects.objects)
    stale = f"releases/{SERVICE}/chat-v2-2/000001/record.json"
    world.objects.objects[stale] = b"{}"
    assert world.release("2")["already_done"]
    assert {key: world.objects.objects[key] for key in kept} == kept
    assert world.objects.objects.keys() == {*kept, stale}


def test_record_stored_as_evidence_before_the_end_is_stored_again_at_the_next_run(
    world: World,
) -> None:
    world.release("2")
    (key,) = (key for key in world.objects.objects if key.endswith("chat-v2-2/000002/record.json"))
    ended = world.objects.objects[key]
    world.objects.objects[key] = ended.replace(b'"phase":"done"', b'"phase":"baking"')
    assert world.release("2")["already_done"]
    newest = max(key for key in world.objects.objects if key.endswith("/record.json"))
    assert from_storage(world.objects.objects[newest].decode()) == world.record


def test_slot_that_changed_since_it_was_looked_at_is_scaled_after_another_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Deployment's controller writes its status between the look and the write."""
    blue = next(world.cluster.slot_deployments(SERVICE, Slot.BLUE))
    observe, changes = world.workloads.observe, [2]

    def then_changed(namespace: str, deployment: str) -> object:
        seen = observe(namespace, deployment)
        retired = world.cluster.routes[SERVICE] == all_to(SERVICE, Slot.GREEN)
        if deployment == blue.name and retired and changes[0]:
            changes[0] -= 1
            blue.resource_version = world.cluster.number()
        return seen

    monkeypatch.setattr(world.workloads, "observe", then_changed)
    assert world.release("2")["outcome"] == "done"
    assert (changes, world.replicas(Slot.BLUE)) == ([0], 0)


def test_slot_that_gets_users_while_it_is_to_be_scaled_down_keeps_its_pods(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue = next(world.cluster.slot_deployments(SERVICE, Slot.BLUE))
    observe = world.workloads.observe

    def then_routed_to(namespace: str, deployment: str) -> object:
        seen = observe(namespace, deployment)
        if deployment == blue.name and world.record.intent == "retire slot blue":
            blue.resource_version = world.cluster.number()
            world.cluster.routes[SERVICE] = all_to(SERVICE, Slot.BLUE)
        return seen

    monkeypatch.setattr(world.workloads, "observe", then_routed_to)
    with pytest.raises(PermanentError) as caught:
        world.release("2")
    assert caught.value.code == "slot-not-idle"
    assert world.replicas(Slot.BLUE) == 2


def test_stamps_are_repeated_when_the_api_server_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp, lost = world.traffic.stamp, [True, True]

    def unanswered(service: str, *, fence: int) -> None:
        if lost:
            lost.pop()
            raise TransientError("no answer", code="api-unreachable", hint="wait")
        stamp(service, fence=fence)

    monkeypatch.setattr(world.traffic, "stamp", unanswered)
    assert world.release("2")["outcome"] == "done"


def _assert_alias(world: World, version: str) -> None:
    assert world.alias == version


def test_release_without_the_policies_is_refused_before_its_first_write(world: World) -> None:
    world.cluster.enforced = False
    before = world.record
    with pytest.raises(PermanentError, match="accepts a stale fencing number") as caught:
        world.release("2")
    assert caught.value.code == "fence-not-in-force"
    assert world.writes() == []
    assert replace(world.record, fence=before.fence) == before
    assert world.cluster.leases[SERVICE].holder == ""


def test_policies_that_come_into_force_a_moment_later_are_waited_for(world: World) -> None:
    world.cluster.enforced = False

    def enforce() -> None:
        world.cluster.enforced = True

    world.clock.while_waiting.append(enforce)
    assert world.release("2")["outcome"] == "done"


def test_plan_names_missing_policies_too(world: World) -> None:
    world.cluster.enforced = False
    with pytest.raises(PermanentError, match="slipway install chat"):
        planned_release(SERVICE, "2")


def test_plan_of_a_service_never_released_asks_nothing_of_the_policies(fresh: World) -> None:
    fresh.cluster.enforced = False
    assert planned_release(SERVICE, "1").release_id == "chat-v1-1"
