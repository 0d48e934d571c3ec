"""Which context of a kubeconfig is used, however it is said."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from blocks import installation
from blocks.installation import Installation
from slipway import cli
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.bootstrap import releases as bootstrap
from slipway.cli import context
from slipway.cli.context import hoisted
from slipway.core.errors import InputError
from slipway.settings import CONTEXT_VARIABLE, from_environment

LEAST = {
    "SLIPWAY_REGISTRY": "127.0.0.1:5000",
    "SLIPWAY_GATEWAY_URL": "http://127.0.0.1:8080/",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
}


def kubeconfig(folder: Path, current: str | None = "admin") -> str:
    """Write one with the contexts `admin` and `release`, of two clusters."""
    names = ("admin", "release")
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": n, "cluster": {"server": f"http://127.0.0.1/{n}"}} for n in names],
        "users": [{"name": n, "user": {"token": n}} for n in names],
        "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in names],
    }
    if current is not None:
        content["current-context"] = current
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def server_of(api: KubernetesApi) -> str:
    return str(api._client.configuration.host)


@pytest.mark.parametrize(("name", "server"), [(None, "admin"), ("release", "release")])
def test_context_decides_which_cluster_is_asked(
    tmp_path: Path, name: str | None, server: str
) -> None:
    api = KubernetesApi(kubeconfig(tmp_path), context=name)
    assert server_of(api) == f"http://127.0.0.1/{server}"


def test_context_that_is_named_needs_no_current_one(tmp_path: Path) -> None:
    api = KubernetesApi(kubeconfig(tmp_path, current=None), context="release")
    assert server_of(api) == "http://127.0.0.1/release"


def test_unknown_context_is_refused_with_the_names_of_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        KubernetesApi(kubeconfig(tmp_path), context="production")
    assert caught.value.code == "context-unknown"
    assert "'production'" in caught.value.message
    assert "admin, release" in caught.value.hint


@pytest.mark.parametrize("context", [None, "admin"])
@pytest.mark.parametrize(
    "text", [b"", b"- a\n", b"a: [", b"\xff\xfe", b"contexts: 3\n", b"text", b"contexts: [3]\n"]
)
def test_kubeconfig_that_is_none_is_refused_by_its_name(
    tmp_path: Path, text: bytes, context: str | None
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        KubernetesApi(str(path), context=context)
    assert caught.value.code == "kubeconfig-missing"
    assert str(path) in caught.value.message


@pytest.mark.parametrize("context", [None, "admin"])
def test_kubeconfig_that_cannot_be_read_is_refused(tmp_path: Path, context: str | None) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError) as caught:
            KubernetesApi(str(path), context=context)
        assert caught.value.code == "kubeconfig-missing"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["status", "chat"], ["status", "chat"]),
        (["--context", "a", "status", "chat"], ["--context", "a", "status", "chat"]),
        (["status", "chat", "--context", "a"], ["--context", "a", "status", "chat"]),
        (["status", "--context=a", "chat"], ["--context=a", "status", "chat"]),
        (["service", "check", "--context", "a"], ["--context", "a", "service", "check"]),
        (["status", "--context"], ["--context", "status"]),
        (["status", "--", "--context", "a"], ["status", "--", "--context", "a"]),
        (["status", "--context", "--", "a"], ["--context", "status", "--", "a"]),
    ],
)
def test_context_may_stand_anywhere_on_the_command_line(typed: list[str], meant: list[str]) -> None:
    assert hoisted(typed) == meant


@pytest.mark.parametrize(
    "words", [["--context", "release", "probe"], ["probe", "--context=release"]]
)
def test_command_runs_with_the_context_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    seen: list[str | None] = []
    real = cli.application

    def with_probe(command: str) -> Any:
        app = real(command)
        app.command("probe")(lambda: seen.append(os.environ.get(CONTEXT_VARIABLE)))
        return app

    monkeypatch.setattr(cli, "application", with_probe)
    monkeypatch.setenv(CONTEXT_VARIABLE, "of-the-environment")
    monkeypatch.setattr(sys, "argv", ["slipway", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, seen) == (0, ["release"])


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["backup", "list"], "backup"),
        (["--context", "backup", "sandbox", "up"], "sandbox"),
        (["--context=a", "status"], "status"),
        (["--help"], ""),
        ([], ""),
    ],
)
def test_command_is_found_behind_its_options(words: list[str], command: str) -> None:
    assert context.command_of(words) == command


def test_group_of_commands_is_loaded_without_the_others() -> None:
    alone = cli.application("backup")
    assert [group.name for group in alone.registered_groups] == ["backup"]
    assert alone.registered_commands == []
    whole = cli.application("no-such-command")
    assert {group.name for group in whole.registered_groups} >= {"sandbox", "backup", "model"}
    assert whole.registered_commands


def test_command_without_the_option_leaves_the_context_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CONTEXT_VARIABLE, "of-the-environment")
    context.choose(None)
    assert from_environment({**os.environ, **LEAST}).context == "of-the-environment"


def test_settings_without_a_context_name_none() -> None:
    assert from_environment(LEAST).context is None
    assert from_environment({**LEAST, CONTEXT_VARIABLE: ""}).context is None


def test_connection_of_an_installation_uses_the_context_of_its_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = from_environment(
        {**LEAST, "KUBECONFIG": kubeconfig(tmp_path), CONTEXT_VARIABLE: "production"}
    )
    monkeypatch.setattr(bootstrap, "load_services", lambda _: {})
    with pytest.raises(InputError, match="'production'"):
        bootstrap.install_services(settings)


@pytest.mark.parametrize(
    ("environment", "field", "used"),
    [("", "release", "release"), ("typed", "release", "typed"), ("typed", "", "typed")],
)
def test_context_of_the_block_counts_only_where_nobody_said_one(
    monkeypatch: pytest.MonkeyPatch, environment: str, field: str, used: str
) -> None:
    block = Installation(context=field, registry="r", gateway_url="http://g", mlflow_url="http://m")
    monkeypatch.setattr(Installation, "load", lambda _: block)
    monkeypatch.setattr(os, "environ", {"SLIPWAY_INSTALLATION": "x", CONTEXT_VARIABLE: environment})
    assert installation.current_settings().context == used
