from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from slipway.core.errors import PermanentError
from slipway.core.routing import Route, Share, Slot, all_to, empty, with_preview
from slipway.core.service import Router, ServerKind, Wish
from slipway.manifests.routes.istio import (
    destination_rule,
    read_route,
    virtual_service,
)
from slipway.manifests.routes.services import service_object
from tests.examples import service

HOST = "chat.serving.svc.cluster.local"
BOTH = frozenset(Slot)
SPLIT = Route(
    service="chat",
    shares=(Share(slot=Slot.BLUE, percent=95), Share(slot=Slot.GREEN, percent=5)),
    subsets=BOTH,
)


def rules(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = virtual_service(service(), route)["spec"]["http"]
    return found


def test_service_selects_the_pods_of_both_slots_on_the_port_of_their_servers() -> None:
    spec = service_object(service())["spec"]

    assert spec["selector"] == {"slipway.dev/serves": "chat"}
    (port,) = spec["ports"]
    assert (port["name"], port["port"], port["targetPort"]) == ("http", 80, 8000)


def test_virtual_service_is_bound_to_the_gateway_and_to_the_mesh() -> None:
    spec = virtual_service(service(), empty("chat"))["spec"]

    assert spec["gateways"] == ["istio-ingress/slipway-gateway", "mesh"]
    assert spec["hosts"] == ["chat.localhost", HOST]


def test_all_users_on_one_slot_is_one_destination_without_weight() -> None:
    (rule,) = rules(all_to("chat", Slot.BLUE))

    (destination,) = rule["route"]
    assert destination["destination"] == {"host": HOST, "subset": "blue", "port": {"number": 80}}
    assert "weight" not in destination
    assert rule["name"] == "users"


def test_divided_users_carry_weights() -> None:
    (rule,) = rules(SPLIT)

    assert [(item["destination"]["subset"], item["weight"]) for item in rule["route"]] == [
        ("blue", 95),
        ("green-or-blue", 5),
    ]


def test_streams_have_no_timeout_and_only_unanswered_requests_are_retried() -> None:
    preview, users = rules(with_preview(all_to("chat", Slot.BLUE), Slot.GREEN, "t0ken"))

    # Istio's CRD refuses "0s"; without the field Istio itself writes a timeout of zero.
    assert "timeout" not in {*preview, *users}
    assert preview["retries"] == {"attempts": 0}
    assert users["retries"] == {"attempts": 2, "retryOn": "connect-failure,refused-stream"}


def test_preview_comes_first_and_needs_path_and_secret_header() -> None:
    spec = replace(service(), path_prefixes=("/v1", "/v2"))

    preview, users = virtual_service(
        spec, with_preview(all_to("chat", Slot.BLUE), Slot.GREEN, "t0ken")
    )["spec"]["http"]

    header = {"x-slipway-preview": {"exact": "t0ken"}}
    assert preview["match"] == [
        {"uri": {"prefix": "/v1"}, "headers": header},
        {"uri": {"prefix": "/v2"}, "headers": header},
    ]
    assert users["match"] == [{"uri": {"prefix": "/v1"}}, {"uri": {"prefix": "/v2"}}]
    assert preview["route"][0]["destination"]["subset"] == "green"


def test_answers_name_the_routes_revision_and_the_slot() -> None:
    route = with_preview(SPLIT, Slot.GREEN, "t0ken")

    for rule in rules(route):
        assert rule["headers"] == {"response": {"set": {"x-slipway-route": route.revision}}}
        for item in rule["route"]:
            slot = item["destination"]["subset"].removesuffix("-or-blue")
            assert item["headers"] == {"response": {"set": {"x-slipway-slot": slot}}}


def test_unreleased_service_answers_503_with_its_revision() -> None:
    (rule,) = rules(empty("chat"))

    assert rule["directResponse"]["status"] == 503
    assert "route" not in rule
    assert rule["headers"]["response"]["set"] == {"x-slipway-route": empty("chat").revision}


def test_destination_rule_selects_each_subset_by_its_slot() -> None:
    spec = destination_rule(service(), BOTH)["spec"]

    assert spec["host"] == HOST
    assert spec["subsets"][:2] == [
        {"name": "blue", "labels": {"slipway.dev/slot": "blue"}},
        {"name": "green", "labels": {"slipway.dev/slot": "green"}},
    ]


def test_slot_that_falls_back_has_the_other_one_behind_it() -> None:
    spec = destination_rule(service(), BOTH)["spec"]
    found = {item["name"]: item for item in spec["subsets"][2:]}

    assert found.keys() == {"blue-or-green", "green-or-blue"}
    for name, item in found.items():
        assert item["labels"] == {"slipway.dev/serves": "chat"}
        locality = item["trafficPolicy"]["loadBalancer"]["localityLbSetting"]
        assert locality["failoverPriority"] == [f"slipway.dev/slot={name.partition('-')[0]}"]
        # All of its own pods may be ejected: the others are behind them.
        assert item["trafficPolicy"]["outlierDetection"]["maxEjectionPercent"] == 100


def test_slot_known_alone_has_nothing_behind_it() -> None:
    spec = destination_rule(service(), frozenset({Slot.BLUE}))["spec"]
    assert [item["name"] for item in spec["subsets"]] == ["blue"]


def test_request_of_a_dead_candidate_is_sent_on_to_the_stable_slot() -> None:
    (rule,) = rules(SPLIT)
    assert rule["retries"]["retryRemoteLocalities"]
    # Two refusals by the candidate's pods, and one try elsewhere.
    assert rule["retries"]["attempts"] == 3


def test_rule_of_divided_users_bears_the_name_that_makes_them_sticky() -> None:
    (rule,) = rules(SPLIT)
    assert rule["name"] == "users.sticky"
    (whole,) = rules(all_to("chat", Slot.BLUE))
    assert whole["name"] == "users"


def test_service_that_wants_neither_is_divided_plainly() -> None:
    plain = replace(service(), router=Router(sticky=Wish.OFF, fall_back=Wish.OFF))
    (rule,) = virtual_service(plain, SPLIT)["spec"]["http"]
    assert rule["name"] == "users"
    assert [item["destination"]["subset"] for item in rule["route"]] == ["blue", "green"]
    assert "retryRemoteLocalities" not in rule["retries"]
    assert [s["name"] for s in destination_rule(plain, BOTH)["spec"]["subsets"]] == [
        "blue",
        "green",
    ]
    assert read_route(virtual_service(plain, SPLIT), destination_rule(plain, BOTH)) == SPLIT


def test_one_bad_pod_of_two_can_be_ejected() -> None:
    policy = destination_rule(service(), BOTH)["spec"]["trafficPolicy"]

    assert policy["outlierDetection"]["maxEjectionPercent"] == 50
    assert policy["outlierDetection"]["minHealthPercent"] == 1  # see test_faults_gateway
    assert policy["loadBalancer"] == {"simple": "LEAST_REQUEST"}


def test_revision_is_annotated_where_it_is_known() -> None:
    annotations = {"slipway.dev/route-revision": SPLIT.revision}

    assert virtual_service(service(), SPLIT)["metadata"]["annotations"] == annotations
    rule = destination_rule(service(), BOTH, revision=SPLIT.revision)
    assert rule["metadata"]["annotations"] == annotations
    assert "annotations" not in destination_rule(service(), BOTH)["metadata"]


def test_number_of_the_lock_is_annotated_where_there_is_one() -> None:
    written = (
        virtual_service(service(), SPLIT, fence=4),
        destination_rule(service(), BOTH, fence=4),
    )

    assert [item["metadata"]["annotations"]["slipway.dev/fence"] for item in written] == ["4", "4"]
    assert "slipway.dev/fence" not in virtual_service(service(), SPLIT)["metadata"]["annotations"]


@pytest.mark.parametrize(
    "route",
    [
        empty("chat"),
        SPLIT,
        all_to("chat", Slot.GREEN, subsets=BOTH),
        with_preview(empty("chat"), Slot.BLUE, "t0ken"),
        with_preview(SPLIT, Slot.GREEN, "t0ken"),
    ],
)
def test_route_is_read_back_as_it_was_written(route: Route) -> None:
    written = virtual_service(service(), route), destination_rule(service(), route.subsets)

    assert read_route(*written) == route


def test_subsets_left_out_by_the_api_server_are_none() -> None:
    rule = destination_rule(service(), frozenset())
    del rule["spec"]["subsets"]

    assert read_route(virtual_service(service(), empty("chat")), rule) == empty("chat")


def _without_weights(http: list[dict[str, Any]]) -> None:
    for item in http[0]["route"]:
        item["weight"] = 40


def _foreign_subset(http: list[dict[str, Any]]) -> None:
    http[0]["route"][0]["destination"]["subset"] = "v2"


def _further_rule(http: list[dict[str, Any]]) -> None:
    http.append({"name": "mine", "route": []})


def _unnamed_rule(http: list[dict[str, Any]]) -> None:
    del http[0]["name"]


def _no_rule(http: list[dict[str, Any]]) -> None:
    http.clear()


def _preview_without_match(http: list[dict[str, Any]]) -> None:
    http.append({"name": "preview", "match": [], "route": http[0]["route"]})


def _preview_of_another_kind(http: list[dict[str, Any]]) -> None:
    http.append({"name": "preview", "match": 5, "route": http[0]["route"]})


@pytest.mark.parametrize(
    "edit",
    [
        _without_weights,
        _foreign_subset,
        _further_rule,
        _unnamed_rule,
        _no_rule,
        _preview_without_match,
        _preview_of_another_kind,
    ],
)
def test_objects_that_somebody_else_edited_are_refused(edit: Any) -> None:
    edited = deepcopy(virtual_service(service(), SPLIT))
    edit(edited["spec"]["http"])

    with pytest.raises(PermanentError, match="not as Slipway writes them") as caught:
        read_route(edited, destination_rule(service(), BOTH))

    assert caught.value.code == "route-foreign"
    assert "virtualservice,destinationrule chat" in caught.value.hint


@pytest.mark.parametrize(("kind", "limit"), [(ServerKind.LLAMA_CPP, 1), (ServerKind.VLLM, 0)])
def test_server_that_closes_connections_unannounced_gets_one_for_each_request(
    kind: ServerKind, limit: int
) -> None:
    spec = service()
    other = replace(spec, server=replace(spec.server, kind=kind))
    pool = destination_rule(other, frozenset())["spec"]["trafficPolicy"]["connectionPool"]
    assert pool["http"]["maxRequestsPerConnection"] == limit
