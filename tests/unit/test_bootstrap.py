"""What a route that an installation makes anew begins with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.bootstrap import releases as bootstrap
from slipway.core.errors import InputError, PermanentError
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.rollout import RolloutObservation
from slipway.core.routing import Route, Slot, all_to, empty
from slipway.manifests.adoption.live import Live
from slipway.manifests.adoption.originals import Originals, originals_config_map
from slipway.manifests.install import install_objects, platform_objects
from slipway.ports.records import StoredRecord
from tests.examples import record, rollout, service


def route_now(
    monkeypatch: pytest.MonkeyPatch,
    found: ReleaseRecord | None,
    observed: RolloutObservation | None,
) -> Route:
    class Releases:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def load(self, _service: str) -> StoredRecord | None:
            return None if found is None else StoredRecord(record=found, version="1")

    class Workloads:
        def __init__(self, *_: Any) -> None: ...

        def observe(self, _namespace: str, workload: str) -> RolloutObservation | None:
            assert workload == "chat-green"
            return observed

    monkeypatch.setattr(bootstrap, "KubernetesReleases", Releases)
    monkeypatch.setattr(bootstrap, "KubernetesWorkloads", Workloads)
    nobody: Any = None
    return bootstrap._route_now(nobody, service())


def live() -> ReleaseRecord:
    return replace(record("2"), candidate=Slot.GREEN, stable=Slot.BLUE, phase=Phase.DONE)


def test_service_never_released_begins_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert route_now(monkeypatch, None, None) == empty("chat")


def test_service_that_is_live_goes_on_with_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert route_now(monkeypatch, live(), rollout()) == all_to("chat", Slot.GREEN)


def test_slot_that_cannot_serve_gets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    unready = replace(rollout(), pods=())
    assert route_now(monkeypatch, live(), unready) == empty("chat")
    assert route_now(monkeypatch, live(), None) == empty("chat")


class Cluster:
    """Objects that are there by name, and what was applied."""

    def __init__(self, **objects: Any) -> None:
        self.objects = objects
        self.applied: list[tuple[str, str]] = []
        self.tried: list[tuple[str, str]] = []
        self.refuses: tuple[str, str] | None = None

    def get(self, kind: str, _namespace: str | None, name: str) -> Any:
        return self.objects.get(f"{kind}_{name}".replace("-", "_"))

    def apply(self, manifest: Any, *, dry_run: bool = False) -> None:
        what = (manifest["kind"], manifest["metadata"]["name"])
        if what == self.refuses:
            raise PermanentError("no", code="refused-by-cluster", hint="none")
        (self.tried if dry_run else self.applied).append(what)


def installed(**objects: Any) -> Any:
    """Return a cluster that has the namespaces of a service and of its gateway."""
    there: dict[str, Any] = {"metadata": {}}
    return Cluster(Namespace_serving=there, Namespace_istio_ingress=there, **objects)


def test_service_that_was_adopted_keeps_its_ports_at_an_installation() -> None:
    marked = {"metadata": {"annotations": {"slipway.dev/adopted": "true"}}}
    adopted, own = installed(Service_chat=marked), installed(Service_chat={"metadata": {}})

    said = bootstrap.put_in_place(adopted, install_objects(service()))
    bootstrap.put_in_place(own, install_objects(service()))

    assert "Service chat: left as it is" in said
    assert ("Service", "chat") not in adopted.applied
    assert ("Service", "chat") in own.applied
    assert ("Role", "slipway-release-chat") in adopted.applied


def test_installation_is_tried_before_anything_of_it_is_written() -> None:
    there = installed()
    there.refuses = ("Role", "slipway-watch-chat")

    with pytest.raises(PermanentError, match="no"):
        bootstrap.put_in_place(there, install_objects(service()))

    assert there.tried
    assert there.applied == []


def test_first_installation_tries_what_needs_no_namespace_of_its_own() -> None:
    empty_cluster: Any = Cluster()

    bootstrap.put_in_place(empty_cluster, platform_objects(["registry.example.com"]))

    assert ("ServiceAccount", "slipway-release") in empty_cluster.applied
    assert ("ValidatingAdmissionPolicy", "slipway-fence") in empty_cluster.tried
    assert not [kind for kind, _ in empty_cluster.tried if kind == "ServiceAccount"]


def test_namespace_of_a_service_that_is_missing_is_named() -> None:
    nothing: Any = Cluster()

    with pytest.raises(InputError, match="there is no namespace team") as caught:
        bootstrap.put_in_place(nothing, install_objects(replace(service(), namespace="team")))

    assert caught.value.code == "namespace-missing"


def test_installation_knows_the_deployment_that_was_adopted() -> None:
    deployment = {"kind": "Deployment", "metadata": {"name": "by-hand", "namespace": "serving"}}
    kept = Originals(
        live=Live(slot=Slot.BLUE, service={}, deployment=deployment), version="1", alias_before=""
    )
    stored = originals_config_map("chat", "serving", kept)
    found: Any = Cluster(ConfigMap_slipway_chat_adopted=stored)
    nothing: Any = Cluster()

    assert bootstrap.adopted_with(found, service()) == "by-hand"
    assert bootstrap.adopted_with(nothing, service()) == ""
