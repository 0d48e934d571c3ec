"""The promises of the Traffic port, kept by each router on the sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from slipway.bootstrap.releases import Ports
from slipway.core.errors import InputError
from slipway.core.routing import (
    ROUTE_HEADER,
    SESSION_HEADER,
    SLOT_HEADER,
    Slot,
    all_to,
    empty,
    split,
)
from slipway.core.service import RouterKind
from slipway.manifests.names import workload_name
from slipway.manifests.workload import slot_deployment
from slipway.ports.traffic import WayIn
from tests.contract.port_suites.traffic import (
    GatewaySuite,
    TrafficSubject,
    TrafficSuite,
    next_fence,
)
from tests.e2e.gateways import doors_shut, gateway_in_front
from tests.e2e.support import Sandbox, World
from tests.fakes.gateway import GatewayAnswer

_MISSING = "never-installed"
_PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def module_world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(sandbox, tmp_path_factory.mktemp("routers"))


@pytest.fixture(scope="module", params=[RouterKind.ISTIO, RouterKind.GATEWAY_API])
def behind_a_gateway(request: pytest.FixtureRequest, module_world: World) -> Iterator[Ports]:
    """The ports of a service with a ready pod in each slot, on a router that divides users."""
    yield from _routed(module_world, request.param)


@pytest.fixture(scope="module")
def plain(module_world: World) -> Iterator[Ports]:
    """The ports of a service that no router divides, with a ready pod in each slot."""
    yield from _routed(module_world, RouterKind.SERVICE)


def _routed(world: World, kind: RouterKind) -> Iterator[Ports]:
    router = {"kind": kind.value} | ({"propagation_s": 1} if kind is RouterKind.SERVICE else {})
    name = world.given_service(f"by-{kind.replace('_', '-')}", replicas=1, router=router)
    ports = world.ports(name)
    for slot in Slot:
        ports.workloads.apply(
            slot_deployment(
                ports.spec,
                slot=slot,
                workload=workload_name(name, slot),
                image=_image(world, ports, slot),
                release_id="r-1",
            )
        )
    _wait(lambda: all(_is_ready(ports, slot) for slot in Slot))
    yield ports
    deleted = world.sandbox.kubectl(
        *("-n", "serving", "delete", "deployment", "-l", f"slipway.dev/service={name}"),
        "--wait=false",
    )
    assert deleted.returncode == 0, deleted.stderr


def _image(world: World, ports: Ports, slot: Slot) -> str:
    """Return an image whose server answers every ping with the slot's name."""
    behaviour = world.folder / f"{slot}.json"
    answers = {"ping": slot.value}
    behaviour.write_text(json.dumps({"ttft_ms": 1, "gap_ms": 1, "answers": answers}))
    base = ports.images.resolve(ports.spec.server.image)
    files: Mapping[str, Path] = {"/model/simulated.json": behaviour}
    return ports.images.append(base, repository="models/routed", files=files, labels={}).reference


def _is_ready(ports: Ports, slot: Slot) -> bool:
    observed = ports.workloads.observe(ports.spec.namespace, workload_name(ports.spec.name, slot))
    return observed is not None and len(observed.ready_pods) == 1


def _wait(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, f"not true within {_PATIENCE_S:.0f} s"
        time.sleep(0.1)


def _subject(ports: Ports) -> TrafficSubject:
    nobody = empty(ports.spec.name)
    ports.traffic.apply(nobody, fence=next_fence())
    ports.traffic.confirm(nobody, timeout_s=30)

    def ask(way: WayIn, headers: Mapping[str, str]) -> GatewayAnswer:
        answer = httpx.post(
            f"{way.url}/v1/chat/completions",
            json={
                "model": ports.spec.model,
                "messages": [{"role": "user", "content": "ping"}],
                "max_tokens": 2,
            },
            headers={**way.headers, **headers},
            proxy=way.proxy,
            timeout=20,
            trust_env=False,
        )
        said = answer.json()["choices"][0]["message"]["content"] if answer.is_success else ""
        if way.names_slot:
            assert answer.headers.get(SLOT_HEADER, "") == said
        return GatewayAnswer(
            status=answer.status_code, slot=said, revision=answer.headers.get(ROUTE_HEADER, "")
        )

    return TrafficSubject(
        traffic=ports.traffic,
        service=ports.spec.name,
        missing_service=_MISSING,
        ask=ask,
        wait=_wait,
        # A rule of the Gateway API without a backend answers so.
        nobody_status=500 if ports.spec.router.kind is RouterKind.GATEWAY_API else 503,
    )


class TestGatewayTraffic(GatewaySuite):
    """Routes through istiod and Envoy: VirtualServices, and HTTPRoutes of the Gateway API."""

    @pytest.fixture
    def subject(self, behind_a_gateway: Ports) -> TrafficSubject:
        return _subject(behind_a_gateway)


class TestDividedUsers:
    """What a few requests show; thousands are asked by tests/e2e/test_splits.py."""

    def test_sessions_of_the_candidate_stay_with_it_while_the_weight_rises(
        self, behind_a_gateway: Ports
    ) -> None:
        subject = _subject(behind_a_gateway)
        assert behind_a_gateway.traffic.split_filter_in_force()
        moved: set[int] = set()
        for weight in (10, 30, 60):
            subject.switch(split(subject.service, stable=Slot.BLUE, candidate_percent=weight))
            now = {
                number
                for number in range(100)
                if subject.ask_as_user({SESSION_HEADER: f"session-{number}"}).slot == "green"
            }
            assert moved <= now
            moved = now
        assert 30 < len(moved) < 90  # 60 of 100, by hash values that never change

    def test_dead_candidate_is_answered_for_and_its_rows_say_so(
        self, behind_a_gateway: Ports, sandbox: Sandbox
    ) -> None:
        subject, traffic = _subject(behind_a_gateway), behind_a_gateway.traffic
        subject.switch(split(subject.service, stable=Slot.BLUE, candidate_percent=50))
        begin = subject.log_position()
        with doors_shut(sandbox, subject.service, Slot.GREEN):
            answers = [
                subject.ask(_straight(behind_a_gateway), {SESSION_HEADER: f"session-{number}"})
                for number in range(40)
            ]
        assert {(answer.status, answer.slot) for answer in answers} == {(200, "blue")}

        def rows() -> list[tuple[str, bool, bool]]:
            found = traffic.access_rows(subject.service, after=begin).rows
            return [(row.slot, row.fell_back, row.failed) for row in found if not row.purpose]

        subject.wait(lambda: len(rows()) == len(answers))
        assert set(rows()) == {("blue", False, False), ("green", True, False)}


def _straight(ports: Ports) -> WayIn:
    """Return the users' way; nobody checks there that the slot named is the one that answered."""
    return replace(ports.traffic.way_in(None), names_slot=False)


class TestPlainServiceTraffic(TrafficSuite):
    """Selectors of plain Services, and what they cannot do."""

    @pytest.fixture
    def subject(self, plain: Ports) -> TrafficSubject:
        return _subject(plain)

    def test_divided_route_is_refused_and_users_stay(self, plain: Ports) -> None:
        subject = _subject(plain)
        kept = all_to(subject.service, Slot.BLUE)
        subject.switch(kept)
        with pytest.raises(InputError) as caught:
            plain.traffic.apply(
                split(subject.service, stable=Slot.BLUE, candidate_percent=5), fence=next_fence()
            )
        assert caught.value.code == "route-unsupported"
        assert plain.traffic.read(subject.service) == kept

    def test_nobody_counts_its_streams_by_slot(self, plain: Ports) -> None:
        assert plain.traffic.open_streams(plain.spec.name, Slot.BLUE) is None

    def test_gateway_in_front_tells_the_slots_apart_by_pod(
        self, plain: Ports, sandbox: Sandbox
    ) -> None:
        name = plain.spec.name
        subject = _subject(plain)
        begin = plain.traffic.access_end(name)
        way = WayIn(
            url=sandbox.gateway_url,
            headers={"Host": plain.spec.hosts[0]},
            proxy=None,
            names_slot=False,
        )

        def seen() -> set[str]:
            rows = plain.traffic.access_rows(name, after=begin).rows
            return {row.slot for row in rows if row.status == 200}

        def answered_by() -> str:
            return subject.ask(way, {}).slot

        with gateway_in_front(sandbox, plain.spec):
            subject.switch(all_to(name, Slot.BLUE, subsets=frozenset(Slot)))
            _wait(lambda: answered_by() == Slot.BLUE)
            subject.switch(all_to(name, Slot.GREEN, subsets=frozenset(Slot)))
            _wait(lambda: answered_by() == Slot.GREEN)
            _wait(lambda: seen() == {"blue", "green"})
