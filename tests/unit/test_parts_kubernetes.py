from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from slipway.core.errors import InputError, PermanentError
from slipway.sandbox import cluster, pki
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import HttpReady, Part
from slipway.sandbox.parts import istiod, kubernetes, node
from tests.unit.sandbox_homes import home_without_sockets

BINARY = Path("/opt/controlplane")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxHome]:
    with home_without_sockets(monkeypatch) as made:
        made.remember_slices({"node-a": 7, "node-b": 9})
        yield made


def all_parts(home: SandboxHome) -> dict[str, Part]:
    found = (*kubernetes.parts(home, BINARY), *istiod.parts(home, BINARY))
    return {part.name: part for part in found}


def fake_binary(folder: Path, script: str) -> Path:
    binary = folder / "fake"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    return binary


def test_parts_have_the_agreed_names(home: SandboxHome) -> None:
    assert set(all_parts(home)) == {
        "etcd",
        "apiserver",
        "controller-manager",
        "scheduler",
        "registry",
        "kubelet-node-a",
        "kubelet-node-b",
        "istiod",
    }


def test_second_call_gives_the_same_parts(home: SandboxHome) -> None:
    assert all_parts(home) == all_parts(home)


def test_every_part_listens_and_is_asked_on_loopback_only(home: SandboxHome) -> None:
    for part in all_parts(home).values():
        text = " ".join(part.command)
        assert "0.0.0.0" not in text
        assert isinstance(part.ready, HttpReady)
        assert part.ready.url.split("//")[1].startswith("127.0.0.1:")


def test_no_secret_stands_on_a_command_line(home: SandboxHome) -> None:
    parts = all_parts(home)
    home.secret("token-slipway-admin")
    secrets = [path.read_text() for path in home.secrets.iterdir()]

    for part in parts.values():
        assert not [secret for secret in secrets if secret in " ".join(part.command)]


def test_etcd_keeps_what_was_written_when_killed(home: SandboxHome) -> None:
    assert "--unsafe-no-fsync" not in " ".join(all_parts(home)["etcd"].command)


def test_etcd_starts_first_and_stops_after_the_apiserver(home: SandboxHome) -> None:
    parts = all_parts(home)

    assert parts["apiserver"].after == ("etcd",)
    assert parts["etcd"].stop_after == ("apiserver",)


def test_kubelet_waits_for_its_own_runtime(home: SandboxHome) -> None:
    for one in kubernetes.NODES:
        part = all_parts(home)[f"kubelet-{one.name}"]
        assert part.after == ("apiserver", f"cri-{one.name}")
        assert f"--zone={one.zone}" in part.command
        assert f"--cri={home.run / f'cri-{one.name}.sock'}" in part.command


def test_kubelet_listens_in_the_slice_of_its_node_and_the_api_shows_it(home: SandboxHome) -> None:
    command = all_parts(home)["kubelet-node-b"].command
    assert "--address=127.100.9.1" in command
    assert "--node-address=100.100.9.1" in command


def test_runtime_gives_out_addresses_of_the_slice_of_its_node(home: SandboxHome) -> None:
    parts = {part.name: part.command for part in node.parts(home)}
    assert "127.100.7.0/24" in parts["cri-node-a"]
    assert "127.100.9.0/24" in parts["cri-node-b"]


def test_certificate_of_a_kubelet_is_made_anew_when_its_addresses_change(
    home: SandboxHome, tmp_path: Path
) -> None:
    make = 'test -e "$3/$name.crt" || date +%N > "$3/$name.crt"'
    binary = fake_binary(tmp_path, f"for name in kubelet-node-a kubelet-node-b; do {make}; done")
    pki.prepare(home, binary)
    before = {name: (home.pki / f"kubelet-{name}.crt").read_text() for name in ("node-a", "node-b")}
    home.remember_slices({"node-a": 7, "node-b": 11})
    pki.prepare(home, binary)
    after = {name: (home.pki / f"kubelet-{name}.crt").read_text() for name in ("node-a", "node-b")}
    assert after["node-a"] == before["node-a"]
    assert after["node-b"] != before["node-b"]


def test_prepare_writes_configuration_and_keys(home: SandboxHome, tmp_path: Path) -> None:
    binary = fake_binary(tmp_path, 'echo "$@" > "$3/arguments"')

    kubernetes.prepare(home, binary)

    egress = yaml.safe_load((home.config("apiserver") / "egress.yaml").read_text())
    connection = egress["egressSelections"][0]["connection"]
    assert connection["transport"]["uds"]["udsName"] == str(home.run / "egress.sock")
    registry = yaml.safe_load((home.config("registry") / "config.yaml").read_text())
    assert registry["http"]["addr"] == f"127.0.0.1:{home.port('registry-inner')}"
    assert "--serving kubelet-node-a=" in (home.pki / "arguments").read_text()


def test_kubeconfigs_are_private_and_complete(home: SandboxHome, tmp_path: Path) -> None:
    pki.prepare(home, fake_binary(tmp_path, ""))

    for user in pki.users():
        path = pki.kubeconfig_path(home, user)
        assert path.stat().st_mode & 0o777 == 0o600
        content = yaml.safe_load(path.read_text())
        cluster_entry = content["clusters"][0]["cluster"]
        door = "apiserver" if user is pki.ADMINISTRATOR else "apiserver-inner"
        assert cluster_entry["server"] == f"https://127.0.0.1:{home.port(door)}"
        authority = base64.b64decode(cluster_entry["certificate-authority-data"])
        assert authority == b"authority"
        assert content["users"][0]["user"]["token"] in pki.tokens_path(home).read_text()


def test_tokens_file_gives_kubelets_their_group(home: SandboxHome, tmp_path: Path) -> None:
    pki.prepare(home, fake_binary(tmp_path, ""))

    lines = pki.tokens_path(home).read_text().splitlines()
    rows = {line.split(",", 3)[1]: line.split(",", 3)[3] for line in lines}
    assert rows["system:node:node-a"] == '"system:nodes"'
    assert rows["slipway-admin"] == '"system:masters"'
    assert len({line.split(",")[0] for line in lines}) == len(pki.users())


def test_prepare_twice_changes_nothing(home: SandboxHome, tmp_path: Path) -> None:
    binary = fake_binary(tmp_path, "")
    kubernetes.prepare(home, binary)
    istiod.prepare(home, {})
    before = {path: path.stat().st_mtime_ns for path in home.root.rglob("*") if path.is_file()}

    kubernetes.prepare(home, binary)
    istiod.prepare(home, {})

    after = {path: path.stat().st_mtime_ns for path in home.root.rglob("*") if path.is_file()}
    assert after == before


def test_failed_key_maker_is_reported(home: SandboxHome, tmp_path: Path) -> None:
    binary = fake_binary(tmp_path, "echo ca.key holds no PEM key >&2; exit 1")

    with pytest.raises(PermanentError, match=r"ca\.key holds no PEM key"):
        pki.prepare(home, binary)


def test_missing_key_maker_is_reported(home: SandboxHome, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="could not be written"):
        pki.prepare(home, tmp_path / "nothing")


def test_folder_too_long_for_the_kubelets_socket_is_refused(tmp_path: Path) -> None:
    home = SandboxHome(tmp_path / ("x" * 60))

    with pytest.raises(InputError, match="too long for a kubelet's socket"):
        kubernetes.prepare(home, BINARY)


def test_mesh_takes_the_access_log_fields(home: SandboxHome) -> None:
    istiod.prepare(home, {"accessLogFile": "/logs/access.log"})

    mesh = yaml.safe_load(istiod.mesh_file(home).read_text())
    assert mesh["accessLogFile"] == "/logs/access.log"
    assert mesh["enableAutoMtls"] is False


def test_changed_mesh_field_is_written(home: SandboxHome) -> None:
    istiod.prepare(home, {"accessLogFile": "/old"})
    istiod.prepare(home, {"accessLogFile": "/new"})

    assert yaml.safe_load(istiod.mesh_file(home).read_text())["accessLogFile"] == "/new"


def test_serving_namespace_is_restricted() -> None:
    found = {item["metadata"]["name"]: item for item in cluster.base_objects()}

    labels = found[cluster.SERVING_NAMESPACE]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert found["istio-system"]["metadata"]["labels"] == {}
