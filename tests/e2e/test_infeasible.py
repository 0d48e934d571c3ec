"""Releases that cannot be carried out, on a real API server: each refused with what is short.

Nodes that lack something are objects without a kubelet, so that no other test loses a node.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from slipway.manifests.names import RELEASE_ACCOUNT
from tests.contract.tls_toys import tls_gateway
from tests.e2e.audit import Call, calls_since, log_end
from tests.e2e.support import Sandbox, World, said

NAMESPACE = "infeasible"
MODEL = "infeasible"
GPU = "nvidia.com/gpu"
_GHOST = "tests.slipway.dev/ghost"
"""Taint of a node without a kubelet. Until the cluster notices that it never spoke, the scheduler
would put pods of other tests there, and they would go with it."""
_AMONG_GHOSTS = [
    {"key": key}
    for key in (_GHOST, "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
]
_KINDS = "deployments,configmaps,leases,services,virtualservices,destinationrules,hpa"
_numbers = count(1)


class Place:
    """A namespace of our own, and what is put into it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._made: list[tuple[str, ...]] = []

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace; it must succeed."""
        done = self.world.sandbox.kubectl("-n", NAMESPACE, *args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def put(self, kind: str, name: str, version: str = "v1", **content: Any) -> None:
        """Make an object, until the end of the test."""
        meta = {"name": name, **content.pop("metadata", {})}
        made = {"apiVersion": version, "kind": kind, "metadata": meta, **content}
        self.kubectl("create", "-f", "-", stdin=json.dumps(made))
        self._made.append((kind, name))

    def put_node(self, name: str, pool: str, zone: str, **allocatable: str) -> None:
        """Make a node that nothing can run on, until the end of the test."""
        labels = {"pool": pool, "topology.kubernetes.io/zone": zone}
        taints = [{"key": _GHOST, "effect": "NoSchedule"}]
        self.put("Node", name, metadata={"labels": labels}, spec={"taints": taints})
        room = {"cpu": "8", "memory": "64Gi", "pods": "110", GPU: "0"}
        room.update({key.replace("gpus", GPU): value for key, value in allocatable.items()})
        status = json.dumps({"status": {"capacity": room, "allocatable": room}})
        self.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", status)

    def put_guest(self, name: str, node: str = "", **limits: str) -> None:
        """Make somebody else's pod, bound to a node, until the end of the test."""
        asked = {key.replace("gpus", GPU): value for key, value in limits.items()}
        container = {"name": "c", "image": "nowhere/x:1", "resources": {"limits": asked}}
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
        bound = {"nodeName": node} if node else {"nodeSelector": {"no": "node"}}
        self.put("Pod", name, spec={**spec, **bound})

    def clear(self) -> None:
        """Remove what was made."""
        while self._made:
            kind, name = self._made.pop()
            self.kubectl("delete", kind, name, "--force", "--grace-period=0", "--wait=true")

    def written(self, service: str) -> dict[str, str]:
        """Return the objects of a service with their resourceVersions."""
        listed = json.loads(self.kubectl("get", _KINDS, "-o", "json"))["items"]
        return {
            f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
            for item in listed
            if service in item["metadata"]["name"]
        }

    def pods(self, service: str) -> list[str]:
        """Return the pods that belong to a service."""
        found = self.kubectl("get", "pods", "-l", f"slipway.dev/service={service}", "-o", "name")
        return found.split()

    def kubeconfig_of_an_account_with(self, role: str) -> Path:
        """Write a kubeconfig in which an account with this Role alone is that of releases."""
        self.kubectl("create", "serviceaccount", "limited")
        account = f"--serviceaccount={NAMESPACE}:limited"
        self.kubectl("create", "rolebinding", "limited", f"--role={role}", account)
        # The filter of the gateway, which a plan looks for as well.
        at_gateway = ("create", "rolebinding", "limited", f"--role=slipway-split-{NAMESPACE}")
        made = self.world.sandbox.kubectl("-n", "istio-ingress", *at_gateway, account)
        assert made.returncode == 0, made.stderr
        token = self.kubectl("create", "token", "limited").strip()
        content = json.loads(self.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
        for user in content["users"]:
            if user["name"] == RELEASE_ACCOUNT:
                user["user"] = {"token": token}
        path = self.world.folder / f"limited-{next(_numbers)}.kubeconfig"
        path.write_text(json.dumps(content))
        return path

    def calls_since(self, end: int) -> list[Call]:
        """Return what our accounts have called in the namespace since the log ended there."""
        called = calls_since(self.world.sandbox.home, end)
        return [call for call in called if call.namespace == NAMESPACE]


@pytest.fixture(scope="module")
def shared(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A namespace for releases, and a version of one model for all of them."""
    world = World(sandbox, tmp_path_factory.mktemp("infeasible"))
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"slipway.dev/serving": "true"}},
    }
    made = sandbox.kubectl("create", "-f", "-", stdin=json.dumps(namespace))
    assert made.returncode == 0, made.stderr
    assert world.given_version(MODEL) == "1"
    yield world
    sandbox.kubectl("-n", "istio-ingress", "delete", "rolebinding", "limited")
    sandbox.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def place(shared: World) -> Iterator[Place]:
    made = Place(shared)
    try:
        yield made
    finally:
        made.clear()


def service_of(world: World, **changes: Any) -> str:
    """Install a service of two replicas that has never been released."""
    name = f"nofit-{next(_numbers)}"
    fixed = {"model": MODEL, "namespace": NAMESPACE, "replicas": 2}
    return world.given_service(name, **{**fixed, **changes})


def run(world: World, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `slipway ARGS` with some settings changed."""
    kept = dict(world.environment)
    world.environment.update(environment)
    try:
        return world.cli(*args)
    finally:
        world.environment.clear()
        world.environment.update(kept)


Putting = Callable[[Place, str], None]


@dataclass(frozen=True)
class Situation:
    """What makes a release infeasible, and how that is said.

    Args:
        code: of the shortfall.
        says: what stands in the refusal; `SERVICE` is the service's name.
        spec: changes of the service file, by dotted name.
        put: what is made in the cluster before.
    """

    code: str
    says: str
    spec: dict[str, Any] = field(default_factory=dict)
    put: Putting = lambda place, service: None


def in_pool(pool: str, **changes: Any) -> dict[str, Any]:
    """Return a service that goes to the nodes of a pool alone, though nothing runs there."""
    placed = {"resources__node_selector": {"pool": pool}, "resources__tolerations": _AMONG_GHOSTS}
    return {**placed, **changes}


def quota(**hard: str) -> Putting:
    named = {name.replace("__", "/").replace("_", "."): value for name, value in hard.items()}

    def put(place: Place, service: str) -> None:
        place.put("ResourceQuota", "team", spec={"hard": named})
        place.kubectl(
            *("wait", "resourcequota/team", "--for=jsonpath={.status.hard}", "--timeout=60s")
        )

    return put


def limits(**bounds: Any) -> Putting:
    return lambda place, service: place.put(
        "LimitRange", "bounds", spec={"limits": [{"type": "Container", **bounds}]}
    )


def foreign_deployment(place: Place, name: str, labels: dict[str, str]) -> None:
    spec = {
        "replicas": 0,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "c", "image": "nowhere/x:1"}]},
        },
    }
    place.put("Deployment", name, "apps/v1", metadata={"labels": {"app": "x"}}, spec=spec)


def budget(place: Place, service: str) -> None:
    selector = {"matchLabels": {"slipway.dev/serves": service}}
    spec = {"selector": selector, "minAvailable": 2}
    place.put("PodDisruptionBudget", "keep", "policy/v1", spec=spec)


def edited_route(place: Place, service: str) -> None:
    route = [{"destination": {"host": "elsewhere"}}]
    patch = [{"op": "add", "path": "/spec/http/-", "value": {"name": "mine", "route": route}}]
    place.kubectl("patch", "virtualservice", service, "--type=json", "-p", json.dumps(patch))


def gpus_of_guests(place: Place, service: str) -> None:
    place.put_node("ghost-a", "ghost", "zone-a", gpus="4")
    place.put_node("ghost-b", "ghost", "zone-b", gpus="4")
    place.put_guest("guest-a", "ghost-a", gpus="4")
    place.put_guest("guest-b", "ghost-b", gpus="2")


def tainted(place: Place, service: str) -> None:
    place.put_node("ghost-t", "tainted", "zone-a", gpus="4")
    place.kubectl("taint", "node", "ghost-t", "reserved=team-x:NoSchedule")


def two_zones(place: Place, service: str) -> None:
    place.put_node("ghost-a", "zones", "zone-a", gpus="8")
    place.put_node("ghost-b", "zones", "zone-b", gpus="1")
    place.put_guest("guest-b", "ghost-b", gpus="1")


SITUATIONS = {
    "image missing": Situation(
        "image-missing",
        "image slipway/simulated:never",
        {"server__image": "slipway/simulated:never"},
    ),
    "name of the Deployment taken": Situation(
        "name-taken",
        f"Deployment/{NAMESPACE}/SERVICE-blue: the name is taken, by what belongs to somebody else",
        put=lambda place, service: foreign_deployment(place, f"{service}-blue", {"app": "x"}),
    ),
    "name of the test pod taken": Situation(
        "name-taken",
        f"Pod/{NAMESPACE}/SERVICE-test: the name is taken, by what belongs to somebody else",
        put=lambda place, service: place.put_guest(f"{service}-test", cpu="1m", memory="1Mi"),
    ),
    "route edited": Situation(
        "route-foreign",
        "routes of SERVICE: the route objects of service SERVICE are not as Slipway writes them",
        put=edited_route,
    ),
    "budget that blocks every drain": Situation(
        "disruption-blocked",
        f"PodDisruptionBudget/{NAMESPACE}/keep: lets none of the candidate's 2 pods be evicted",
        put=budget,
    ),
    "selector of another Deployment": Situation(
        "objects-contradict",
        f"its selector also matches the pods of Deployment/{NAMESPACE}/SERVICE-blue (L4)",
        put=lambda place, service: foreign_deployment(
            place, "greedy", {"slipway.dev/serves": service}
        ),
    ),
    "quota of pods": Situation(
        "quota-short",
        "2 pods of SERVICE-blue: needs 2 pods of quota team (pods), 1 pod free; 1 pod more",
        put=quota(pods="1"),
    ),
    "quota of GPUs": Situation(
        "quota-short",
        "needs 2 GPUs of quota team (requests.nvidia.com/gpu), 1 GPU free; 1 GPU more",
        {"resources__gpus": 1},
        quota(requests_nvidia_com__gpu="1"),
    ),
    "quota of memory": Situation(
        "quota-short",
        "needs 256 MiB of quota team (requests.memory), 200 MiB free; 56 MiB more",
        put=quota(requests_memory="200Mi"),
    ),
    "quota of Deployments": Situation(
        "quota-short",
        "needs 1 piece of quota team (count/deployments.apps), 0 pieces free; 1 piece more",
        put=quota(count__deployments_apps="0"),
    ),
    "quota that asks for a limit": Situation(
        "quota-unstated",
        "container server states no limits.cpu, and quota team (limits.cpu) lets in only pods",
        put=quota(limits_cpu="8"),
    ),
    "limit range": Situation(
        "limit-range",
        "container server asks for 128 MiB of memory, LimitRange bounds allows at most 100 MiB;"
        " 28 MiB less",
        put=limits(max={"memory": "100Mi"}, default={"memory": "50Mi"}),
    ),
    "labels that no node has": Situation(
        "node-labels",
        "needs a node with pool=H100, 0 of 2 nodes have it; 1 more",
        {"resources__node_selector": {"pool": "H100"}},
    ),
    "taint of every node": Situation(
        "node-taints",
        "needs a node that it may run on, 1 node with its labels, every one tainted"
        " (reserved=team-x:NoSchedule); 1 more",
        in_pool("tainted"),
        tainted,
    ),
    "pod larger than every node": Situation(
        "node-too-small",
        "one pod needs 99 GPUs on one node, the largest has",
        {"resources__gpus": 99},
    ),
    "GPUs of others": Situation(
        "gpu-short",
        "4 pods of SERVICE-blue: needs 4 GPUs, 2 GPUs free in zone-b; 2 GPUs more",
        in_pool("ghost", resources__gpus=1, replicas=4),
        gpus_of_guests,
    ),
    "CPUs of the nodes": Situation(
        "node-room-short",
        "2 pods of SERVICE-blue: needs 12 CPUs, 6 CPUs free in zone-a; 6 CPUs more",
        in_pool("small", resources__cpu="6"),
        lambda place, service: place.put_node("ghost-s", "small", "zone-a"),
    ),
    "zone that is full": Situation(
        "zone-spread",
        "needs 4 pods at most 1 apart over topology.kubernetes.io/zone (room: zone-a 8, zone-b 0),"
        " 1 fit so; 3 more",
        in_pool("zones", resources__gpus=1, replicas=4, resources__zone_spread="required"),
        two_zones,
    ),
}


@pytest.mark.drawn("situation")
@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
def test_release_is_refused_with_the_exact_shortfall_and_nothing_is_written(
    place: Place, situation: Situation
) -> None:
    world = place.world
    service = service_of(world, **situation.spec)
    situation.put(place, service)
    before, log_ended = place.written(service), log_end(world.sandbox.home)
    refused = world.release(service, "1")
    _assert_refused(refused, situation.code, situation.says.replace("SERVICE", service))
    assert place.written(service) == before
    assert place.pods(service) == []
    called = place.calls_since(log_ended)
    assert {(call.verb, call.resource) for call in called} >= {("list", "deployments.apps")}
    assert [str(call) for call in called if call.writes] == []


def _assert_refused(refused: subprocess.CompletedProcess[str], code: str, says: str) -> None:
    text = said(refused)
    assert refused.returncode == 6, text
    assert "[infeasible]" in text
    assert f"[{code}]" in text
    assert says in text, text


def test_missing_verbs_are_named_a_line_each(place: Place) -> None:
    service = service_of(place.world)
    role = f"slipway-release-{service}"
    limited = str(place.kubeconfig_of_an_account_with(role))
    good = run(place.world, "release", service, "1", "--dry-run", KUBECONFIG=limited)
    assert good.returncode == 0, said(good)
    # The preflight's cluster roles are bound to the account of releases alone.
    assert "not seen: Nodes in all namespaces (not allowed to read them)" in said(good)
    assert "not seen: Pods in all namespaces (not allowed to read them)" in said(good)
    rules = json.loads(place.kubectl("get", "role", role, "-o", "json"))["rules"]
    for rule in rules:
        if f"slipway-{service}" in rule.get("resourceNames", ()):
            rule["verbs"] = ["get"]
    patch = json.dumps({"rules": rules})
    place.kubectl("patch", "role", role, "--type=merge", "-p", patch)
    before = place.written(service)
    refused = run(place.world, "release", service, "1", KUBECONFIG=limited)
    allowed = f"in {NAMESPACE}: is not allowed; 1 permission more"
    named = f"/slipway-{service} {allowed}"
    _assert_refused(refused, "permission-missing", f"patch configmaps{named}")
    assert f"patch configmaps/slipway-{service}-orders {allowed}" in said(refused)
    assert f"patch leases{named}" in said(refused)
    assert "for 3 reasons" in said(refused)
    assert place.written(service) == before


@contextmanager
def _expiring_gateway(folder: Path, host: str, days: float) -> Iterator[str]:
    now = datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(days=days)
    with tls_gateway(folder, host, now - datetime.timedelta(days=60), ends) as url:
        yield url


def test_certificate_that_is_about_to_expire_is_refused_by_a_handshake(place: Place) -> None:
    service = service_of(place.world)
    host = f"{service}.localhost"
    gateway: AbstractContextManager[str] = _expiring_gateway(place.world.folder, host, days=3.5)
    with gateway as url:
        refused = run(place.world, "release", service, "1", SLIPWAY_GATEWAY_URL=url)
    _assert_refused(
        refused,
        "certificate-expires",
        f"certificate for {host}: must be valid for 7 days, 3 days are left",
    )


def test_release_beside_a_live_version_names_price_and_the_other_ways(place: Place) -> None:
    world = place.world
    priced = {"resources__price_usd_per_hour": 36, "policy__rollback_window_s": 3600}
    service = service_of(world, replicas=1, **priced)
    done = world.release(service, "1")
    assert done.returncode == 0, said(done)
    second = world.given_version(MODEL, ttft_ms=6)

    planned = world.cli("release", service, second, "--dry-run")
    assert planned.returncode == 0, said(planned)
    assert "can be carried out now, beside the stable slot (blue_green)" in said(planned)
    assert "overlap: 1 pod beside the stable slot's for 3601 s to 3841 s: 36.01 to 38.41 USD" in (
        said(planned)
    )

    quota(pods="1")(place, service)
    before = place.written(service)
    refused = world.release(service, second)
    _assert_refused(
        refused,
        "quota-short",
        f"1 pod of {service}-green: needs 1 pod of quota team (pods), 0 pods free; 1 pod more",
    )
    assert "in_place would fit, in place of the stable slot's pods" in said(refused)
    assert place.written(service) == before
    place.clear()

    service_file = world.services / f"{service}.yaml"
    service_file.write_text(
        service_file.read_text().replace("policy:\n", "policy:\n  overlap_budget_usd: 38.40\n")
    )
    _assert_refused(
        world.cli("release", service, second, "--dry-run"),
        "overlap-too-dear",
        "overlap of 1 pod: costs up to 38.41 USD (3841 s at 36 USD an hour and pod), 38.40 USD are"
        " allowed; 0.01 USD more",
    )
    assert (world.record(service).version, world.record(service).phase) == ("1", "done")


def test_release_waits_for_room_and_goes_on_when_others_have_left(place: Place) -> None:
    world = place.world
    service = service_of(world, replicas=1, policy__when_full="queue")
    place.put_guest("guest", cpu="1m", memory="1Mi")
    quota(pods="1")(place, service)
    with world.releasing(service, "1") as waiting:
        output = waiting._process.stdout
        assert output is not None
        assert any("waits for room" in line for line in output)
        assert place.pods(service) == []
        place.clear()
        waiting.end()
    assert world.record(service).phase == "done"
