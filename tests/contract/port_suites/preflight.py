"""The promises of `slipway.ports.Preflight`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from slipway.core.feasibility.values import Right
from slipway.manifests.footprint import nodes_seen
from slipway.ports.workloads import Look, Preflight

_KINDS = ("LimitRange", "PodDisruptionBudget", "ResourceQuota")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightSubject:
    """What is under test.

    Args:
        preflight: of somebody who may do everything.
        limited: of an account that releases `service` and may do nothing else.
        put: makes an object.
        namespace: for such objects; `limited` has no right in it.
        service: installed in the namespace `serving`.
    """

    preflight: Preflight
    limited: Preflight
    put: Callable[[dict[str, Any]], None]
    namespace: str
    service: str

    def object(self, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Return an object of the namespace."""
        versions = {"PodDisruptionBudget": "policy/v1"}
        return {
            "apiVersion": versions.get(kind, "v1"),
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }

    def waiting_pod(self, name: str) -> dict[str, Any]:
        """Return a pod that no node may run."""
        container = {"name": "c", "image": f"nowhere.example.com/x@sha256:{'a' * 64}"}
        return self.object("Pod", name, {"nodeSelector": {"no": "node"}, "containers": [container]})


def names(look: Look, kind: str) -> list[str]:
    return [item["metadata"]["name"] for item in look.objects if item["kind"] == kind]


class PreflightSuite:
    """What may be seen is shown as it is; what may not is named, and never taken for nothing."""

    @pytest.fixture
    def subject(self) -> PreflightSubject:
        """Return what is under test; overridden."""
        raise NotImplementedError

    def test_right_that_we_have_is_not_missing(self, subject: PreflightSubject) -> None:
        secrets = Right(verb="get", group="", resource="secrets", namespace="serving")
        assert subject.preflight.missing_rights([secrets]) == ()

    def test_rights_that_we_lack_are_returned_in_their_order(
        self, subject: PreflightSubject
    ) -> None:
        record = f"slipway-{subject.service}"
        had = Right(verb="get", group="", resource="configmaps", namespace="serving", name=record)
        lacks = tuple(
            Right(verb=verb, group="", resource="secrets", namespace="serving")
            for verb in ("list", "get")
        )
        asked = (lacks[0], had, lacks[1])
        assert subject.limited.missing_rights(asked) == lacks

    def test_objects_of_a_namespace_are_listed_with_their_kinds(
        self, subject: PreflightSubject
    ) -> None:
        limits = [{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]
        specs: dict[str, dict[str, Any]] = {
            "LimitRange": {"limits": limits},
            "PodDisruptionBudget": {"selector": {"matchLabels": {"no": "pod"}}, "minAvailable": 1},
            "ResourceQuota": {"hard": {"requests.nvidia.com/gpu": "2"}},
        }
        for kind, spec in specs.items():
            subject.put(subject.object(kind, "rule", spec))
        look = subject.preflight.namespace(subject.namespace)
        assert look.unseen == ()
        for kind in _KINDS:
            assert "rule" in names(look, kind)
        elsewhere = subject.preflight.namespace("serving")
        assert not any("rule" in names(elsewhere, kind) for kind in _KINDS)

    def test_pods_of_all_namespaces_are_listed(self, subject: PreflightSubject) -> None:
        subject.put(subject.waiting_pod("guest"))
        for look in (subject.preflight.pods(), subject.preflight.namespace(subject.namespace)):
            assert "guest" in names(look, "Pod")
            assert look.unseen == ()

    def test_what_may_not_be_read_is_named(self, subject: PreflightSubject) -> None:
        subject.put(subject.waiting_pod("hidden"))
        look = subject.limited.namespace(subject.namespace)
        assert look.objects == ()
        assert f"Pods in {subject.namespace}" in {item.what for item in look.unseen}
        everywhere = subject.limited.pods()
        assert [item.what for item in everywhere.unseen] == ["Pods in all namespaces"]
        assert everywhere.objects == ()

    def test_nodes_show_what_they_can_allocate(self, subject: PreflightSubject) -> None:
        nodes = nodes_seen(subject.preflight.nodes().objects)
        assert {node.labels["topology.kubernetes.io/zone"] for node in nodes} >= {
            "zone-a",
            "zone-b",
        }
        assert all(node.allocatable["nvidia.com/gpu"] > 0 for node in nodes)

    def test_service_that_was_never_installed_has_no_routes(
        self, subject: PreflightSubject
    ) -> None:
        assert subject.preflight.routes(
            "serving", [("Service", "never-installed"), ("VirtualService", "never-installed")]
        ) == Look(objects=())

    def test_gateway_without_tls_has_no_certificate(self, subject: PreflightSubject) -> None:
        assert subject.preflight.certificate("chat.localhost") is None
