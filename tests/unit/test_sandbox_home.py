"""Where a sandbox keeps things: its name, its folder, its ports, its slices."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.sandbox import home as module
from slipway.sandbox.home import SandboxHome


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SLIPWAY_HOME", "SLIPWAY_SANDBOX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    # Unit tests open no sockets: every port is free.
    monkeypatch.setattr(module, "is_port_free", lambda _port: True)
    return tmp_path


def started(home: SandboxHome) -> SandboxHome:
    home.create()
    home.port("apiserver")
    return home


def test_sandbox_without_a_name_keeps_the_folder_it_always_had(state: Path) -> None:
    assert SandboxHome.default().root == state / "slipway"
    assert SandboxHome.default().name == "default"
    assert SandboxHome.default("default") == SandboxHome.default()


def test_named_sandbox_has_a_folder_of_its_own(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = SandboxHome.default("second")
    assert (home.root, home.name) == (state / "slipway-second", "second")
    assert home.option() == " --name second"
    monkeypatch.setenv("SLIPWAY_SANDBOX", "second")
    assert SandboxHome.default() == home
    assert SandboxHome.default("third").name == "third"


@pytest.mark.parametrize("name", ["Second", "a_b", "-a", "a-", "../x", "x" * 21, "a b", "ä"])
def test_name_that_is_no_label_is_refused(state: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        SandboxHome.default(name)
    assert caught.value.code == "sandbox-name-invalid"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_name_beside_another_folder_is_refused(
    state: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(state / "elsewhere"))
    assert SandboxHome.default().root == state / "elsewhere"
    assert SandboxHome.default().option() == ""
    if by == "variable":
        monkeypatch.setenv("SLIPWAY_SANDBOX", "second")
    with pytest.raises(InputError, match="SLIPWAY_HOME") as caught:
        SandboxHome.default("second" if by == "option" else None)
    assert caught.value.code == "sandbox-ambiguous"


def test_name_in_a_shell_with_its_own_settings_is_accepted(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(state / "slipway-second"))
    assert SandboxHome.default("second").root == state / "slipway-second"
    assert SandboxHome.default().option() == " --name second"


def test_port_that_cannot_be_used_is_given_up_for_another(state: Path) -> None:
    home = started(SandboxHome.default())
    first = home.port("s3-grpc")
    assert home.port("s3-grpc", usable=lambda port: port == first) == first
    second = home.port("s3-grpc", usable=lambda port: port != first)
    assert second != first
    assert home.port("s3-grpc") == second


def test_folder_outside_of_the_state_folder_has_no_name(state: Path) -> None:
    assert SandboxHome(state / "deeper" / "slipway").name == ""
    assert SandboxHome(state / "slipway-Not a name").name == ""
    assert SandboxHome(state / "slipway-default").name == ""


def test_list_holds_what_was_started_and_nothing_else(state: Path) -> None:
    homes = [started(SandboxHome.named(name)) for name in ("default", "a", "b")]
    (state / "slipway-notes").mkdir()
    assert set(SandboxHome.all_of_user()) == set(homes)


def test_ports_lie_below_those_of_outgoing_connections_and_differ(state: Path) -> None:
    home = started(SandboxHome.named("a"))
    ports = [home.port(f"p{number}") for number in range(50)]
    assert len(set(ports)) == 50
    assert all(20_000 <= port < 32_000 for port in ports)
    assert home.port("p0") == ports[0]


def test_ports_of_another_sandbox_of_the_user_are_left_alone(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_first_port", lambda _root: 31_999)  # the last one, then round
    one, other = started(SandboxHome.named("a")), started(SandboxHome.named("b"))
    assert (one.port("apiserver"), other.port("apiserver")) == (31_999, 20_000)


def test_reset_sandbox_gets_its_ports_again(state: Path) -> None:
    home = started(SandboxHome.named("a"))
    before = home.port("apiserver")
    home.forget_ports()
    assert home.port("apiserver") == before


def test_sandbox_never_started_has_no_slices(state: Path) -> None:
    home = started(SandboxHome.named("a"))
    assert home.remembered_slice("node-a") is None
    with pytest.raises(InputError, match="never started"):
        home.slice_of("node-a")
    home.remember_slices({"node-a": 7})
    assert home.slice_of("node-a") == 7
