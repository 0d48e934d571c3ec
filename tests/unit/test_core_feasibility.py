"""The decision itself: what is in the way, which way is taken, what it costs."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from slipway.core.feasibility.decide import decide, infeasible, ways_text
from slipway.core.feasibility.price import overlap, price_shortfall, price_text
from slipway.core.feasibility.values import (
    Budget,
    Certificate,
    ClusterSeen,
    Code,
    Container,
    Contradiction,
    Feasibility,
    Limit,
    Needs,
    NodeSeen,
    PodDemand,
    PodSeen,
    Quota,
    Right,
    Role,
    Taken,
    Unseen,
    Way,
)
from slipway.core.service import WhenFull

GPU = "nvidia.com/gpu"
DAY_S = 86_400
NOW_S = 1_800_000_000


def demand(*, has_deadline: bool = False) -> PodDemand:
    made = Container(name="server", requests={"cpu": 100, "memory": 1, GPU: 1}, limits={GPU: 1})
    return PodDemand(containers=(made,), has_deadline=has_deadline)


def needs(**changes: Any) -> Needs:
    made = Needs(
        service="chat",
        namespace="serving",
        workload="chat-green",
        pod=demand(),
        test_pod=demand(has_deadline=True),
        at_first=2,
        at_full=2,
    )
    return replace(made, **changes)


def node(name: str = "a", gpus: int = 8) -> NodeSeen:
    return NodeSeen(
        name=name,
        labels={"topology.kubernetes.io/zone": f"zone-{name}"},
        taints=(),
        allocatable={"cpu": 64_000, "memory": 99, GPU: gpus, "pods": 99},
    )


def pods(count: int, ours: Role = Role.OTHER, **changes: Any) -> tuple[PodSeen, ...]:
    made = PodSeen(namespace="serving", name="x", node="a", demand=demand(), ours=ours)
    return tuple(replace(made, name=f"{ours}-{index}", **changes) for index in range(count))


def cluster(gpus: int = 8, **changes: Any) -> ClusterSeen:
    return replace(ClusterSeen(nodes=(node(gpus=gpus),)), **changes)


def decided(asked: Needs | None = None, seen: ClusterSeen | None = None) -> Feasibility:
    return decide(asked or needs(), seen or cluster(), now_s=NOW_S)


def codes(found: Feasibility) -> list[Code]:
    return [item.code for item in found.shortfalls]


def test_release_with_room_beside_the_stable_slot_is_carried_out() -> None:
    found = decided(seen=cluster(pods=pods(2, Role.STABLE)))
    assert (found.way, found.shortfalls, found.would_fit) == (Way.BLUE_GREEN, (), ())
    assert (found.notes, found.unseen) == ((), ())


def test_first_release_without_room_is_refused_and_nothing_could_be_shrunk() -> None:
    found = decided(seen=cluster(1))
    assert (found.way, codes(found), found.would_fit) == (None, [Code.GPU], ())
    (item,) = found.shortfalls
    assert str(item) == (
        "2 pods of chat-green: needs 2 GPUs, 1 GPU free in zone-a; 1 GPU more [gpu-short]"
    )


def test_other_ways_that_would_fit_are_named_with_what_is_missing_for_them() -> None:
    found = decided(needs(), cluster(3, pods=pods(2, Role.STABLE)))
    assert (found.way, found.would_fit) == (None, (Way.SURGE, Way.IN_PLACE))
    said = ways_text(found)
    assert all("no release does that yet" in text for text in said)
    others = decided(needs(), cluster(4, pods=(*pods(2, Role.STABLE), *pods(1))))
    assert others.would_fit == (Way.QUEUE, Way.SURGE, Way.IN_PLACE)
    assert ways_text(others)[0] == "or wait until others leave (policy.when_full: queue)"


def test_release_waits_for_others_to_leave_only_when_its_policy_says_so() -> None:
    full = cluster(4, pods=(*pods(2, Role.STABLE), *pods(1)))
    assert decided(needs(), full).way is None
    queued = decided(needs(when_full=WhenFull.QUEUE), full)
    assert (queued.way, queued.settles) == (Way.QUEUE, False)
    assert codes(queued) == [Code.GPU]
    hopeless = decided(needs(when_full=WhenFull.QUEUE), cluster(3, pods=pods(2, Role.STABLE)))
    assert hopeless.way is None


def test_pods_that_end_are_waited_for_whatever_the_policy_says() -> None:
    ending = cluster(4, pods=(*pods(2, Role.STABLE), *pods(1, ending=True)))
    found = decided(needs(), ending)
    assert (found.way, found.settles) == (Way.QUEUE, True)
    blocked = decided(needs(), replace(ending, foreign_route="somebody edited it"))
    assert (blocked.way, blocked.settles) == (None, False)


def test_pods_of_the_release_itself_make_room_for_its_own() -> None:
    # A process that died after the deployment: its candidate and its test pod are still there.
    seen = cluster(4, pods=(*pods(2, Role.STABLE), *pods(2, Role.CANDIDATE)))
    assert codes(decided(needs(), seen)) == [Code.GPU]  # of the test pod alone
    with_test = cluster(5, pods=(*seen.pods, *pods(1, Role.TEST)))
    assert decided(needs(), with_test).way is Way.BLUE_GREEN


def test_test_pod_needs_room_beside_a_slot_that_is_still_warm() -> None:
    seen = cluster(4, pods=(*pods(2, Role.STABLE), *pods(2, Role.CANDIDATE)))
    (item,) = decided(needs(), seen).shortfalls
    assert (item.subject, item.needs, item.free) == ("test pod of chat", 1, 0)


def test_shortage_of_the_test_pod_is_said_where_it_is_the_larger_one() -> None:
    full = Quota(name="team", hard={"cpu": 50}, used={"cpu": 50})
    small = Container(name="old", requests={"cpu": 50}, limits={})
    old = pods(1, Role.CANDIDATE, demand=PodDemand(containers=(small,)))
    (item,) = decided(needs(at_first=1, at_full=1), cluster(quotas=(full,), pods=old)).shortfalls
    assert (item.subject, item.short) == ("test pod of chat", 100)


def test_model_that_was_tested_needs_no_test_pod_any_more() -> None:
    seen = cluster(4, pods=(*pods(2, Role.STABLE), *pods(2, Role.CANDIDATE)))
    assert decided(needs(test_pods=0), seen).way is Way.BLUE_GREEN


def test_canary_is_judged_by_the_pods_that_carry_all_users() -> None:
    seen = cluster(6, pods=pods(2, Role.STABLE))
    assert decided(needs(at_first=1, at_full=4), seen).way is Way.BLUE_GREEN
    (item,) = decided(needs(at_first=1, at_full=6), seen).shortfalls
    assert (item.needs, item.free) == (6, 4)
    (worst,) = decided(needs(at_first=5, at_full=6), seen).shortfalls
    assert worst.needs == 6, "the same shortage is said once, as the largest"


def test_growth_for_which_there_is_no_room_is_a_note() -> None:
    found = decided(needs(most=9), cluster())
    assert found.way is Way.BLUE_GREEN
    (note,) = found.notes
    assert note.startswith("no room to grow to autoscaling.max_replicas: 9 pods of chat-green")
    assert decided(needs(most=8), cluster()).notes == ()


def test_nodes_that_may_not_be_seen_are_named_and_not_judged() -> None:
    unseen = Unseen(what="Nodes in all namespaces", why="not allowed to read them")
    found = decided(seen=cluster(nodes=None, every_pod=False, unseen=(unseen,)))
    assert (found.way, found.unseen) == (Way.BLUE_GREEN, (unseen,))


def test_pods_of_others_that_may_not_be_seen_make_what_fits_uncertain() -> None:
    found = decided(seen=cluster(every_pod=False, notes=("a remark",)))
    assert found.way is Way.BLUE_GREEN
    assert found.notes[0] == "a remark"
    assert "may have less room than is said" in found.notes[1]
    (item,) = decided(seen=cluster(1, every_pod=False)).shortfalls
    assert "at most 1 GPU free" in item.text


def test_quota_that_lags_behind_pods_that_have_gone_is_waited_for() -> None:
    lags = Quota(name="team", hard={"pods": 3}, used={"pods": 3})
    found = decided(needs(), cluster(quotas=(lags,), pods=pods(1)))
    assert (found.way, found.settles) == (Way.QUEUE, True)
    others = decided(needs(), cluster(quotas=(lags,), pods=pods(3)))
    assert (others.way, others.would_fit) == (None, (Way.QUEUE,))


def test_quota_is_judged_in_the_services_namespace_alone() -> None:
    full = Quota(name="team", hard={"pods": 1}, used={"pods": 1})
    elsewhere = pods(3, ours=Role.STABLE, namespace="other")
    seen = cluster(quotas=(full,), pods=elsewhere)
    found = decided(needs(), seen)
    assert codes(found) == [Code.QUOTA]
    assert found.shortfalls[0].needs == 2
    assert Way.QUEUE not in found.would_fit


def test_objects_that_are_made_are_counted_with_the_slots_pods() -> None:
    full = Quota(
        name="team", hard={"count/deployments.apps": 1}, used={"count/deployments.apps": 1}
    )
    found = decided(needs(creates={"count/deployments.apps": 1}), cluster(quotas=(full,)))
    assert codes(found) == [Code.QUOTA]


def test_pods_that_the_server_would_refuse_are_said_once() -> None:
    quota = Quota(name="team", hard={"limits.cpu": 9000}, used={})
    limit = Limit(name="bounds", kind="Container", least={"cpu": 200})
    found = decided(seen=cluster(quotas=(quota,), limits=(limit,)))
    assert codes(found) == [Code.UNSTATED, Code.LIMIT]
    assert {item.subject for item in found.shortfalls} == {"pods of chat-green"}


def test_missing_rights_and_images_are_a_line_each() -> None:
    right = Right(
        verb="get", group="", resource="configmaps", namespace="serving", name="canary-release"
    )
    wide = Right(verb="list", group="", resource="nodes")
    image = Unseen(what="x:base", why="x:base is not in the registry")
    found = decided(seen=cluster(missing_rights=(right, wide), missing_images=(image,)))
    assert [str(item) for item in found.shortfalls] == [
        "get configmaps/canary-release in serving: is not allowed; 1 permission more"
        " [permission-missing]",
        "list nodes in all namespaces: is not allowed; 1 permission more [permission-missing]",
        "image x:base: x:base is not in the registry; 1 image more [image-missing]",
    ]
    assert found.would_fit == ()


def test_names_routes_and_contradictions_are_in_the_way() -> None:
    found = decided(
        seen=cluster(
            taken=(Taken(kind="Pod", name="chat-test", owner="helm"),),
            foreign_route="rule extra",
            contradictions=(
                Contradiction(rule="L4", subject="Deployment/x", message="overlap", hint="change"),
            ),
        )
    )
    assert codes(found) == [Code.NAME, Code.ROUTE, Code.CONTRADICTION]
    assert found.shortfalls[0].subject == "Pod/serving/chat-test"
    assert "belongs to helm" in found.shortfalls[0].text
    assert "overlap (L4)" in found.shortfalls[2].text


@pytest.mark.parametrize(
    ("lived_days", "left_s", "needs_s"),
    [
        (90, 7 * DAY_S, None),
        (90, 7 * DAY_S - 1, 7 * DAY_S),
        (90, -5, 7 * DAY_S),
        (3, DAY_S, None),
        (3, DAY_S - 1, DAY_S),
    ],
)
def test_certificate_must_outlast_a_week_or_a_third_of_its_life(
    lived_days: int, left_s: int, needs_s: int | None
) -> None:
    ends_s = NOW_S + left_s
    shown = Certificate(host="h", begins_s=ends_s - lived_days * DAY_S, ends_s=ends_s)
    found = decided(seen=cluster(certificates=(shown,)))
    assert [item.needs for item in found.shortfalls] == ([needs_s] if needs_s else [])
    assert [item.free for item in found.shortfalls] == ([max(left_s, 0)] if needs_s else [])


def test_certificate_must_outlast_the_release() -> None:
    shown = Certificate(host="h", begins_s=NOW_S - 99 * DAY_S, ends_s=NOW_S + 8 * DAY_S)
    (item,) = decided(needs(longest_s=9.0 * DAY_S), cluster(certificates=(shown,))).shortfalls
    assert item.text == "must be valid for 9 days, 8 days are left; 24 hours more"


@pytest.mark.parametrize(
    ("budget", "blocks"),
    [
        (Budget(name="b", min_available=1), False),
        (Budget(name="b", min_available=2), True),
        (Budget(name="b", min_available="50%"), False),
        (Budget(name="b", min_available="51%"), True),
        (Budget(name="b", max_unavailable=1), False),
        (Budget(name="b", max_unavailable=0), True),
        (Budget(name="b", max_unavailable="1%"), False),
        (Budget(name="b"), False),
    ],
)
def test_budget_that_lets_nothing_be_evicted_blocks(budget: Budget, blocks: bool) -> None:
    found = decided(seen=cluster(budgets=(budget,)))
    assert codes(found) == ([Code.BUDGET] if blocks else [])


def test_two_budgets_of_the_same_pods_block_each_other() -> None:
    both = (Budget(name="one", max_unavailable=1), Budget(name="two", max_unavailable=1))
    (item,) = decided(seen=cluster(budgets=both)).shortfalls
    assert item.text.startswith("one and two select the same pods")


def test_overlap_is_priced_exactly_and_rounded_up() -> None:
    asked = needs(shortest_s=60.0, longest_s=3600.0, price_usd_per_hour=Decimal("2.49"))
    priced = overlap(asked)
    assert (priced.shortest_usd, priced.longest_usd) == (Decimal("0.09"), Decimal("4.98"))
    assert price_text(priced) == (
        "2 pods beside the stable slot's for 60 s to 3600 s: 0.09 to 4.98 USD"
    )


def test_overlap_without_a_price_is_not_free() -> None:
    unpriced = overlap(needs(shortest_s=60.0, longest_s=3600.0))
    assert unpriced.shortest_usd is None
    assert price_text(unpriced).endswith("not priced (resources.price_usd_per_hour)")
    assert price_text(overlap(needs())) == "none: no other slot has pods"
    (item,) = decided(needs(longest_s=9.0, budget_usd=Decimal(1))).shortfalls
    assert (item.code, item.needs, item.free) == (Code.COST, 1, 0)
    assert "is not priced, and may cost 1.00 USD" in item.text


def test_overlap_beyond_its_budget_is_refused_by_the_cent() -> None:
    asked = needs(longest_s=3600.0, price_usd_per_hour=Decimal("2.49"), budget_usd=Decimal("4.97"))
    (item,) = decided(asked).shortfalls
    assert (item.needs, item.free, item.short) == (498, 497, 1)
    assert "costs up to 4.98 USD (3600 s at 2.49 USD an hour and pod)" in item.text
    assert price_shortfall(replace(asked, budget_usd=Decimal("4.98"))) is None


def test_refusal_lists_every_reason_and_what_to_do() -> None:
    full = cluster(1, foreign_route="somebody edited it")
    error = infeasible(decided(seen=full), service="chat")
    assert error.code == "infeasible"
    assert error.message.startswith(
        "a release of service chat cannot be carried out, for 2 reasons;"
    )
    assert error.message.count("\n") == 2
    assert "free GPUs" in error.hint
    waited = infeasible(decided(seen=cluster(1)), service="chat", waited_s=61.2)
    assert "for 1 reason (waited 61 s for room)" in waited.message
