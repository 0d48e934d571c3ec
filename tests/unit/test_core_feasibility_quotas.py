from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from slipway.core.feasibility.placement import Wanted
from slipway.core.feasibility.quotas import (
    limit_shortfalls,
    quota_shortfalls,
    unstated_shortfalls,
    with_defaults,
)
from slipway.core.feasibility.values import (
    Code,
    Container,
    Limit,
    PodDemand,
    PodSeen,
    Quota,
    Role,
    Shortfall,
)

GPU = "nvidia.com/gpu"
GIB = 1024**3


def demand(**changes: Any) -> PodDemand:
    made = Container(
        name="server",
        requests={"cpu": 500, "memory": GIB, GPU: 1},
        limits={"memory": GIB, GPU: 1},
    )
    return PodDemand(containers=(made,), **changes)


def quota(hard: dict[str, int], used: dict[str, int] | None = None, **changes: Any) -> Quota:
    return Quota(name="team", hard=hard, used=used or {}, **changes)


def short(
    *quotas: Quota,
    pods: int = 2,
    seen: tuple[PodSeen, ...] = (),
    creates: dict[str, int] | None = None,
) -> tuple[Shortfall, ...]:
    wanted = Wanted(what=f"{pods} pods of chat-green", pods=pods, demand=demand())
    return tuple(
        quota_shortfalls(
            wanted, quotas, seen, creates=creates or {}, counts=lambda pod: pod.ours is Role.OTHER
        )
    )


def test_quota_with_room_lacks_nothing() -> None:
    assert short(quota({f"requests.{GPU}": 4, "pods": 10}, {f"requests.{GPU}": 2})) == ()


def test_quota_is_short_of_exactly_what_is_missing() -> None:
    (found,) = short(quota({f"requests.{GPU}": 4}, {f"requests.{GPU}": 3}))
    assert (found.code, found.needs, found.free, found.short) == (Code.QUOTA, 2, 1, 1)
    assert found.text == (
        "needs 2 GPUs of quota team (requests.nvidia.com/gpu), 1 GPU free; 1 GPU more"
    )


def test_pods_that_make_room_first_are_not_counted_as_used() -> None:
    full = quota({"pods": 2}, {"pods": 2})
    own = PodSeen(namespace="serving", name="x", node="a", demand=demand(), ours=Role.CANDIDATE)
    assert [item.free for item in short(full)] == [0]
    assert [item.free for item in short(full, seen=(own,))] == [1]
    assert short(full, seen=(own, replace(own, name="y"))) == ()


def test_quota_that_is_used_beyond_its_limit_has_nothing_free() -> None:
    assert [item.free for item in short(quota({"pods": 2}, {"pods": 5}))] == [0]


def test_objects_are_counted_beside_pods() -> None:
    (found,) = short(
        quota({"count/deployments.apps": 1}, {"count/deployments.apps": 1}),
        creates={"count/deployments.apps": 1},
    )
    assert "needs 1 piece of quota team (count/deployments.apps), 0 pieces free" in found.text


@pytest.mark.parametrize(
    ("scopes", "with_deadline", "counted"),
    [
        (("Terminating",), True, True),
        (("Terminating",), False, False),
        (("NotTerminating", "NotBestEffort"), False, True),
        (("NotTerminating",), True, False),
        (("BestEffort",), False, False),
    ],
)
def test_quota_counts_pods_of_its_scopes_alone(
    scopes: tuple[str, ...], with_deadline: bool, counted: bool
) -> None:
    wanted = Wanted(what="x", pods=1, demand=demand(has_deadline=with_deadline))
    full = quota({"pods": 0, "limits.cpu": 5}, scopes=scopes)
    found = tuple(quota_shortfalls(wanted, [full], (), creates={}, counts=lambda _: True))
    assert bool(found) is counted
    assert bool(tuple(unstated_shortfalls("x", wanted.demand, [full]))) is counted


def test_what_a_quota_wants_stated_and_is_not_is_named() -> None:
    (found,) = unstated_shortfalls("x", demand(), [quota({"limits.cpu": 5, "cpu": 9, "pods": 1})])
    assert found.code is Code.UNSTATED
    assert found.text.startswith("container server states no limits.cpu, and quota team")


def test_default_of_a_limit_range_states_it() -> None:
    default = Limit(
        name="defaults",
        kind="Container",
        default_limits={"cpu": 700},
        default_requests={"cpu": 100, "ephemeral-storage": 7},
    )
    filled = with_defaults(demand(), [default, replace(default, kind="Pod")])
    assert tuple(unstated_shortfalls("x", filled, [quota({"limits.cpu": 5})])) == ()
    assert filled.containers[0].requests["cpu"] == 500
    assert filled.containers[0].requests["ephemeral-storage"] == 7


def limited(made: PodDemand | None = None, kind: str = "Container", **bounds: Any) -> list[str]:
    limit = Limit(name="bounds", kind=kind, **bounds)
    filled = with_defaults(made or demand(), [limit])
    found = tuple(limit_shortfalls("x", filled, [limit]))
    assert {item.code for item in found} <= {Code.LIMIT}
    return [item.text for item in found]


def test_pod_within_a_limit_range_lacks_nothing() -> None:
    assert limited(least={"cpu": 500}, most={"memory": GIB}, ratios={"memory": Fraction(1)}) == []


def test_pod_below_a_least_request_is_told_by_how_much() -> None:
    assert limited(least={"cpu": 800}) == [
        "container server asks for 0.5 CPUs of cpu, LimitRange bounds allows at least 0.8 CPUs;"
        " 0.3 CPUs more"
    ]


def test_pod_beyond_a_most_is_told_by_how_much() -> None:
    assert limited(kind="Pod", most={"memory": GIB // 2}) == [
        "the pod asks for 1 GiB of memory, LimitRange bounds allows at most 512 MiB; 512 MiB less"
    ]


def test_pod_without_a_limit_that_is_capped_is_told_so() -> None:
    (text,) = limited(most={"cpu": 2000})
    assert text.startswith("container server states no limit of cpu, and LimitRange bounds caps it")


def test_default_limit_below_the_request_is_refused_as_the_server_would() -> None:
    (text,) = limited(default_limits={"cpu": 300})
    assert "asks for 0.5 CPUs of cpu, LimitRange bounds allows at most 0.3 CPUs" in text
    assert limited(default_limits={"cpu": 500}) == []


def test_limit_far_above_its_request_is_refused_and_one_that_is_missing_too() -> None:
    made = Container(name="server", requests={"memory": 1}, limits={"memory": 3})
    wide = PodDemand(containers=(made,))
    (text,) = limited(wide, ratios={"memory": Fraction(2)})
    assert text == (
        "container server is limited to 3 bytes of memory and requests 1 byte; LimitRange bounds"
        " allows 2 times as much, and asks for both"
    )
    assert limited(wide, ratios={"memory": Fraction(3)}) == []
    assert len(limited(wide, ratios={"cpu": Fraction(3)})) == 1
    assert len(limited(ratios={"cpu": Fraction(3)})) == 1
