"""The routes that Slipway writes, as Istio and a stock Envoy understand them.

Two slots of a service, deployed from the manifests of a release but without one, so every test can
route as it likes. What a request got is told by the answer and, independently, by the access log.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from slipway.adapters.access_log import read_rows
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.core.routing import (
    PREVIEW_HEADER,
    ROUTE_HEADER,
    SLOT_HEADER,
    Route,
    Share,
    Slot,
    all_to,
    empty,
    with_preview,
)
from slipway.core.service import ServiceSpec
from slipway.core.traffic import AccessRow
from slipway.manifests.names import workload_name
from slipway.manifests.routes.istio import destination_rule, virtual_service
from slipway.manifests.workload import slot_deployment
from slipway.sandbox.network.addresses import shown_address
from slipway.sandbox.parts import gateway
from tests.e2e.support import Sandbox, World

SERVICE = "mesh"
BOTH = frozenset(Slot)
PATIENCE_S = 60.0
EFFECT_LIMIT_S = 5.0


@dataclass(frozen=True)
class Mesh:
    """The service under test.

    Args:
        world: where it is.
        spec: what it is.
        client: of a user; keeps its connections.
    """

    world: World
    spec: ServiceSpec
    client: httpx.Client = field(repr=False)

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply objects as `kubectl apply --server-side` does."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        file = self.world.folder / f"{uuid.uuid4().hex}.json"
        file.write_text(json.dumps(items))
        done = self.world.sandbox.kubectl(
            *("apply", "--server-side", "--force-conflicts", "--field-manager=slipway-release"),
            *("-f", str(file)),
        )
        assert done.returncode == 0, done.stderr

    def route(self, route: Route, *, known: frozenset[Slot] = BOTH) -> None:
        """Apply a route, with subsets of the slots in `known`, and wait until Envoy has it."""
        self.apply(
            destination_rule(self.spec, known, revision=route.revision),
            virtual_service(self.spec, route),
        )
        deadline_s = time.monotonic() + PATIENCE_S
        while route.revision not in self.programmed() or self.clusters() != known:
            assert time.monotonic() < deadline_s, f"Envoy has {self.programmed()}"
            time.sleep(0.02)
        # The configuration is the main thread's; each worker takes it over at its next turn.
        while {self.ask().headers.get(ROUTE_HEADER) for _ in range(20)} != {route.revision}:
            assert time.monotonic() < deadline_s, "the workers do not take the route"

    def ask(self, mark: str = "", **headers: str) -> httpx.Response:
        """Ask for the list of models; `mark` is found again in the access log."""
        # Not by a session: those are divided once, and stay.
        marked = {"x-request-id": f"{mark}-{uuid.uuid4().hex}", **headers}
        return self.client.get("/v1/models", headers=marked)

    def slots_of(self, count: int, mark: str = "", **headers: str) -> Counter[str]:
        """Ask `count` times; return how often which slot answered."""
        answers = [self.ask(mark, **headers) for _ in range(count)]
        assert {answer.status_code for answer in answers} == {200}
        return Counter(answer.headers[SLOT_HEADER] for answer in answers)

    def rows(self, mark: str, count: int) -> list[AccessRow]:
        """Return the access log's rows of those requests, once there are `count`."""
        log = self.world.settings.access_log
        assert log is not None
        deadline_s = time.monotonic() + PATIENCE_S
        while (
            len(found := [row for row in read_rows(log) if row.request_id.startswith(f"{mark}-")])
            < count
        ):
            assert time.monotonic() < deadline_s, f"{len(found)} rows of {count}"
            time.sleep(0.05)
        return found

    def programmed(self) -> set[str]:
        """Return the route revisions that stand in Envoy's configuration of the service's host."""
        dump = self._admin("/config_dump?resource=dynamic_route_configs")
        return {
            header["header"]["value"]
            for config in dump.get("configs", [])
            for host in config["route_config"].get("virtual_hosts", [])
            if self.spec.hosts[0] in host["domains"]
            for route in host["routes"]
            for header in route.get("response_headers_to_add", [])
            if header["header"]["key"] == ROUTE_HEADER
        }

    def clusters(self) -> frozenset[Slot]:
        """Return the slots that Envoy has a cluster with endpoints of."""
        found = set()
        for item in self._admin("/clusters?format=json").get("cluster_statuses", []):
            fields = item["name"].split("|")
            ours = len(fields) == 4 and fields[3].split(".")[0] == SERVICE
            if ours and fields[2] in set(Slot) and item.get("host_statuses"):
                found.add(Slot(fields[2]))
        return frozenset(found)

    def pods(self, slot: Slot) -> set[str]:
        """Return the addresses of a slot's pods, as the API shows them."""
        told = self.world.sandbox.kubectl(
            *("-n", self.spec.namespace, "get", "pods", "-o", "json"),
            *("-l", f"slipway.dev/serves={SERVICE},slipway.dev/slot={slot}"),
        )
        return {item["status"]["podIP"] for item in json.loads(told.stdout)["items"]}

    def _admin(self, path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.world.sandbox.home.port('gateway-admin')}{path}"
        found: dict[str, Any] = httpx.get(url, trust_env=False).raise_for_status().json()
        return found


@pytest.fixture(scope="module")
def mesh(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    world = World(sandbox, tmp_path_factory.mktemp("mesh"))
    world.given_service(SERVICE, replicas=2)
    spec = world.ports(SERVICE).spec
    client = httpx.Client(
        base_url=gateway.url(sandbox.home),
        headers={"host": spec.hosts[0]},
        trust_env=False,
        timeout=20,
    )
    with client:
        made = Mesh(world, spec, client)
        image = image_with_model(world)
        names = {slot: workload_name(SERVICE, slot) for slot in Slot}
        try:
            made.apply(
                *(
                    slot_deployment(
                        spec, slot=slot, workload=name, image=image, release_id=f"mesh-{slot}"
                    )
                    for slot, name in names.items()
                )
            )
            for name in names.values():
                scope = ("-n", spec.namespace, f"--timeout={PATIENCE_S:.0f}s")
                rolled = sandbox.kubectl("rollout", "status", f"deployment/{name}", *scope)
                assert rolled.returncode == 0, rolled.stdout + rolled.stderr
            yield made
        finally:
            made.apply(virtual_service(spec, empty(SERVICE)), destination_rule(spec, frozenset()))
            gone = ("delete", "deployment", *names.values(), "--ignore-not-found")
            sandbox.kubectl("-n", spec.namespace, *gone, "--wait=false")


def image_with_model(world: World) -> str:
    """Return an image that holds a simulated model, by digest."""
    ports = world.ports(SERVICE)
    model = world.folder / "simulated.json"
    model.write_text(json.dumps({"ttft_ms": 1, "gap_ms": 1}))
    return ports.images.append(
        ports.images.resolve(ports.spec.server.image),
        repository=f"models/{SERVICE}",
        files={"/model/simulated.json": model},
        labels={},
    ).reference


def divided(green: int) -> Route:
    """Return the route that gives green so many percent, and blue the others."""
    shares = (Share(slot=Slot.BLUE, percent=100 - green), Share(slot=Slot.GREEN, percent=green))
    return Route(service=SERVICE, shares=shares, subsets=BOTH)


def test_weights_of_90_and_10_split_the_requests_so(mesh: Mesh) -> None:
    mark = f"split-{uuid.uuid4().hex}"
    count, share = 600, 0.1
    mesh.route(divided(green=10))

    answered = mesh.slots_of(count, mark)

    deviation = (count * share * (1 - share)) ** 0.5
    said = f"{answered['green']} of {count} to green; {share * count:.0f} ± {4 * deviation:.0f}"
    print(said)  # noqa: T201  # a figure that people look for
    assert abs(answered["green"] - share * count) <= 4 * deviation
    assert Counter(row.slot for row in mesh.rows(mark, count)) == answered


def test_requests_of_one_slot_reach_all_of_its_pods_and_no_other(mesh: Mesh) -> None:
    mark = f"pods-{uuid.uuid4().hex}"
    mesh.route(all_to(SERVICE, Slot.GREEN))
    assert mesh.slots_of(60, mark) == {"green": 60}
    reached = {shown_address(row.pod).split(":")[0] for row in mesh.rows(mark, 60)}
    assert reached == mesh.pods(Slot.GREEN)
    assert len(reached) == 2


@pytest.mark.parametrize("value", ["True", "TRUE", "true ish", "tr", "xtrue"])
def test_preview_header_with_another_value_is_a_users_request(mesh: Mesh, value: str) -> None:
    mesh.route(with_preview(all_to(SERVICE, Slot.BLUE), Slot.GREEN, "true"))
    assert mesh.slots_of(20, **{PREVIEW_HEADER: value}) == {"blue": 20}


def test_preview_header_with_the_exact_value_reaches_the_candidate_only(mesh: Mesh) -> None:
    mark = f"preview-{uuid.uuid4().hex}"
    route = with_preview(all_to(SERVICE, Slot.BLUE), Slot.GREEN, "true")
    mesh.route(route)
    assert mesh.slots_of(40, mark, **{PREVIEW_HEADER: "true"}) == {"green": 40}
    # Names of headers are case-insensitive in HTTP; values are not.
    assert mesh.slots_of(10, mark, **{PREVIEW_HEADER.upper(): "true"}) == {"green": 10}
    assert mesh.slots_of(10, mark) == {"blue": 10}
    rules = Counter((row.route, row.slot) for row in mesh.rows(mark, 60))
    assert rules == {("preview", "green"): 50, ("users", "blue"): 10}


def test_route_to_a_subset_that_no_destination_rule_defines_answers_503_without_cluster(
    mesh: Mesh,
) -> None:
    # Istio, "Traffic Management Problems", "503 errors after setting destination rule"; Envoy's
    # flag NC is "upstream cluster not found".
    mark = f"undefined-{uuid.uuid4().hex}"
    route = replace(all_to(SERVICE, Slot.GREEN), subsets=BOTH)
    mesh.route(route, known=frozenset({Slot.BLUE}))

    answer = mesh.ask(mark)

    assert answer.status_code == 503
    (row,) = mesh.rows(mark, 1)
    assert (row.status, row.flags, row.details) == (503, frozenset({"NC"}), "cluster_not_found")
    assert (row.pod, row.failed) == ("", True)


def test_changed_route_is_read_back_from_envoy_and_takes_effect_within_seconds(
    mesh: Mesh,
) -> None:
    mesh.route(divided(green=50))
    api = KubernetesApi(str(mesh.world.sandbox.home.kubeconfig))
    effects_ms = []
    for green in (20, 80, 30, 70, 40, 60):
        route = divided(green)
        began_s = time.monotonic()
        api.apply(virtual_service(mesh.spec, route))
        while mesh.programmed() != {route.revision}:
            assert time.monotonic() < began_s + EFFECT_LIMIT_S, mesh.programmed()
        effects_ms.append((time.monotonic() - began_s) * 1000)
        assert mesh.ask().status_code == 200
    shown = ", ".join(f"{effect:.0f}" for effect in effects_ms)
    said = f"VirtualService written → in Envoy's configuration: {shown} ms"
    print(said)  # noqa: T201  # a figure that people look for


def test_row_of_the_access_log_names_slot_pod_and_revision_of_the_route(mesh: Mesh) -> None:
    mark = f"rows-{uuid.uuid4().hex}"
    route = divided(green=50)
    mesh.route(route)
    answered = mesh.slots_of(40, mark)
    rows = mesh.rows(mark, 40)
    pods = {slot: mesh.pods(slot) for slot in Slot}
    assert Counter(row.slot for row in rows) == answered
    for row in rows:
        assert row.route_revision == route.revision
        assert shown_address(row.pod).split(":")[0] in pods[Slot(row.slot)]
        assert row.service == f"{SERVICE}.{mesh.spec.namespace}.svc.cluster.local"
        said = (row.route, row.status, row.path, row.attempts)
        assert said == ("users.sticky", 200, "/v1/models", 1)
        assert row.complete


def test_service_without_a_released_version_answers_503_with_the_reason(mesh: Mesh) -> None:
    route = empty(SERVICE)
    mesh.route(route, known=frozenset())
    answer = mesh.ask()
    assert answer.status_code == 503
    assert "no version of this model has been released yet" in answer.text
    assert answer.headers[ROUTE_HEADER] == route.revision
