from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.errors import InputError
from slipway.core.release.promotion import (
    alias_due,
    image_mismatch,
    promotion_refusal,
    rollback_refusal,
    route_after_rollback,
    route_at,
    route_with_users_on_candidate,
)
from slipway.core.release.record import (
    FORWARD,
    Digests,
    Phase,
    ReleaseRecord,
    SlotRecord,
    with_candidate,
)
from slipway.core.release.scaling import Scaling
from slipway.core.rollout import PodObservation
from slipway.core.routing import Slot, all_to, empty
from tests.examples import DIGEST, IMAGE, advanced, autoscaling, pod, record, rollout

BOTH = frozenset(Slot)


def good_pod(name: str) -> PodObservation:
    return replace(pod(name), image_digest=DIGEST)


def candidate() -> ReleaseRecord:
    """Return a release to green over a serving blue, whose pods a and b were tested."""
    return replace(
        record("2"),
        candidate=Slot.GREEN,
        stable=Slot.BLUE,
        digests=Digests(image=DIGEST),
        tested_pod_uids=("uid-a", "uid-b"),
    )


def first() -> ReleaseRecord:
    return replace(candidate(), candidate=Slot.BLUE, stable=None)


def refusal(*pods: PodObservation) -> str | None:
    return promotion_refusal(candidate(), rollout(*pods), replicas=2)


def test_pods_that_an_autoscaler_added_may_get_the_users() -> None:
    scaling = Scaling(settings=autoscaling(), needed=2, candidate_floor=2)
    scaled = replace(candidate(), scaling=scaling)
    seen = rollout(good_pod("a"), good_pod("new"))
    assert promotion_refusal(scaled, seen, replicas=2) is None
    assert promotion_refusal(candidate(), seen, replicas=2) is not None
    wrong = rollout(good_pod("a"), pod("new"))
    assert promotion_refusal(scaled, wrong, replicas=2) is not None


def test_tested_pods_that_are_all_ready_may_get_the_users() -> None:
    assert refusal(good_pod("a"), good_pod("b")) is None


def test_candidate_without_a_deployment_gets_nobody() -> None:
    assert promotion_refusal(candidate(), None, replicas=2) == (
        "slot green has no Deployment any more"
    )


@pytest.mark.parametrize(
    "second",
    [
        replace(good_pod("b"), ready=False),
        replace(good_pod("b"), terminating=True),
    ],
)
def test_too_few_ready_pods_get_nobody(second: PodObservation) -> None:
    assert refusal(good_pod("a"), second) == "slot green has 1 ready pods of 2 needed"


def test_pods_that_were_never_tested_get_nobody() -> None:
    assert refusal(good_pod("a"), good_pod("c")) == ("pods replaced since they were tested: c")


def test_pods_of_another_image_get_nobody() -> None:
    changed = replace(good_pod("b"), image_digest="sha256:other")

    assert refusal(good_pod("a"), changed) == (f"image {DIGEST} expected: b runs sha256:other")


def test_pods_of_other_weights_on_the_volume_get_nobody() -> None:
    released = replace(candidate(), digests=Digests(image=DIGEST, weights="a1"))
    right, other = (replace(good_pod(name), weights=name) for name in ("a1", "b2"))

    assert image_mismatch(released, (right, good_pod("in-its-image"))) is None
    assert image_mismatch(released, (right, other)) == "weights a1 expected: b2 has b2"


def test_pod_whose_image_is_unknown_is_a_mismatch() -> None:
    assert image_mismatch(candidate(), (pod("a"),)) == f"image {DIGEST} expected: a runs None"
    assert image_mismatch(candidate(), (good_pod("a"),)) is None


def test_promotion_keeps_the_old_slot_warm() -> None:
    assert route_with_users_on_candidate(candidate()) == all_to("chat", Slot.GREEN, subsets=BOTH)


def test_first_promotion_has_no_old_slot() -> None:
    assert route_with_users_on_candidate(first()) == all_to("chat", Slot.BLUE)


def test_rollback_gives_the_users_back() -> None:
    assert route_after_rollback(candidate(), keep=False) == all_to("chat", Slot.BLUE)


def test_rollback_keeps_the_candidate_known_while_its_streams_run() -> None:
    kept = route_after_rollback(candidate(), keep=True)

    assert kept == all_to("chat", Slot.BLUE, subsets=BOTH)
    assert not kept.names(Slot.GREEN)


def test_rollback_of_a_first_release_leaves_nobody_to_serve() -> None:
    assert route_after_rollback(first(), keep=False) == empty("chat")
    kept = route_after_rollback(first(), keep=True)
    assert (kept.shares, kept.subsets) == ((), frozenset({Slot.BLUE}))


@pytest.mark.parametrize(
    ("blue", "green", "refused"),
    [(1, 1, False), (1, 0, False), (0, 0, False), (0, 1, True)],
)
def test_users_go_back_unless_only_the_candidate_can_serve(
    blue: int, green: int, refused: bool
) -> None:
    current = route_with_users_on_candidate(candidate())

    reason = rollback_refusal(candidate(), current, ready={Slot.BLUE: blue, Slot.GREEN: green})

    assert (reason is not None) is refused
    if refused:
        assert reason == "slot blue has no ready pod yet, slot green still serves"


def test_rollback_that_moves_nobody_is_never_refused() -> None:
    assert rollback_refusal(first(), empty("chat"), ready={}) is None
    on_stable = all_to("chat", Slot.BLUE, subsets=BOTH)
    assert rollback_refusal(candidate(), on_stable, ready={Slot.GREEN: 1}) is None


def test_weight_divides_the_users_between_the_slots() -> None:
    route = route_at(candidate(), 5)

    assert (route.percent(Slot.BLUE), route.percent(Slot.GREEN)) == (95, 5)
    assert (route.subsets, route.preview) == (BOTH, None)


def test_first_release_has_nobody_to_share_the_users_with() -> None:
    with pytest.raises(InputError, match="no stable slot"):
        route_at(first(), 5)


def over_version_1() -> ReleaseRecord:
    """Return a release of version 2 to green; version 1 serves from blue."""
    blue, green = candidate().slots
    slots = (replace(blue, version="1"), SlotRecord(slot=green.slot, workload=green.workload))
    return with_candidate(replace(candidate(), slots=slots), image=IMAGE)


def until(phase: Phase) -> tuple[Phase, ...]:
    return FORWARD[1 : FORWARD.index(phase) + 1]


@pytest.mark.parametrize(
    ("phases", "due"),
    [
        ((), "1"),
        (until(Phase.RAMPING), "1"),
        (until(Phase.PROMOTED), None),
        (until(Phase.BAKING), None),
        (until(Phase.DONE), "2"),
        ((Phase.BUILT, Phase.ROLLING_BACK), "1"),
        ((Phase.BUILT, Phase.ROLLING_BACK, Phase.ROLLED_BACK), "1"),
        ((*until(Phase.BAKING), Phase.ROLLING_BACK), None),
        ((*until(Phase.BAKING), Phase.ROLLING_BACK, Phase.ROLLED_BACK), "1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) and value else "",
)
def test_alias_is_due_on_the_version_that_serves_but_while_users_move(
    phases: tuple[Phase, ...], due: str | None
) -> None:
    assert alias_due(advanced(over_version_1(), *phases)) == due


def test_alias_is_due_nowhere_before_anything_was_live() -> None:
    assert alias_due(first()) is None
    ended = advanced(first(), Phase.BUILT, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    assert alias_due(ended) is None


def test_alias_is_due_nowhere_when_the_record_does_not_say_what_serves() -> None:
    unnamed = replace(over_version_1(), slots=candidate().slots)
    assert alias_due(unnamed) is None
