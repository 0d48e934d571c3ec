from __future__ import annotations

import json

import pytest

from slipway.core.errors import PermanentError
from slipway.core.routing import Slot
from slipway.core.service import RouterKind
from slipway.manifests.adoption import changes, originals
from slipway.manifests.names import FENCE_ANNOTATION
from slipway.manifests.routes.routers import route_objects
from slipway.ports.traffic import Backend
from tests.unit.live_services import (
    API,
    Manifest,
    http_route,
    living,
    rule_of,
    scaler,
    spec_of,
    to_chat,
    to_docs,
    users_service,
    virtual_service,
    workload,
)


class TestOriginals:
    def test_what_was_there_is_read_back_as_it_was_written(self) -> None:
        found = living(virtual_service(), rule_of(), scaler())
        kept = originals.Originals(live=found, version="7", alias_before="3")

        stored = originals.originals_config_map("chat", "serving", kept)

        assert originals.read_originals(stored) == kept

    @pytest.mark.parametrize(
        "data", [{}, {"originals.json": "{"}, {"originals.json": '{"format": 99}'}]
    )
    def test_what_cannot_be_read_is_never_guessed(self, data: dict[str, str]) -> None:
        with pytest.raises(PermanentError) as caught:
            originals.read_originals({"metadata": {"name": "x"}, "data": data})

        assert caught.value.code == "originals-damaged"

    def test_object_to_be_written_again_carries_nothing_of_the_servers(self) -> None:
        found = originals.as_it_was(workload())

        assert found["metadata"] == {"name": "chat-ha", "namespace": "serving"}
        assert "status" not in found

    def test_same_content_is_told_from_another(self) -> None:
        assert originals.says_the_same(workload(), workload())
        assert not originals.says_the_same(workload(), workload(paused=True))

    def test_objects_are_told_apart_by_kind_namespace_and_name(self) -> None:
        assert originals.same_object(workload(), workload(paused=True))
        assert not originals.same_object(workload(), workload("other"))
        assert not originals.same_object(rule_of("chat"), virtual_service(name="chat"))


class TestChanges:
    def test_pods_get_the_labels_of_the_slot_and_lose_them_again(self) -> None:
        found = living()

        assert changes.pods_labels(spec_of(), found) == {
            "slipway.dev/serves": "chat",
            "slipway.dev/slot": "blue",
        }
        assert set(changes.labels_off(spec_of(), found).values()) == {None}
        patch = changes.template_patch({"a": "b"})
        assert patch == {"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}

    def test_service_selects_the_same_pods_and_keeps_its_ports(self) -> None:
        metrics = {"name": "metrics", "port": 9090, "targetPort": "metrics"}
        before = users_service(ports=[{"name": "web", "port": 80, "targetPort": "api"}, metrics])

        patch = changes.service_patch(spec_of(), living(service=before))

        assert patch["spec"] == {
            "selector": {"app": None, "slipway.dev/serves": "chat"},
            "ports": [{"name": "web", "port": 80, "targetPort": 8000}, metrics],
        }
        assert changes.is_adopted({**users_service(), **patch})
        assert not changes.is_adopted(users_service())

    def test_plain_service_selects_the_slot(self) -> None:
        spec = spec_of(RouterKind.SERVICE)

        patch = changes.service_patch(spec, living(spec=spec))

        assert patch["spec"]["selector"]["slipway.dev/slot"] == "blue"
        assert patch["metadata"]["annotations"]["slipway.dev/slots"] == "blue"

    def test_deployment_is_marked_and_given_back(self) -> None:
        marked = changes.belongs_patch(spec_of())
        back = changes.given_back_patch(living())
        managed = workload()
        managed["metadata"]["managedFields"] = [{"manager": "kubectl"}]

        assert marked["metadata"]["labels"] == {"slipway.dev/service": "chat"}
        assert back["metadata"]["labels"] == {"slipway.dev/service": None}
        assert back["metadata"]["annotations"] == {FENCE_ANNOTATION: None}
        with_managers = changes.given_back_patch(living(deployment=managed))
        assert changes.unfenced_patch()["metadata"]["annotations"] == {FENCE_ANNOTATION: None}
        assert with_managers["metadata"]["managedFields"] == [{"manager": "kubectl"}]

    def test_route_and_rule_of_other_names_stand_beside_until_they_go(self) -> None:
        spec = spec_of()
        found = living(virtual_service(), rule_of())

        rule, route = changes.own_rule(spec, found), changes.own_route(spec, found)

        written = route_objects(spec, changes.route_of(spec, found))
        assert [rule, route] == [item for item in written if item["kind"] != "Service"]
        assert changes.announced(spec, found) == rule
        assert changes.routes_that_go(spec, found) == ((virtual_service(), None),)
        assert changes.rules_that_go(spec, found) == (rule_of(),)
        assert changes.beside_objects(spec, found) == ()

    def test_rule_of_our_name_keeps_what_users_go_by_until_the_route_is_new(self) -> None:
        spec = spec_of()
        policy: Manifest = {"connectionPool": {}}
        subsets = [{"name": "v1", "labels": {"version": "v1"}}, {"name": "blue", "labels": {}}]
        standing = rule_of("chat", trafficPolicy=policy, subsets=subsets)
        standing["metadata"]["annotations"] = {"owner": "web"}
        standing["metadata"]["managedFields"] = []
        found = living(virtual_service(name="chat"), standing)

        both, own = changes.announced(spec, found), changes.own_rule(spec, found)

        assert both is not None
        assert own is not None
        assert [item["name"] for item in both["spec"]["subsets"]] == ["v1", "blue"]
        assert both["spec"]["trafficPolicy"] == policy
        assert [item["name"] for item in own["spec"]["subsets"]] == ["blue"]
        assert own["metadata"]["annotations"]["owner"] == "web"
        assert "managedFields" not in own["metadata"]
        assert changes.routes_that_go(spec, found) == ()
        assert changes.rules_that_go(spec, found) == ()

    def test_rules_of_other_services_stay(self) -> None:
        found = living(virtual_service(to_docs(), to_chat()))

        ((_, left),) = changes.routes_that_go(spec_of(), found)

        assert left is not None
        assert left["spec"]["http"] == [to_docs()]

    def test_gateway_api_gets_a_service_a_slot_beside(self) -> None:
        spec = spec_of(API)
        found = living(http_route(), rule_of("chat"), spec=spec)

        names = {(i["kind"], i["metadata"]["name"]) for i in changes.beside_objects(spec, found)}

        assert ("Service", "chat-blue") in names
        assert ("Service", "chat") not in names
        assert ("HTTPRoute", "chat") not in names
        assert changes.announced(spec, found) is None
        assert changes.own_rule(spec, found) is None
        assert changes.rules_that_go(spec, found) == (rule_of("chat"),)

    def test_plain_service_has_a_preview_beside_and_no_route(self) -> None:
        spec = spec_of(RouterKind.SERVICE)
        found = living(spec=spec)

        (preview,) = changes.beside_objects(spec, found)

        assert preview["metadata"]["name"] == "chat-preview"
        assert changes.own_route(spec, found) is None
        assert changes.backends_after(spec, found) == ()
        assert changes.routes_that_go(spec, found) == ()

    def test_backends_are_named_as_gateways_tell_them_apart(self) -> None:
        host = "chat.serving.svc.cluster.local"
        subset = to_chat(route=[{"destination": {"host": "chat", "subset": "v1"}}])
        found = living(virtual_service(subset, to_chat()))
        spec = spec_of(API)
        by_route = living(http_route(), spec=spec)

        assert changes.backends_before(spec_of(), found) == (
            Backend(host=host, port=80, subset="v1"),
            Backend(host=host, port=80),
        )
        assert changes.backends_after(spec_of(), found) == (
            Backend(host=host, port=80, subset=Slot.BLUE),
        )
        assert changes.backends_before(spec, by_route) == (Backend(host=host, port=80),)
        assert changes.backends_after(spec, by_route) == (
            Backend(host="chat-blue.serving.svc.cluster.local", port=80),
        )

    def test_steps_say_what_happens_to_each_object(self) -> None:
        found = living(virtual_service(to_docs(), to_chat()), virtual_service(name="b"), scaler())
        text = json.dumps(changes.steps(spec_of(), found))

        assert "Deployment/serving/chat-ha: its 2 pods" in text
        assert "VirtualService/serving/by-hand: keeps its rules of other services" in text
        assert "VirtualService/serving/b: removed" in text
        assert "HorizontalPodAutoscaler/serving/by-hand: replaced" in text
