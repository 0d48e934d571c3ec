from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from slipway.core.errors import InputError, PermanentError
from slipway.core.routing import Route, Share, Slot, all_to, empty, split, with_preview
from slipway.core.service import Implementation, Router, RouterKind, ServiceSpec, Wish
from slipway.manifests.accounts import release_rules
from slipway.manifests.install import install_objects, only_when_absent
from slipway.manifests.routes.gateway_api import http_route, read_http_route
from slipway.manifests.routes.plain import plain_services, read_plain_services
from slipway.manifests.routes.routers import route_names
from slipway.manifests.routes.splitting import slot_meant, split_filter
from tests.examples import service

BOTH = frozenset(Slot)
ROUTES = (
    empty("chat"),
    all_to("chat", Slot.BLUE),
    all_to("chat", Slot.GREEN, subsets=BOTH),
    with_preview(empty("chat"), Slot.BLUE, "c0ffee"),
    with_preview(all_to("chat", Slot.BLUE), Slot.GREEN, "c0ffee"),
)


def routed(kind: RouterKind, **changes: Any) -> ServiceSpec:
    return replace(service(), router=Router(kind=kind, **changes))


STANDARD = routed(RouterKind.GATEWAY_API)
PLAIN = routed(RouterKind.SERVICE)


def rules(route: Route) -> dict[str, dict[str, Any]]:
    return {rule["name"]: rule for rule in http_route(STANDARD, route)["spec"]["rules"]}


@pytest.mark.parametrize("route", [*ROUTES, split("chat", stable=Slot.BLUE, candidate_percent=5)])
def test_http_route_is_read_back_as_written(route: Route) -> None:
    assert read_http_route(http_route(STANDARD, route, fence=3)) == route


@pytest.mark.parametrize("route", ROUTES)
def test_plain_services_are_read_back_as_written(route: Route) -> None:
    assert read_plain_services(*plain_services(PLAIN, route, fence=3)) == route


def test_http_route_is_bound_to_the_gateway_that_the_service_names() -> None:
    spec = routed(RouterKind.GATEWAY_API, gateway="edge/models")
    written = http_route(spec, empty("chat"))["spec"]
    assert written["parentRefs"] == [{"namespace": "edge", "name": "models"}]
    assert written["hostnames"] == ["chat.localhost"]


def test_users_of_a_divided_http_route_go_to_one_service_a_slot() -> None:
    (rule,) = rules(split("chat", stable=Slot.GREEN, candidate_percent=25)).values()
    assert [(item["name"], item["weight"]) for item in rule["backendRefs"]] == [
        ("chat-green", 75),
        ("chat-blue-or-green", 25),
    ]
    assert rule["name"] == "users.sticky.falls-back"


def test_gateway_of_somebody_else_divides_users_plainly() -> None:
    other = routed(RouterKind.GATEWAY_API, implementation=Implementation.OTHER)
    route = split("chat", stable=Slot.GREEN, candidate_percent=25)
    (rule,) = http_route(other, route)["spec"]["rules"]
    assert rule["name"] == "users"
    assert [item["name"] for item in rule["backendRefs"]] == ["chat-green", "chat-blue"]
    assert read_http_route(http_route(other, route)) == route
    assert _names(other, "EnvoyFilter") == []


@pytest.mark.parametrize(
    ("sticky", "fall_back", "name"),
    [
        (Wish.OFF, Wish.OFF, "users"),
        (Wish.REQUIRED, Wish.OFF, "users.sticky"),
        (Wish.OFF, Wish.WANTED, "users.falls-back"),
        (Wish.WANTED, Wish.REQUIRED, "users.sticky.falls-back"),
    ],
)
def test_rule_of_divided_users_says_by_its_name_what_the_filter_adds(
    sticky: Wish, fall_back: Wish, name: str
) -> None:
    spec = routed(RouterKind.GATEWAY_API, sticky=sticky, fall_back=fall_back)
    (rule,) = http_route(spec, split("chat", stable=Slot.BLUE, candidate_percent=5))["spec"][
        "rules"
    ]
    assert rule["name"] == name
    filtered = {
        patch["match"]["routeConfiguration"]["vhost"]["route"]["name"]
        for patch in split_filter("edge")["spec"]["configPatches"]
    }
    assert name == "users" or name in filtered
    assert bool(_names(spec, "EnvoyFilter")) == (name != "users")


def test_filter_names_no_service_so_that_all_of_a_gateway_share_it() -> None:
    spec = routed(RouterKind.ISTIO, gateway="edge/models")
    (found,) = (item for item in install_objects(spec) if item["kind"] == "EnvoyFilter")
    assert found == split_filter("edge")
    assert found["metadata"]["namespace"] == "edge"
    assert "chat" not in str(found)


def test_name_of_no_slot_means_none() -> None:
    for name in ("green-or-green", "green-or-red", "blue-or"):
        with pytest.raises(ValueError, match=r"names no slot|is not a valid Slot"):
            slot_meant(name)


def test_http_route_before_the_first_release_names_no_backend() -> None:
    assert "backendRefs" not in rules(empty("chat"))["users"]


def test_preview_of_an_http_route_needs_path_and_token() -> None:
    rule = rules(with_preview(all_to("chat", Slot.BLUE), Slot.GREEN, "c0ffee"))["preview"]
    (match,) = rule["matches"]
    assert match["path"] == {"type": "PathPrefix", "value": "/v1"}
    assert match["headers"] == [{"name": "x-slipway-preview", "type": "Exact", "value": "c0ffee"}]


def test_answers_by_an_http_route_name_slot_and_revision() -> None:
    route = all_to("chat", Slot.BLUE)
    (users,) = rules(route).values()
    (backend,) = users["backendRefs"]
    said = [
        item["responseHeaderModifier"]["set"][0]
        for item in (*users["filters"], *backend["filters"])
    ]
    assert said == [
        {"name": "x-slipway-route", "value": route.revision},
        {"name": "x-slipway-slot", "value": "blue"},
    ]


@pytest.mark.parametrize(
    "edit",
    [
        lambda spec: spec["rules"].append({**spec["rules"][0], "name": "theirs"}),
        lambda spec: spec["rules"].pop(),
        lambda spec: spec["rules"][0].pop("name"),
        lambda spec: spec["rules"][0]["backendRefs"][0].update(name="chat-red"),
        lambda spec: spec["rules"][0]["backendRefs"][0].update(weight=40),
    ],
)
def test_http_route_edited_by_somebody_else_is_refused_by_name(edit: Any) -> None:
    written = deepcopy(http_route(STANDARD, all_to("chat", Slot.BLUE)))
    edit(written["spec"])
    with pytest.raises(PermanentError, match="httproute chat") as caught:
        read_http_route(written)
    assert caught.value.code == "route-foreign"


@pytest.mark.parametrize(
    "selector",
    [
        {"slipway.dev/serves": "chat"},
        {"slipway.dev/serves": "other", "slipway.dev/slot": "blue"},
        {"slipway.dev/serves": "chat", "slipway.dev/slot": "red"},
    ],
)
def test_plain_service_edited_by_somebody_else_is_refused(selector: dict[str, str]) -> None:
    users, preview = plain_services(PLAIN, all_to("chat", Slot.BLUE))
    users["spec"]["selector"] = selector
    with pytest.raises(PermanentError) as caught:
        read_plain_services(users, preview)
    assert caught.value.code == "route-foreign"


def test_plain_service_that_nobody_annotated_is_refused() -> None:
    users, preview = plain_services(PLAIN, all_to("chat", Slot.BLUE))
    del users["metadata"]["annotations"]
    with pytest.raises(PermanentError):
        read_plain_services(users, preview)


def test_plain_services_select_one_slot_or_nobody() -> None:
    route = with_preview(empty("chat"), Slot.GREEN, "c0ffee")
    users, preview = plain_services(PLAIN, route)
    assert users["spec"]["selector"]["slipway.dev/slot"] == "none"
    assert preview["spec"]["selector"]["slipway.dev/slot"] == "green"
    assert (users["metadata"]["name"], preview["metadata"]["name"]) == ("chat", "chat-preview")


def test_plain_service_cannot_divide_users_and_says_what_can() -> None:
    with pytest.raises(InputError) as caught:
        plain_services(PLAIN, split("chat", stable=Slot.BLUE, candidate_percent=5))
    assert caught.value.code == "route-unsupported"
    assert "istio or gateway_api" in caught.value.hint


def test_numbers_of_the_lock_stand_on_every_object_of_a_plain_route() -> None:
    for written in plain_services(PLAIN, empty("chat"), fence=7):
        assert written["metadata"]["annotations"]["slipway.dev/fence"] == "7"
    for installed in plain_services(PLAIN, empty("chat")):
        assert "slipway.dev/fence" not in installed["metadata"]["annotations"]


def _names(spec: ServiceSpec, kind: str) -> list[str]:
    return [item["metadata"]["name"] for item in install_objects(spec) if item["kind"] == kind]


def test_gateway_api_is_installed_with_a_service_for_each_slot() -> None:
    assert _names(STANDARD, "Service") == [
        *("chat", "chat-blue", "chat-green"),
        *("chat-blue-or-green", "chat-green-or-blue"),
    ]
    assert _names(STANDARD, "HTTPRoute") == ["chat"]
    assert _names(STANDARD, "VirtualService") == []


def test_limits_of_connections_are_ours_where_istio_stands_behind_the_gateway_api() -> None:
    other = routed(RouterKind.GATEWAY_API, implementation=Implementation.OTHER)
    assert _names(STANDARD, "DestinationRule") == _names(STANDARD, "Service")[1:]
    assert _names(other, "DestinationRule") == []


def test_plain_router_is_installed_with_two_services_alone() -> None:
    assert _names(PLAIN, "Service") == ["chat", "chat-preview"]
    for kind in ("VirtualService", "DestinationRule", "HTTPRoute"):
        assert _names(PLAIN, kind) == []


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        (STANDARD, {"HTTPRoute chat"}),
        (PLAIN, {"Service chat", "Service chat-preview"}),
    ],
)
def test_installing_again_leaves_the_route_alone(spec: ServiceSpec, kept: set[str]) -> None:
    found = {
        f"{item['kind']} {item['metadata']['name']}"
        for item in install_objects(spec)
        if only_when_absent(item)
    }
    assert found == {*kept, "Lease slipway-chat", "ConfigMap slipway-chat-orders"}


@pytest.mark.parametrize(
    ("spec", "resource", "names"),
    [
        (STANDARD, "httproutes", ["chat"]),
        (PLAIN, "services", ["chat", "chat-preview"]),
    ],
)
def test_release_writes_the_objects_of_its_router_and_of_no_other(
    spec: ServiceSpec, resource: str, names: list[str]
) -> None:
    routes = {"httproutes", "services", "virtualservices", "destinationrules"}
    ours = [rule for rule in release_rules(spec) if routes & set(rule["resources"])]
    written = [rule for rule in ours if "patch" in rule["verbs"]]
    assert [rule["resources"] for rule in written] == [[resource]]
    assert written[0]["resourceNames"] == names


@pytest.mark.parametrize("spec", [routed(RouterKind.ISTIO), STANDARD, PLAIN])
def test_objects_of_a_route_that_are_looked_at_may_be_read(spec: ServiceSpec) -> None:
    readable = {
        (resource.removesuffix("s"), name)
        for rule in release_rules(spec)
        if "get" in rule["verbs"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", ())
    }
    looked_at = route_names(spec)
    assert ("Service", "chat") in looked_at
    assert {(kind.lower(), name) for kind, name in looked_at} <= readable


def test_divided_route_keeps_the_stable_slot_first() -> None:
    # A sticky split cuts one line in two: sessions of the candidate must not change sides.
    shares = split("chat", stable=Slot.GREEN, candidate_percent=25).shares
    assert shares[0] == Share(slot=Slot.GREEN, percent=75)


def test_route_made_anew_begins_with_whom_the_record_names() -> None:
    for spec in (routed(RouterKind.ISTIO), STANDARD, PLAIN):
        made = {
            item["kind"]: item
            for item in install_objects(spec, all_to("chat", Slot.GREEN))
            if item["metadata"]["name"] == "chat"
        }
        if spec is STANDARD:
            assert read_http_route(made["HTTPRoute"]) == all_to("chat", Slot.GREEN)
        elif spec is PLAIN:
            assert made["Service"]["spec"]["selector"]["slipway.dev/slot"] == "green"
        else:
            (rule,) = made["VirtualService"]["spec"]["http"]
            assert rule["route"][0]["destination"]["subset"] == "green"
