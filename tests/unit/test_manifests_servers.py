from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.routing import Slot
from slipway.core.service import ServerKind
from slipway.manifests import workload
from slipway.manifests.routes.services import service_object
from slipway.manifests.servers import contract, health_path
from tests.examples import IMAGE, service


@pytest.mark.parametrize("kind", [ServerKind.SIMULATED, ServerKind.LLAMA_CPP])
def test_small_server_listens_on_the_pods_own_address(kind: ServerKind) -> None:
    server = contract(service(kind))

    assert server.command == ()
    assert server.args == (
        *("--host", "$(POD_IP)", "--port", "8000"),
        *("--model-dir", "/model", "--model-name", "chat-model"),
        *("--extra", "1"),
    )
    assert server.ports == (("http", 8000),)


def test_vllm_serves_the_model_folder_under_the_models_name() -> None:
    args = contract(service(ServerKind.VLLM)).args

    assert args[:4] == ("--model", "/model", "--served-model-name", "chat-model")
    assert args[-2:] == ("--extra", "1")


def test_vllm_writes_only_to_its_scratch_folder() -> None:
    environment = dict(contract(service(ServerKind.VLLM)).environment)

    assert environment["HOME"] == "/tmp"
    assert environment["VLLM_CACHE_ROOT"].startswith("/tmp/")


def test_triton_has_its_own_ports_paths_and_user() -> None:
    server = contract(service(ServerKind.TRITON))

    assert server.command == ("tritonserver",)
    assert "--model-repository=/model" in server.args
    assert "--exit-timeout-secs=120" in server.args
    assert dict(server.ports) == {"http": 8000, "metrics": 8002}
    assert server.live_path == "/v2/health/live"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (ServerKind.SIMULATED, "/health"),
        (ServerKind.LLAMA_CPP, "/health"),
        (ServerKind.VLLM, "/health"),
        (ServerKind.TRITON, "/v2/health/ready"),
    ],
)
def test_health_path_is_the_one_of_the_server(kind: ServerKind, path: str) -> None:
    assert health_path(kind) == path


def test_command_replaces_the_entry_point_only_where_a_server_needs_it() -> None:
    containers = {
        kind: workload.slot_deployment(
            service(kind), slot=Slot.BLUE, workload="chat-blue", image=IMAGE, release_id="r"
        )["spec"]["template"]["spec"]["containers"][0]
        for kind in ServerKind
    }

    assert containers[ServerKind.TRITON]["command"] == ["tritonserver"]
    assert all("command" not in containers[kind] for kind in ServerKind if kind != "triton")


@pytest.mark.parametrize("kind", list(ServerKind))
def test_server_listens_on_the_port_that_its_service_file_names(kind: ServerKind) -> None:
    spec = service(kind)
    spec = replace(spec, server=replace(spec.server, port=9000))

    server = contract(spec)

    assert dict(server.ports)["http"] == 9000
    assert [word for word in server.args if "9000" in word]
    assert service_object(spec)["spec"]["ports"][0]["targetPort"] == 9000
