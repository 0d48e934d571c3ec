"""What the account of releases may not deploy, though its Role lets it make pods.

Asked of a real API server with the account's own token, by dry runs: nothing is stored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from slipway.adapters.kubernetes_api import MERGE_PATCH, KubernetesApi, object_path
from slipway.core.errors import PermanentError
from slipway.core.routing import Slot
from slipway.manifests import workload
from slipway.manifests.names import RELEASE_ACCOUNT, with_fence, workload_name
from slipway.manifests.weights import WeightsFetch
from slipway.sandbox.pki import CONTEXT
from tests.e2e.conftest import PROJECT
from tests.e2e.support import Sandbox, World
from tests.examples import DIGEST

Object = dict[str, Any]
Change = Callable[[Object], None]
"""Changes the specification of a pod."""

PULL = [{"name": "registry"}]


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(sandbox, tmp_path_factory.mktemp("policy"))
    made.given_service(
        "policed",
        replicas=1,
        weights="pvc",
        volume={"claim": "models", "secret": "models-reader", "artifacts": "s3://mlflow"},
    )
    return made


def pod(world: World) -> Object:
    """Return the pod that tests a model, as a release would make it."""
    ports = world.ports("policed")
    volume = ports.spec.volume
    assert volume is not None
    image = f"{ports.settings.registry}/slipway/never@{DIGEST}"
    fetch = WeightsFetch(volume=volume, image=image, source="s3://mlflow/1", sha256="ab" * 32)
    made = workload.test_pod(ports.spec, image=image, release_id="policed-v1-1", fetch=fetch)
    return with_fence(made, ports.releases.lock("policed").fence)


def deployment(world: World) -> Object:
    """Return a slot's Deployment whose pods are those of `pod`."""
    ports, like = world.ports("policed"), pod(world)
    name = workload_name("policed", Slot.BLUE)
    made = workload.slot_deployment(
        replace(ports.spec, volume=None),
        slot=Slot.BLUE,
        workload=name,
        image=like["spec"]["containers"][0]["image"],
        release_id="policed-v1-1",
    )
    kept = {"restartPolicy", "activeDeadlineSeconds"}
    spec = {key: value for key, value in like["spec"].items() if key not in kept}
    made["spec"]["template"]["spec"] = spec
    return with_fence(made, ports.releases.lock("policed").fence)


def asked(world: World, made: Object, *, context: str = RELEASE_ACCOUNT) -> str:
    """Ask whether the account may make it; returns what the API server says against it."""
    api = KubernetesApi(str(world.sandbox.home.kubeconfig), context=context)
    path = object_path(made["kind"], made["metadata"]["namespace"])
    try:
        api.call("POST", path, body=made, query={"dryRun": "All"})
    except PermanentError as error:
        return error.message
    return ""


def container(spec: Object) -> Object:
    found: Object = spec["containers"][0]
    return found


def with_image(image: str) -> Change:
    return lambda spec: container(spec).update(image=image)


def with_volume(**source: Any) -> Change:
    return lambda spec: spec["volumes"].append({"name": "further", **source})


def with_secret_variable(spec: Object) -> None:
    reference = {"secretKeyRef": {"name": "others", "key": "token"}}
    container(spec)["env"].append({"name": "TOKEN", "valueFrom": reference})


def with_foreign_variables_at_the_start(spec: Object) -> None:
    spec["initContainers"][0]["envFrom"] = [{"secretRef": {"name": "others"}}]


DIGITS = f"@{DIGEST}"
REFUSED: dict[str, tuple[Change, str]] = {
    "image by its tag": (
        lambda spec: container(spec).update(
            image=container(spec)["image"].partition("@")[0] + ":v1"
        ),
        "must name its images by digest",
    ),
    "image of another registry": (
        with_image(f"registry.example.com/slipway/chat{DIGITS}"),
        "must have its images from",
    ),
    "image of a registry that begins alike": (
        with_image(f"127.0.0.1.example.com/slipway/chat{DIGITS}"),
        "must have its images from",
    ),
    "image of another registry at the start": (
        lambda spec: spec["initContainers"][0].update(image=f"example.com/x{DIGITS}"),
        "must have its images from",
    ),
    "another account": (
        lambda spec: spec.update(serviceAccountName="default"),
        "must run as service account slipway-model",
    ),
    "account of releases": (
        lambda spec: spec.update(serviceAccountName=RELEASE_ACCOUNT),
        "must run as service account slipway-model",
    ),
    "variable of a secret": (with_secret_variable, "no Secret but its service's"),
    "variables of a secret": (
        lambda spec: container(spec).update(envFrom=[{"secretRef": {"name": "others"}}]),
        "no Secret but its service's",
    ),
    "variables of a secret at the start": (
        with_foreign_variables_at_the_start,
        "no Secret but its service's",
    ),
    "pull secret": (lambda spec: spec.update(imagePullSecrets=PULL), "no Secret that is not"),
    "volume of a secret": (
        with_volume(secret={"secretName": "others"}),
        "emptyDir and persistentVolumeClaim only",
    ),
    "projected volume": (
        with_volume(projected={"sources": [{"secret": {"name": "others"}}]}),
        "emptyDir and persistentVolumeClaim only",
    ),
    "volume of a driver": (
        with_volume(csi={"driver": "secrets-store.csi.k8s.io"}),
        "emptyDir and persistentVolumeClaim only",
    ),
    "ephemeral volume": (
        with_volume(
            ephemeral={
                "volumeClaimTemplate": {
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}},
                    }
                }
            }
        ),
        "emptyDir and persistentVolumeClaim only",
    ),
    "folder of the host": (
        with_volume(hostPath={"path": "/etc"}),
        "emptyDir and persistentVolumeClaim only",
    ),
    "network of the host": (
        lambda spec: spec.update(hostNetwork=True),
        "no namespace of its host",
    ),
    "processes of the host": (lambda spec: spec.update(hostPID=True), "no namespace of its host"),
    "memory of the host": (lambda spec: spec.update(hostIPC=True), "no namespace of its host"),
}


def test_what_a_release_makes_is_accepted(world: World) -> None:
    assert asked(world, pod(world)) == ""
    assert asked(world, deployment(world)) == ""


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_what_a_release_must_not_make_is_refused(world: World, change: Change, says: str) -> None:
    made = deployment(world)
    change(made["spec"]["template"]["spec"])
    against = asked(world, made)
    assert "ValidatingAdmissionPolicy 'slipway-model-pods'" in against
    assert says in against


def test_bare_pod_is_refused_as_a_deployment_is(world: World) -> None:
    # Pod Security may refuse it as well, so with something that it does not mind.
    made = pod(world)
    with_secret_variable(made["spec"])
    assert "no Secret but its service's" in asked(world, made)


def test_pod_without_a_label_of_a_release_is_refused_to_its_account_alone(world: World) -> None:
    made = pod(world)
    del made["metadata"]["labels"]["slipway.dev/release"]
    with_image(f"registry.example.com/x{DIGITS}")(made["spec"])
    assert "must have its images from" in asked(world, made)
    assert asked(world, made, context=CONTEXT) == ""


def test_deployment_of_others_may_be_scaled_but_not_changed(world: World) -> None:
    # Not under the name that the other tests ask about.
    ports, name = world.ports("policed"), workload_name("policed", Slot.GREEN)
    adopted = deployment(world)
    del adopted["metadata"]["labels"]["slipway.dev/release"]
    del adopted["spec"]["template"]["metadata"]["labels"]["slipway.dev/release"]
    adopted["metadata"]["name"] = name
    adopted["spec"]["replicas"] = 0
    with_image("nowhere/x:1")(adopted["spec"]["template"]["spec"])
    ports.workloads.apply(adopted)
    api = KubernetesApi(str(world.sandbox.home.kubeconfig), context=RELEASE_ACCOUNT)

    def patch(spec: Object) -> None:
        path, dry = object_path("Deployment", "serving", name), {"dryRun": "All"}
        api.call("PATCH", path, body={"spec": spec}, query=dry, content_type=MERGE_PATCH)

    patch({"replicas": 1})
    with pytest.raises(PermanentError, match="must name its images by digest"):
        patch({"template": {"spec": {"enableServiceLinks": True}}})


def test_pull_secret_that_is_granted_is_accepted(world: World) -> None:
    made = deployment(world)
    made["spec"]["template"]["spec"]["imagePullSecrets"] = PULL
    kubectl = world.sandbox.kubectl
    try:
        for item in yaml.safe_load_all(documented_grant()):
            done = kubectl("apply", "-f", "-", stdin=json.dumps(item))
            assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + 30
        while asked(world, made):
            assert time.monotonic() < deadline, asked(world, made)
            time.sleep(0.1)  # until the Role is in force; the deadline decides
    finally:
        kubectl("-n", "serving", "delete", "role,rolebinding", "pull-secret")


def documented_grant() -> str:
    """Return the objects that the page of permissions gives for it."""
    page = (PROJECT / "docs/reference/permissions.md").read_text()
    return page.split("```yaml\n")[1].split("```", maxsplit=1)[0]
