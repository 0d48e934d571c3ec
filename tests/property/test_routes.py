from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slipway.core.errors import InputError
from slipway.core.routing import Route, Share, Slot, all_to, with_preview, without_slot
from slipway.manifests import workload
from slipway.manifests.lint import lint
from slipway.manifests.routes.istio import (
    destination_rule,
    read_route,
    virtual_service,
)
from slipway.manifests.routes.services import service_object
from tests.examples import IMAGE, service
from tests.property.strategies import routes, slots, tokens

any_shares = st.lists(st.builds(Share, slot=slots, percent=st.integers(-200, 200)), max_size=3).map(
    tuple
)


@given(any_shares, st.frozensets(slots))
def test_route_either_divides_all_users_once_or_cannot_be_made(
    shares: tuple[Share, ...], subsets: frozenset[Slot]
) -> None:
    try:
        route = Route(service="chat", shares=shares, subsets=subsets)
    except InputError:
        return
    assert sum(share.percent for share in route.shares) in {0, 100}
    assert (route.shares == ()) == (sum(route.percent(slot) for slot in Slot) == 0)
    assert all(0 <= route.percent(slot) <= 100 for slot in Slot)
    assert {share.slot for share in route.shares} <= route.subsets


@given(routes(), slots, tokens)
def test_preview_never_moves_a_user(route: Route, slot: Slot, token: str) -> None:
    previewed = with_preview(route, slot, token)

    assert previewed.shares == route.shares
    assert previewed.names(slot)
    assert previewed.subsets == route.subsets | {slot}


@given(routes(), slots)
def test_slot_taken_out_leaves_no_trace_or_is_refused(route: Route, slot: Slot) -> None:
    try:
        left = without_slot(route, slot)
    except InputError:
        assert route.percent(slot) > 0
        return
    assert not left.names(slot)
    assert slot not in left.subsets
    assert left.shares == route.shares


@given(slots, st.frozensets(slots))
def test_all_to_one_slot_gives_it_everybody(slot: Slot, warm: frozenset[Slot]) -> None:
    route = all_to("chat", slot, subsets=warm)

    assert (route.percent(slot), route.percent(slot.other)) == (100, 0)


@given(routes(), routes())
def test_revisions_are_equal_exactly_when_the_routes_say_the_same(one: Route, two: Route) -> None:
    def meaning(route: Route) -> object:
        return (frozenset(route.shares), route.preview, route.subsets)

    assert (one.revision == two.revision) == (meaning(one) == meaning(two))


@given(routes())
def test_route_comes_back_from_its_objects(route: Route) -> None:
    spec = service()

    assert read_route(virtual_service(spec, route), destination_rule(spec, route.subsets)) == route


@given(routes())
def test_weights_in_the_virtual_service_sum_to_100(route: Route) -> None:
    for rule in virtual_service(service(), route)["spec"]["http"]:
        destinations = rule.get("route", [])
        if len(destinations) > 1:
            assert sum(item["weight"] for item in destinations) == 100
            assert all(item["weight"] > 0 for item in destinations)
        else:
            assert all("weight" not in item for item in destinations)


@given(routes())
def test_objects_of_every_route_pass_the_linter(route: Route) -> None:
    spec = service()
    deployments = (
        workload.slot_deployment(
            spec, slot=slot, workload=f"chat-{slot}", image=IMAGE, release_id="chat-v1-1"
        )
        for slot in Slot
    )

    found = lint(
        (
            *deployments,
            service_object(spec),
            destination_rule(spec, route.subsets),
            virtual_service(spec, route),
        )
    )

    assert found == ()
