from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.service import RouterKind
from slipway.manifests.adoption import fitness, routes
from slipway.manifests.adoption.live import find_live
from tests.examples import autoscaling
from tests.unit.live_services import (
    API,
    GATEWAY,
    Manifest,
    http_route,
    living,
    made,
    rule_of,
    said,
    scaler,
    spec_of,
    to_chat,
    to_docs,
    users_service,
    virtual_service,
    workload,
)


class TestFinding:
    def test_objects_of_a_service_are_found_by_what_they_point_at(self) -> None:
        foreign = made("VirtualService", "other", {"hosts": ["chat.localhost"]})  # the mesh alone
        of_keda = scaler()
        of_keda["metadata"]["ownerReferences"] = [{"kind": "ScaledObject"}]

        found = living(
            virtual_service(),
            foreign,
            virtual_service(name="elsewhere", hosts=["docs.localhost"]),
            rule_of(),
            rule_of("other", host="docs"),
            scaler(),
            of_keda,
            workload("chat-elsewhere", template={"metadata": {}, "spec": {}}),
        )

        assert found.workload == "chat-ha"
        assert [item["metadata"]["name"] for item in found.routes] == ["by-hand"]
        assert len(found.rules) == len(found.scalers) == 1
        assert len(found.objects) == 5

    def test_gateway_of_the_routes_own_namespace_is_named_in_short(self) -> None:
        route = virtual_service(gateways=["slipway-gateway", "mesh"])
        route["metadata"]["namespace"] = "istio-ingress"

        assert living(route).routes == (route,)

    def test_http_routes_are_found_where_the_file_says_gateway_api(self) -> None:
        spec = spec_of(API)

        assert living(http_route(), virtual_service(), spec=spec).routes == (http_route(),)
        assert living(http_route(hostnames=[]), spec=spec).routes == ()

    def test_plain_service_has_no_routes(self) -> None:
        assert living(virtual_service(), spec=spec_of(RouterKind.SERVICE)).routes == ()

    @pytest.mark.parametrize(
        ("objects", "words"),
        [
            ([], "there is none"),
            ([made("Service", "chat", {}, namespace="other")], "there is none"),
            ([users_service()], "selects the pods of no Deployment"),
            ([users_service(selector=None), workload()], "selects the pods of no Deployment"),
            ([users_service(), workload(), workload("b")], "chat-ha, Deployment/serving/b"),
        ],
    )
    def test_service_that_is_not_one_deployment_is_refused(
        self, objects: list[Manifest], words: str
    ) -> None:
        found, why = find_live(spec_of(), objects)

        assert found is None
        assert words in said(why)


class TestRoutesByHand:
    def test_rules_of_others_are_told_from_the_services_own(self) -> None:
        route = virtual_service(to_docs(), to_chat(timeout="60s", retries={"attempts": 2}))

        reading = routes.read_by_hand(spec_of(), route)

        assert reading.ours == (route["spec"]["http"][1],)
        assert reading.kept == (to_docs(),)
        assert reading.obstacles == ()
        assert len(reading.notes) == 2
        assert "its time limit holds no longer (60s)" in reading.notes[0]

    def test_http_route_leads_to_the_service_by_its_backends(self) -> None:
        other = {"backendRefs": [{"name": "docs", "namespace": "web", "port": 80}]}
        docs = {"matches": [{"path": {"type": "Exact", "value": "/docs"}}], **other}
        route = http_route(http_route()["spec"]["rules"][0], docs)

        reading = routes.read_by_hand(spec_of(API), route)

        assert len(reading.ours) == len(reading.kept) == 1
        assert reading.obstacles == ()

    @pytest.mark.parametrize(
        ("rule", "words"),
        [
            (to_chat(rewrite={"uri": "/"}), "it says rewrite"),
            (to_chat(fault={}, corsPolicy={}), "it says corsPolicy"),
            (to_chat(match=[{"headers": {}, "uri": {"prefix": "/v1"}}]), "matches by headers"),
            (to_chat(match=[{"uri": {"regex": "/v1/.*"}}]), "the regular expression /v1/.*"),
            (to_chat(match=[{"uri": {"exact": "/v1beta"}}]), "users may ask for /v1beta"),
            (to_chat(match=[]), "users may ask for /, which"),
            (
                to_chat(route=[{"destination": {"host": "chat"}, "headers": {}}]),
                "it says headers of a destination",
            ),
            (
                to_chat(route=[{"destination": {"host": name}} for name in ("chat", "b")]),
                "divides the users between chat and b.serving.svc.cluster.local",
            ),
        ],
    )
    def test_what_a_route_of_slipway_cannot_say_is_refused(
        self, rule: Manifest, words: str
    ) -> None:
        reading = routes.read_by_hand(spec_of(), virtual_service(rule))

        assert words in said(reading.obstacles)

    @pytest.mark.parametrize("path", ["/v1", "/v1/chat/completions"])
    def test_paths_below_those_of_the_file_are_served(self, path: str) -> None:
        rule = to_chat(match=[{"uri": {"exact": path}, "name": "one"}])

        assert routes.read_by_hand(spec_of(), virtual_service(rule)).obstacles == ()

    def test_filters_of_an_http_routes_backend_are_refused(self) -> None:
        rule = {
            "matches": [{"path": {"type": "RegularExpression", "value": "/v1.*"}}],
            "backendRefs": [{"name": "chat", "port": 80, "filters": []}],
        }

        words = said(routes.read_by_hand(spec_of(API), http_route(rule)).obstacles)

        assert "it says filters of a destination" in words
        assert "the regular expression /v1.*" in words

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"hosts": ["chat.localhost", "more.localhost"]}, "for host more.localhost, too"),
            ({"gateways": [GATEWAY, "istio-ingress/second"]}, "by gateway istio-ingress/second"),
            ({"tls": [], "exportTo": ["."]}, "it has exportTo"),
        ],
    )
    def test_object_that_is_more_than_the_services_route_is_refused(
        self, changed: Manifest, words: str
    ) -> None:
        reading = routes.read_by_hand(spec_of(), virtual_service(**changed))

        assert words in said(reading.obstacles)

    def test_names_of_the_service_inside_the_cluster_are_its_own(self) -> None:
        hosts = ["chat.localhost", "chat", "chat.serving.svc.cluster.local"]
        route = virtual_service(hosts=hosts, gateways=[GATEWAY, "mesh"])

        assert routes.read_by_hand(spec_of(), route).obstacles == ()

    def test_rules_of_others_in_the_object_of_our_name_are_refused(self) -> None:
        route = virtual_service(to_docs(), to_chat(), name="chat")

        assert "its name is that of Slipway's own" in said(
            routes.read_by_hand(spec_of(), route).obstacles
        )

    @pytest.mark.parametrize("path", ["/", "/v1"])
    def test_older_rule_that_would_hide_the_services_own_is_refused(self, path: str) -> None:
        route = virtual_service(to_chat(), to_docs(path))

        assert "would come before /v1" in said(routes.read_by_hand(spec_of(), route).obstacles)

    def test_rule_narrower_than_a_path_hides_nothing(self) -> None:
        narrow = to_docs("/")
        narrow["match"][0]["headers"] = {"x-docs": {"exact": "1"}}
        exact = to_docs()
        exact["match"] = [{"uri": {"exact": "/v1"}}]
        route = virtual_service(to_chat(), narrow, exact)

        assert routes.read_by_hand(spec_of(), route).obstacles == ()

    def test_shorter_path_of_another_http_rule_hides_nothing(self) -> None:
        rest = {"backendRefs": [{"name": "docs", "port": 80}]}
        route = http_route(http_route()["spec"]["rules"][0], rest)

        assert routes.read_by_hand(spec_of(API), route).obstacles == ()


class TestFitness:
    def test_service_as_people_run_it_fits(self) -> None:
        assert fitness.obstacles(spec_of(), living(virtual_service())) == ()

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            ({"service": users_service(clusterIP="None")}, "headless"),
            ({"service": users_service(ports=[])}, "has no port 80"),
            (
                {"service": users_service(ports=[{"port": 8080, "targetPort": 8000}])},
                "its ports: 8080",
            ),
            (
                {"service": users_service(ports=[{"port": 80, "targetPort": "web"}])},
                "its port 80 leads to port None",
            ),
            ({"service": users_service(ports=[{"port": 80}])}, "its port 80 leads to port 80"),
            ({"deployment": workload(paused=True)}, "it is paused"),
            ({"deployment": workload(replicas=3)}, "of 3 pods 2 are ready"),
            ({"deployment": workload(replicas=0)}, "of 0 pods 2 are ready"),
            ({"deployment": {**workload(), "status": {}}}, "of 2 pods 0 are ready"),
            ({"deployment": workload("chat-blue")}, "what a later release makes"),
        ],
    )
    def test_what_is_in_the_way_is_named(self, found: dict[str, Manifest], words: str) -> None:
        service, deployed = found.get("service"), found.get("deployment")
        taken = living(virtual_service(), service=service, deployment=deployed)

        assert words in said(fitness.obstacles(spec_of(), taken))

    def test_number_of_pods_must_be_the_files(self) -> None:
        spec = replace(spec_of(), replicas=4)

        assert "write replicas: 2" in said(fitness.obstacles(spec, living(virtual_service())))

    def test_pods_of_another_service_are_not_taken(self) -> None:
        labels = {"app": "chat", "slipway.dev/serves": "other"}
        template = {**workload()["spec"]["template"], "metadata": {"labels": labels}}
        found = living(virtual_service(), deployment=workload(template=template))

        assert "slipway.dev/serves=other" in said(fitness.obstacles(spec_of(), found))

    def test_autoscaler_needs_the_files_own(self) -> None:
        found = living(virtual_service(), scaler())
        scaled = replace(spec_of(), autoscaling=autoscaling(), replicas=7)

        assert "states no autoscaling" in said(fitness.obstacles(spec_of(), found))
        assert fitness.obstacles(scaled, found) == ()
        assert fitness.notes(scaled, found) == ()

    def test_autoscaler_that_would_set_the_number_back_is_refused(self) -> None:
        found = living(virtual_service(), scaler(advanced={"restoreToOriginalReplicaCount": True}))
        scaled = replace(spec_of(), autoscaling=autoscaling())

        assert "would set the number of pods back" in said(fitness.obstacles(scaled, found))

    def test_service_without_a_route_is_refused_where_a_gateway_needs_one(self) -> None:
        plain = spec_of(RouterKind.SERVICE)

        assert "none brings users of chat.localhost" in said(fitness.obstacles(spec_of(), living()))
        assert fitness.obstacles(plain, living(spec=plain)) == ()

    def test_route_that_leads_elsewhere_is_refused(self) -> None:
        found = living(virtual_service(to_docs("/v1/docs")))

        assert "no rule of it leads to Service chat" in said(fitness.obstacles(spec_of(), found))

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"trafficPolicy": {"tls": {"mode": "MUTUAL"}}}, "speaks TLS"),
            ({"subsets": [{"trafficPolicy": {"tls": {"mode": "SIMPLE"}}}]}, "speaks TLS"),
            ({"exportTo": ["."]}, "it has exportTo"),
        ],
    )
    def test_rule_that_slipways_own_cannot_replace_is_refused(
        self, changed: Manifest, words: str
    ) -> None:
        found = living(virtual_service(), rule_of(**changed))

        assert words in said(fitness.obstacles(spec_of(), found))

    @pytest.mark.parametrize(
        ("field", "key", "program"),
        [
            ("annotations", "argocd.argoproj.io/tracking-id", "Argo CD"),
            ("labels", "kustomize.toolkit.fluxcd.io/name", "Flux"),
        ],
    )
    def test_objects_that_another_program_keeps_are_refused_unless_seen_to(
        self, field: str, key: str, program: str
    ) -> None:
        kept = virtual_service()
        kept["metadata"][field] = {key: "x"}
        found = living(kept)

        assert program in said(fitness.obstacles(spec_of(), found))
        assert fitness.obstacles(spec_of(), found, managed_elsewhere=True) == ()

    def test_what_will_be_different_is_told(self) -> None:
        by_helm = users_service()
        by_helm["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
        limits = rule_of(subsets=[{"name": "v1", "trafficPolicy": {}}])
        found = living(
            virtual_service(to_chat(timeout="1s")), limits, rule_of("b"), service=by_helm
        )

        told = "\n".join(fitness.notes(replace(spec_of(), autoscaling=autoscaling()), found))

        assert "its time limit holds no longer" in told
        assert told.count("outlier detection are Slipway's") == 1
        assert "made by Helm" in told
        assert "an autoscaler decides the number of pods" in told
