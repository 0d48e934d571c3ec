"""What `slipway.manifests` builds, asked of a real API server: schemas, CEL rules, admission.

A JSON schema alone does not suffice: Istio's CRDs refuse by CEL rules what their schema accepts,
for example `timeout: 0s`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import pytest
import yaml

from slipway.core.routing import Route, Share, Slot, empty, with_preview
from slipway.core.service import ServerKind, ServiceSpec
from slipway.manifests import workload
from slipway.manifests.backups import (
    Nightly,
    VolumeSource,
    backup_job,
    nightly_objects,
    snapshot_claim,
    volume_snapshot,
)
from slipway.manifests.install import install_objects, platform_objects
from slipway.manifests.release_objects import record_config_map, release_event
from slipway.manifests.routes.istio import destination_rule, virtual_service
from slipway.manifests.weights import sweep_pod
from tests.e2e import foreign_kinds
from tests.e2e.conftest import PROJECT
from tests.examples import (
    IMAGE,
    record,
    service,
    service_backed_up_on_its_volume,
    service_on_a_volume,
    weights_fetch,
)

WATCHER = PROJECT / "deployments/kubernetes/watcher.yaml"
BOTH = frozenset(Slot)
DIVIDED = Route(
    service="chat",
    shares=(Share(slot=Slot.BLUE, percent=90), Share(slot=Slot.GREEN, percent=10)),
    subsets=BOTH,
)
NAMESPACE = "manifests-test"
EXAMPLES = "127.0.0.1:5000"
"""The registry of the images in `tests.examples`."""


class Sandbox(Protocol):
    """What the fixture `sandbox` offers."""

    environment: dict[str, str]

    def kubectl(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]: ...


def spec_of(kind: ServerKind = ServerKind.SIMULATED) -> ServiceSpec:
    return replace(service(kind), namespace=NAMESPACE)


def apply(
    sandbox: Sandbox, manifest: Mapping[str, Any], *options: str
) -> subprocess.CompletedProcess[str]:
    return sandbox.kubectl(
        *("apply", "--server-side", "--validate=strict", "--force-conflicts"),
        *("--field-manager=slipway-install", *options, "-f", "-"),
        # Images come from the registry of the sandbox, as its policy demands.
        stdin=json.dumps(manifest).replace(EXAMPLES, sandbox.environment["SLIPWAY_REGISTRY"]),
    )


def platform(sandbox: Sandbox) -> tuple[dict[str, Any], ...]:
    return platform_objects([sandbox.environment["SLIPWAY_REGISTRY"]])


def asked(sandbox: Sandbox, manifest: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Ask the API server whether it would take `manifest`, writing nothing."""
    return apply(sandbox, manifest, "--dry-run=server")


@pytest.fixture(scope="module")
def installed(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A namespace of its own (so no other test's quota counts), with policy and accounts."""
    namespace = next(item for item in platform(sandbox) if item["kind"] == "Namespace")
    namespace["metadata"]["name"] = NAMESPACE
    # Without a lock no release writes: the Lease is what its record's number is compared with.
    # With the Role, for the policy asks whether pods may name the Secret of the weights.
    kinds = {"ServiceAccount", "Lease", "Role", "RoleBinding"}
    on_a_volume = replace(service_on_a_volume(), namespace=NAMESPACE)
    needed = [item for item in install_objects(on_a_volume) if item["kind"] in kinds]
    accounts = [item for item in platform(sandbox) if item["kind"] == "ServiceAccount"]
    for account in accounts:
        account["metadata"]["namespace"] = NAMESPACE
    for manifest in (*platform(sandbox), namespace, *needed, *accounts):
        answer = apply(sandbox, manifest)
        assert answer.returncode == 0, answer.stderr
    yield sandbox
    sandbox.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def deployment(spec: ServiceSpec, image: str = IMAGE) -> dict[str, Any]:
    return workload.slot_deployment(
        spec, slot=Slot.BLUE, workload="chat-blue", image=image, release_id="chat-v1-1"
    )


def bare_pod(spec: ServiceSpec, image: str = IMAGE) -> dict[str, Any]:
    return workload.test_pod(spec, image=image, release_id="chat-v1-1")


@pytest.mark.parametrize("kind", list(ServerKind))
def test_workloads_of_every_server_pass_schema_pod_security_and_policy(
    installed: Sandbox, kind: ServerKind
) -> None:
    # A bare pod meets Pod Security itself; a Deployment is only warned about.
    for manifest in (deployment(spec_of(kind)), bare_pod(spec_of(kind))):
        answer = asked(installed, manifest)
        assert answer.returncode == 0, answer.stderr
        assert "would violate PodSecurity" not in answer.stderr


@pytest.mark.parametrize("kind", list(ServerKind))
def test_workloads_with_weights_on_a_volume_pass_schema_pod_security_and_policy(
    installed: Sandbox, kind: ServerKind
) -> None:
    spec, fetch = replace(service_on_a_volume(kind), namespace=NAMESPACE), weights_fetch()
    release_id = "chat-v1-1"
    slot = workload.slot_deployment(
        spec,
        slot=Slot.BLUE,
        workload="chat-blue",
        image=IMAGE,
        release_id=release_id,
        fetch=fetch,
    )
    test = workload.test_pod(spec, image=IMAGE, release_id=release_id, fetch=fetch)
    sweep = sweep_pod(spec, fetch.volume, image=IMAGE, release_id=release_id, keep=(fetch.sha256,))
    for manifest in (slot, test, sweep):
        answer = asked(installed, manifest)
        assert answer.returncode == 0, answer.stderr
        assert "would violate PodSecurity" not in answer.stderr


def test_backup_of_a_volume_passes_schema_pod_security_and_policy(installed: Sandbox) -> None:
    spec = replace(service_backed_up_on_its_volume(), namespace=NAMESPACE)
    source = VolumeSource(spec=spec, version="3", weights="ab" * 32)
    nightly = Nightly(
        name="nightly",
        namespace=NAMESPACE,
        claim="models",
        folders={"chat": "team/chat", "code": ""},
        in_use=["chat=3"],
        image=IMAGE,
        secret="keys",
        schedule="17 2 * * *",
        time_zone="Europe/Vienna",
    )
    of_job = {"job_uid": "0f0f0f0f-0000-0000-0000-000000000000"}
    claim = snapshot_claim(source, **of_job, storage_class="fast", size="12Gi")
    foreign_kinds.install(installed, foreign_kinds.SNAPSHOTS)
    made = (backup_job(source, image=IMAGE), volume_snapshot(source, **of_job), claim)
    for manifest in (*made, *nightly_objects(nightly)):
        answer = asked(installed, manifest)
        assert answer.returncode == 0, answer.stderr
        assert "would violate PodSecurity" not in answer.stderr


@pytest.mark.parametrize(
    "route",
    [empty("chat"), DIVIDED, with_preview(DIVIDED, Slot.GREEN, "t0ken")],
    ids=["empty", "divided", "preview"],
)
def test_routes_pass_the_rules_of_istios_resources(installed: Sandbox, route: Route) -> None:
    for manifest in (
        virtual_service(spec_of(), route),
        destination_rule(spec_of(), route.subsets, revision=route.revision),
    ):
        answer = asked(installed, manifest)
        assert answer.returncode == 0, answer.stderr


def test_installation_and_record_are_accepted(installed: Sandbox) -> None:
    stored = record_config_map(record(), namespace=NAMESPACE)

    for manifest in (*platform(installed), *install_objects(spec_of()), stored):
        answer = asked(installed, manifest)
        assert answer.returncode == 0, answer.stderr


def test_watcher_is_accepted_with_its_pod(installed: Sandbox) -> None:
    objects = list(yaml.safe_load_all(WATCHER.read_text()))
    template = objects[-1]["spec"]["template"]
    metadata = {**template["metadata"], "name": "slipway-watch"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    for manifest in (*objects, pod):
        manifest["metadata"]["namespace"] = NAMESPACE
        answer = asked(installed, manifest)
        assert answer.returncode == 0, answer.stderr
        assert "would violate PodSecurity" not in answer.stderr


def test_event_of_a_release_is_accepted(installed: Sandbox) -> None:
    event = release_event(
        "chat", NAMESPACE, reason="Held", message="x" * 3000, warning=True, at_ns=time.time_ns()
    )

    answer = installed.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(event))

    assert answer.returncode == 0, answer.stderr


def test_written_timeout_of_zero_is_what_istio_refuses(installed: Sandbox) -> None:
    manifest = virtual_service(spec_of(), DIVIDED)
    manifest["spec"]["http"][0]["timeout"] = "0s"

    answer = asked(installed, manifest)

    assert answer.returncode != 0
    assert "must be a valid duration greater than 1ms" in answer.stderr


@pytest.mark.parametrize(
    ("verb", "thing", "allowed"),
    [
        ("patch", "deployments.apps/chat-blue", "yes"),
        ("patch", "deployments.apps/other-blue", "no"),
        ("patch", "horizontalpodautoscalers.autoscaling/chat-blue", "yes"),
        ("delete", "horizontalpodautoscalers.autoscaling/other-blue", "no"),
        ("list", "horizontalpodautoscalers.autoscaling", "yes"),
        ("delete", "pods/chat-test", "yes"),
        ("get", "pods/chat-blue-1", "no"),
        ("delete", "pods/chat-blue-1", "no"),
        ("patch", "virtualservices.networking.istio.io/chat", "yes"),
        ("patch", "virtualservices.networking.istio.io/other", "no"),
        ("get", "secrets", "no"),
        ("update", "deployments.apps/chat-blue", "no"),
        ("create", "roles.rbac.authorization.k8s.io", "no"),
    ],
)
def test_release_account_may_do_its_work_and_nothing_else(
    installed: Sandbox, verb: str, thing: str, allowed: str
) -> None:
    answer = installed.kubectl(
        *("auth", "can-i", verb, thing, f"--namespace={NAMESPACE}"),
        "--as=system:serviceaccount:serving:slipway-release",
    )

    assert answer.stdout.strip() == allowed, answer.stderr
