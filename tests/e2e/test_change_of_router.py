"""A service with users moves from Istio's own objects to the Gateway API, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.bootstrap.releases import install_services
from slipway.core.routing import all_to
from slipway.core.service import RouterKind
from tests.e2e.support import Sandbox, World, harmed, said, users

_OBJECTS = {
    RouterKind.ISTIO: ("virtualservice", "destinationrule"),
    RouterKind.GATEWAY_API: ("httproute",),
}


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


def test_service_changes_its_router_there_and_back_and_no_user_fails(world: World) -> None:
    service = world.given_service("mover", router={"kind": "istio"}, policy__bake_s=1)
    first = world.release(service, world.given_version(service))
    assert first.returncode == 0, said(first)
    with users(world, service, rate=20, long_streams=2) as crowd:
        for kind, former in (
            (RouterKind.GATEWAY_API, RouterKind.ISTIO),
            (RouterKind.ISTIO, RouterKind.GATEWAY_API),
        ):
            _change_router(world, service, kind)
            live = world.record(service).live_slot
            assert live is not None
            route = all_to(service, live)
            traffic = world.ports(service).traffic
            assert traffic.read(service) == route
            version = world.given_version(service)
            early = world.release(service, version)
            assert early.returncode == 6, said(early)
            assert "by another router" in said(early)
            _delete(world, service, former)
            traffic.confirm(route, timeout_s=30)
            done = world.release(service, version)
            assert done.returncode == 0, said(done)
        ledger = crowd.stop()
    assert harmed(ledger) == {}
    assert {row["slot"] for row in ledger} == {"blue", "green"}


def test_route_that_somebody_deleted_is_made_again_with_its_users(world: World) -> None:
    service = world.given_service("restored", policy__bake_s=1)
    first = world.release(service, world.given_version(service))
    assert first.returncode == 0, said(first)
    _delete(world, service, RouterKind.ISTIO)
    install_services(world.settings, service)
    ports, live = world.ports(service), world.record(service).live_slot
    assert live is not None
    ports.traffic.confirm(all_to(service, live), timeout_s=30)
    assert world.ask(service).status_code == 200


def _change_router(world: World, service: str, kind: RouterKind) -> None:
    file = world.services / f"{service}.yaml"
    data: dict[str, Any] = yaml.safe_load(file.read_text())
    data["router"] = {"kind": kind.value}
    file.write_text(yaml.safe_dump(data))
    install_services(world.settings, service)


def _delete(world: World, service: str, kind: RouterKind) -> None:
    for name in _OBJECTS[kind]:
        deleted = world.sandbox.kubectl("-n", "serving", "delete", name, service)
        assert deleted.returncode == 0, deleted.stderr
