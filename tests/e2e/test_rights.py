"""What each account may do, on a real API server: enough, and nothing that is never used.

Here every port does its calls once, as the account that makes them, for services of each shape:
so each right is used in every run of the tests. Whole releases use them in the other files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.adapters.decorators import RetryingKubernetesApi
from slipway.adapters.kubernetes_api import MERGE_PATCH, KubernetesApi, object_path
from slipway.adapters.kubernetes_preflight import KubernetesPreflight
from slipway.bootstrap.releases import Ports, backup_jobs, connect
from slipway.cli.status_view import print_status
from slipway.core.errors import PermanentError
from slipway.core.feasibility.values import Code, Right
from slipway.core.release.orders import OrderKind, about
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.routing import Slot
from slipway.manifests import names, workload
from slipway.manifests.accounts import preflight_rules
from slipway.manifests.autoscaling import autoscaler
from slipway.manifests.backups import VolumeSource, backup_job, snapshot_claim, volume_snapshot
from slipway.manifests.names import (
    BACKUP_ACCOUNT,
    OPERATE_ROLE,
    RELEASE_ACCOUNT,
    WATCH_ACCOUNT,
    sweep_pod_name,
    with_fence,
    workload_name,
)
from slipway.manifests.rights import release_rights, rights_of
from slipway.manifests.weights import sweep_pod
from tasks.feasibility import begins, feasibility
from tasks.progress import Progress
from tasks.session import new_holder, taken_over
from tasks.watch import Watcher, give_users_back
from tests.e2e.audit import ACCOUNTS, difference, read_audit
from tests.e2e.conftest import PROJECT
from tests.e2e.foreign_kinds import KEDA, SNAPSHOTS, install
from tests.e2e.metrics_api import METRIC
from tests.e2e.support import Sandbox, World
from tests.examples import DIGEST

pytestmark = pytest.mark.always

NAMESPACE = "rights"
ALONE = "rights-alone"
"""Without another service, whose Role could grant the same."""

MODEL = "rights"
_RELEASE_ID = "rights-v1-1"
_PATIENCE_S = 30.0
_SCALED: dict[str, Any] = {"min_replicas": 1, "max_replicas": 2, "target_average": 5}
_HPA = {**_SCALED, "kind": "hpa", "metric": METRIC}
_VOLUME: dict[str, Any] = {
    "weights": "pvc",
    "volume": {"claim": "models", "secret": "models-reader", "artifacts": "s3://mlflow"},
}
SHAPES: dict[str, dict[str, Any]] = {
    "istio": {},
    "gateway-api": {"router": {"kind": "gateway_api"}},
    "service": {"router": {"kind": "service", "propagation_s": 1}},
    "hpa": {"autoscaling": _HPA},
    "keda": {
        "autoscaling": {
            **_SCALED,
            "kind": "keda",
            "query": 'sum(in_flight{pod=~"$WORKLOAD-.*"})',
            "server": "http://prometheus.monitoring:9090",
        }
    },
    "volume": _VOLUME,
    "kept": {
        **_VOLUME,
        "volume": {
            **_VOLUME["volume"],
            "backup": {"secret": "models-backup", "snapshot_class": "none-here"},
        },
    },
}
ROUTERS = ("istio", "gateway-api", "service")


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Namespaces of our own, and a service of each shape; KEDA's resource is known meanwhile."""
    made = World(sandbox, tmp_path_factory.mktemp("rights"))
    for name in (NAMESPACE, ALONE):
        labels = {"slipway.dev/serving": "true"}
        namespace = {"apiVersion": "v1", "kind": "Namespace"}
        _kubectl(made, "apply", stdin={**namespace, "metadata": {"name": name, "labels": labels}})
    for shape, changes in SHAPES.items():
        fixed = {"namespace": NAMESPACE, "model": MODEL, "replicas": 1}
        made.given_service(f"rights-{shape}", **fixed, **changes)
    install(sandbox, SNAPSHOTS)
    install(sandbox, KEDA)
    yield made
    for name in (NAMESPACE, ALONE):
        sandbox.kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize("shape", SHAPES)
def test_release_account_may_do_what_a_release_can_have_to_do(world: World, shape: str) -> None:
    service = f"rights-{shape}"
    ports = world.ports(service, context=RELEASE_ACCOUNT)
    looked = feasibility(ports, _record(ports, fence=0), recorded=False)
    assert [item for item in looked.shortfalls if item.code is Code.PERMISSION] == []
    assert "Nodes" not in str(looked.unseen)
    ports.traffic.split_filter_in_force()
    with _held(ports) as fence:
        _deploy(ports, fence)
        _try_pods(ports, fence)
        _scale(ports, fence)
        _try_records(ports, fence)
        ports.traffic.apply(ports.traffic.read(service), fence=fence)
        if shape == "service":
            ports.traffic.confirm(ports.traffic.read(service), timeout_s=30)


@pytest.mark.parametrize("shape", [*ROUTERS, "hpa", "keda"])
def test_watch_account_may_look_take_over_and_give_users_back(world: World, shape: str) -> None:
    service = f"rights-{shape}"
    _as_if_under_way(world, service)
    ports = world.ports(service, context=WATCH_ACCOUNT)
    told: list[str] = []
    Watcher(start=lambda name, _: told.append(name), report=told.append).look([ports])
    assert told == []  # what it may not see it would say; and nobody is dead yet
    assert give_users_back(ports, "a test").startswith("slot blue serves again")
    ports.traffic.apply(ports.traffic.read(service), fence=ports.releases.lock(service).fence)
    if shape == "service":
        ports.traffic.confirm(ports.traffic.read(service), timeout_s=30)


def test_backup_account_may_read_a_record_and_start_a_pod_of_its_own(world: World) -> None:
    service = "rights-istio"
    written = _as_if_under_way(world, service)
    ports = world.ports(service, context=BACKUP_ACCOUNT)
    stored = ports.releases.load(service)
    assert stored is not None
    assert stored.record.release_id == written.release_id
    applied = ports.workloads.apply(workload.drill_pod(ports.spec, image=_image(ports)))
    name = names.drill_pod_name(service)
    assert ports.workloads.pod(NAMESPACE, name) is not None
    ports.workloads.delete("Pod", NAMESPACE, name, uid=applied.uid, wait=False)


def test_backup_account_may_run_its_job_on_a_volume(world: World) -> None:
    """No driver is here: snapshot, claim and Job are made, and nothing comes of them."""
    ports = world.ports("rights-kept", context=BACKUP_ACCOUNT)
    jobs = backup_jobs(replace(world.settings, context=BACKUP_ACCOUNT))
    source = VolumeSource(spec=ports.spec, version="1", weights="ab" * 32)
    image = ports.images.resolve(source.backup.image).reference
    job = jobs.start(backup_job(source, image=image))
    assert (job.subject, job.succeeded) == (source.subject, None)
    jobs.make(volume_snapshot(source, job_uid=job.uid))
    claim = snapshot_claim(source, job_uid=job.uid, storage_class=None, size="1Gi")
    jobs.make(claim)
    jobs.make(claim)
    assert jobs.read("VolumeSnapshot", NAMESPACE, source.name) is not None
    made = jobs.read("PersistentVolumeClaim", NAMESPACE, source.name)
    assert made is not None
    assert made["spec"]["dataSource"]["name"] == source.name
    assert jobs.read("PersistentVolumeClaim", NAMESPACE, source.volume.claim) is None
    deadline = time.monotonic() + _PATIENCE_S
    while not jobs.output(NAMESPACE, source.name) and time.monotonic() < deadline:
        look = jobs.look(NAMESPACE, source.name)
        assert look is not None
        if look.said:  # it waits for a claim that nobody fills
            break
        time.sleep(0.2)  # between two looks; the deadline decides
    _log_of_a_pod(world)
    jobs.remove(NAMESPACE, source.name, job.uid)
    jobs.remove(NAMESPACE, source.name, job.uid)
    assert jobs.look(NAMESPACE, source.name) is None


def _log_of_a_pod(world: World) -> None:
    """Ask for a log as the account; that there is none yet changes nothing."""
    api = KubernetesApi(world.settings.kubeconfig, context=BACKUP_ACCOUNT)
    with suppress(PermanentError):
        api.text(f"{object_path('Pod', NAMESPACE, 'no-such-pod')}/log")


def test_job_of_the_backup_account_may_name_no_secret_that_is_not_granted(world: World) -> None:
    ports = world.ports("rights-kept", context=BACKUP_ACCOUNT)
    jobs = backup_jobs(replace(world.settings, context=BACKUP_ACCOUNT))
    source = VolumeSource(spec=ports.spec, version="1", weights="ab" * 32)
    job = backup_job(source, image=ports.images.resolve(source.backup.image).reference)
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["envFrom"] = [{"secretRef": {"name": "somebody-elses"}}]
    with pytest.raises(PermanentError, match="variables of no Secret"):
        jobs.start(job)


@pytest.mark.parametrize("shape", ROUTERS)
def test_person_with_the_role_may_look_at_a_service(
    world: World, shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = f"rights-{shape}"
    written = _as_if_under_way(world, service)
    settings = replace(
        world.settings,
        kubeconfig=_kubeconfig_of_a_person(world, service, tmp_path),
        context=RELEASE_ACCOUNT,
    )
    print_status(connect(service, settings))
    assert written.release_id in capsys.readouterr().out


def test_person_with_the_role_may_abort_a_release(world: World, tmp_path: Path) -> None:
    service = "rights-istio"
    _as_if_under_way(world, service)
    kubeconfig = _kubeconfig_of_a_person(world, service, tmp_path)
    own = {"KUBECONFIG": kubeconfig, "PYTHONUNBUFFERED": "1"}
    environment = {**world.process_environment, **own}
    command = (sys.executable, "-m", "slipway.cli")
    admin = world.ports(service)
    with (
        _held(admin),
        subprocess.Popen(
            (*command, "abort", service),
            env=environment,
            cwd=PROJECT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as aborting,
    ):
        assert aborting.stdout is not None
        # It has looked at the lock by then, which is one of the rights that must have been used.
        said = next(line for line in aborting.stdout if "is locked by" in line)
        assert [order.kind for order in admin.orders.read(service).orders] == [OrderKind.ABORT]
        stored = admin.releases.load(service)
        assert stored is not None
        ended = replace(stored.record, phase=Phase.ROLLED_BACK, failure_code="aborted")
        admin.releases.save(ended, version=stored.version)
        output = said + aborting.stdout.read()
    assert aborting.returncode == 0, output
    assert "rolled_back" in output
    assert admin.orders.read(service).orders == ()


def test_each_right_that_is_taken_away_is_the_one_that_a_plan_names(world: World) -> None:
    changes = {"namespace": ALONE, "model": MODEL, "replicas": 1, "autoscaling": _HPA, **_VOLUME}
    service = world.given_service("rights-lost", **changes)
    spec, role = world.ports(service).spec, f"{RELEASE_ACCOUNT}-{service}"
    preflight = _preflight_by_nothing_but(world, role)
    read = ("-n", ALONE, "get", "role", role, "-o", "json")
    rules = json.loads(_kubectl(world, *read))["rules"]
    asked = [right for right in release_rights(spec) if right.namespace == ALONE]
    looked = list(rights_of(preflight_rules(), ALONE))
    assert set(rights_of(rules, ALONE)) == {*asked, *looked}

    _wait(lambda: preflight.missing_rights(asked) == (), "all rights to be in force")
    for right in (*asked, *looked):
        _grant(world, role, list(_without(rules, right)))
        _wait(lambda lost=right: preflight.missing_rights([lost]) == (lost,), str(right))
        if right in asked:
            assert preflight.missing_rights(asked) == (right,)
    _grant(world, role, rules)
    _wait(lambda: preflight.missing_rights(asked) == (), "all rights to be in force")


def test_every_right_that_was_granted_has_been_used_and_no_other(world: World) -> None:
    found = read_audit([world.sandbox.home])
    assert {right.account for right in found.granted} == set(ACCOUNTS)
    assert found.faults() == []
    assert difference(found) == []


@contextmanager
def _held(ports: Ports) -> Iterator[int]:
    """Hold a service's lock meanwhile; its number is on what it guards."""
    name = ports.spec.name
    lease = ports.releases.take(ports.releases.lock(name), holder=new_holder(), duration_s=15)
    with taken_over(ports, lease, Progress(name, stream=None)) as (keeper, _):
        yield keeper.lease.fence


def _record(ports: Ports, *, fence: int) -> ReleaseRecord:
    """Return the record of a release that has just begun."""
    begun = begins(ports, "1", None, fence=fence)
    assert begun is not None
    return begun


def _image(ports: Ports) -> str:
    """Return an image that nobody pushed: nothing of this file is to run."""
    return f"{ports.settings.registry}/slipway/never@{DIGEST}"


def _deploy(ports: Ports, fence: int) -> None:
    """Make a Deployment without pods, as a release does, and look at it."""
    name = workload_name(ports.spec.name, Slot.BLUE)
    made = workload.slot_deployment(
        ports.spec, slot=Slot.BLUE, workload=name, image=_image(ports), release_id=_RELEASE_ID
    )
    made["spec"]["replicas"] = 0
    ports.workloads.apply(with_fence(made, fence))
    assert ports.workloads.observe(ports.spec.namespace, name) is not None


def _try_pods(ports: Ports, fence: int) -> None:
    spec, image = ports.spec, _image(ports)
    pods = {
        names.test_pod_name(spec.name): workload.test_pod(spec, image=image, release_id=_RELEASE_ID)
    }
    if spec.volume is not None:
        pods[sweep_pod_name(spec.name)] = sweep_pod(
            spec, spec.volume, image=image, release_id=_RELEASE_ID, keep=()
        )
    for name, made in pods.items():
        applied = ports.workloads.apply(with_fence(made, fence))
        assert ports.workloads.pod(spec.namespace, name) is not None
        ports.workloads.log_tail(spec.namespace, name, lines=1)
        ports.workloads.delete("Pod", spec.namespace, name, uid=applied.uid, wait=False)
    ports.workloads.event(
        spec.namespace, spec.name, reason="Tried", message="by a test", warning=False
    )


def _scale(ports: Ports, fence: int) -> None:
    """Do to what scales a slot all that a release does, if the service has such a thing."""
    spec = ports.spec
    if spec.autoscaling is None:
        return
    name = workload_name(spec.name, Slot.BLUE)
    made = autoscaler(
        spec.name, spec.namespace, spec.autoscaling, slot=Slot.BLUE, workload=name, floor=1
    )
    ports.autoscalers.apply(with_fence(made, fence))
    (found,) = ports.autoscalers.find(spec.namespace, (name,))
    ports.autoscalers.set_floor(spec.namespace, found, 2, fence=fence)
    (found,) = ports.autoscalers.find(spec.namespace, (name,))
    ports.autoscalers.remove(spec.namespace, found)
    _wait(lambda: ports.autoscalers.find(spec.namespace, (name,)) == (), "it to be gone")
    ports.autoscalers.apply(with_fence(made, fence))  # for the watcher


def _try_records(ports: Ports, fence: int) -> None:
    service = ports.spec.name
    begun = _record(ports, fence=fence)
    stored = ports.releases.save(begun, version=None)
    ports.releases.save(begun, version=stored.version)
    order = about(begun, OrderKind.ABORT, order_id="abort-test", by="a test", at_ns=1)
    ports.orders.post(service, order)
    assert [item.order_id for item in ports.orders.read(service).orders] == ["abort-test"]
    ports.orders.remove(service, "abort-test")


def _as_if_under_way(world: World, service: str) -> ReleaseRecord:
    """Write a record as if the process of a release had just died."""
    admin = world.ports(service)
    with _held(admin) as fence:
        stored = admin.releases.load(service)
        begun = _record(admin, fence=fence)
        return admin.releases.save(begun, version=None if stored is None else stored.version).record


def _kubeconfig_of_a_person(world: World, service: str, folder: Path) -> str:
    """Bind the role for people to an account; its kubeconfig has it in the releases' place."""
    scope, role = ("-n", NAMESPACE), f"{OPERATE_ROLE}-{service}"
    account = {"name": OPERATE_ROLE, "namespace": "serving"}
    _kubectl(
        world, "apply", stdin={"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}
    )
    binding = ("rolebinding", role, f"--role={role}", f"--serviceaccount=serving:{OPERATE_ROLE}")
    world.sandbox.kubectl(*scope, "create", *binding)  # one of an earlier test serves too
    asked = ("auth", "can-i", "get", f"lease/slipway-{service}")
    who = f"--as=system:serviceaccount:serving:{OPERATE_ROLE}"
    _wait(lambda: world.sandbox.kubectl(*scope, *asked, who).returncode == 0, "the binding")
    token = _kubectl(world, "-n", "serving", "create", "token", OPERATE_ROLE).strip()
    return _kubeconfig(world, token, folder)


def _preflight_by_nothing_but(world: World, role: str) -> KubernetesPreflight:
    """Return the preflight as an account with this Role alone: nothing else grants the same."""
    _kubectl(world, "-n", ALONE, "create", "serviceaccount", "limited")
    bound = ("rolebinding", "limited", f"--role={role}", f"--serviceaccount={ALONE}:limited")
    _kubectl(world, "-n", ALONE, "create", *bound)
    token = _kubectl(world, "-n", ALONE, "create", "token", "limited").strip()
    path = _kubeconfig(world, token, world.folder)
    api = RetryingKubernetesApi(path, context=RELEASE_ACCOUNT)
    return KubernetesPreflight(api, gateway_url=world.settings.gateway_url)


def _kubeconfig(world: World, token: str, folder: Path) -> str:
    """Write a kubeconfig with a token in the place of the release account's."""
    config = json.loads(_kubectl(world, "config", "view", "--raw", "-o", "json"))
    config["users"] = [
        {**user, "user": {"token": token}} if user["name"] == RELEASE_ACCOUNT else user
        for user in config["users"]
    ]
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


def _without(rules: list[dict[str, Any]], lost: Right) -> Iterator[dict[str, Any]]:
    """Yield rules that grant what `rules` do, but for one right."""
    for right in rights_of(rules, lost.namespace):
        if right != lost:
            named = {"resourceNames": [right.name]} if right.name else {}
            yield {
                "apiGroups": [right.group],
                "resources": [right.resource],
                "verbs": [right.verb],
                **named,
            }


def _grant(world: World, role: str, rules: list[dict[str, Any]]) -> None:
    api = KubernetesApi(str(world.sandbox.home.kubeconfig))
    path = object_path("Role", ALONE, role)
    api.call("PATCH", path, body={"rules": rules}, content_type=MERGE_PATCH)


def _kubectl(world: World, *args: str, stdin: dict[str, Any] | None = None) -> str:
    further = () if stdin is None else ("-f", "-")
    done = world.sandbox.kubectl(*args, *further, stdin=json.dumps(stdin) if stdin else None)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _wait(look: Any, what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)  # between two looks; the deadline decides
