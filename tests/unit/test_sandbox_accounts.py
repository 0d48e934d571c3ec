"""As whom things run in a sandbox: its kubeconfig, its flows, its watcher, its audit log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.adapters.decorators import RetryingKubernetesApi
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.cli import watch
from slipway.core.errors import InputError
from slipway.sandbox import accounts, pki
from slipway.sandbox.environment import client_environment, flow_environment, watcher_environment
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.parts import kubernetes
from slipway.settings import CONTEXT_VARIABLE, Settings, from_environment
from tests.unit.sandbox_homes import home_without_sockets


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxHome]:
    with home_without_sockets(monkeypatch) as made:
        yield made


def contexts(home: SandboxHome) -> dict[str, str]:
    """Return the token of each context of the administrator's kubeconfig."""
    content = yaml.safe_load(pki.kubeconfig(home, pki.ADMINISTRATOR))
    tokens = {item["name"]: item["user"]["token"] for item in content["users"]}
    assert content["current-context"] == "slipway"
    return {item["name"]: tokens[item["context"]["user"]] for item in content["contexts"]}


def made_by(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Have the API server make tokens; returns for which accounts it was asked."""
    asked: list[str] = []

    def call(_api: Any, method: str, path: str, *, body: Any) -> dict[str, Any]:
        assert (method, body["kind"]) == ("POST", "TokenRequest")
        name = path.removeprefix("/api/v1/namespaces/serving/serviceaccounts/")
        asked.append(name.removesuffix("/token"))
        return {"status": {"token": f"{asked[-1]}-{number}"}}

    monkeypatch.setattr(RetryingKubernetesApi, "call", call)
    monkeypatch.setattr(KubernetesApi, "__init__", lambda *_, **__: None)
    return asked


def test_kubeconfig_gets_a_context_of_each_account_and_stays_the_administrators(
    home: SandboxHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(contexts(home)) == {"slipway"}  # before the first start
    asked = made_by(monkeypatch, 1)
    accounts.set_up(home)
    assert asked == ["slipway-release", "slipway-watch", "slipway-backup"]
    found = contexts(home)
    assert found.pop("slipway") in {file.read_text() for file in home.secrets.iterdir()}
    assert found == {name: f"{name}-1" for name in asked}
    assert home.kubeconfig.read_text() == pki.kubeconfig(home, pki.ADMINISTRATOR)


def test_tokens_outlive_a_restart_and_each_start_makes_new_ones(
    home: SandboxHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by(monkeypatch, 1)
    accounts.set_up(home)
    # A start writes the kubeconfig before the API server runs.
    pki.write_private(home.kubeconfig, pki.kubeconfig(home, pki.ADMINISTRATOR))
    assert contexts(home)["slipway-watch"] == "slipway-watch-1"
    made_by(monkeypatch, 2)
    accounts.set_up(home)
    assert contexts(home)["slipway-watch"] == "slipway-watch-2"
    assert pki.account_token(home, "slipway-watch").stat().st_mode & 0o777 == 0o600


def test_parts_of_the_sandbox_have_no_context_of_another(home: SandboxHome) -> None:
    pki.write_private(pki.account_token(home, "slipway-release"), "token")
    content = yaml.safe_load(pki.kubeconfig(home, pki.ISTIOD))
    assert [item["name"] for item in content["contexts"]] == ["slipway"]


def test_flows_and_watcher_run_as_their_accounts_and_a_shell_as_the_administrator(
    home: SandboxHome,
) -> None:
    environments = (client_environment(home), flow_environment(home), watcher_environment(home))
    assert [item[CONTEXT_VARIABLE] for item in environments] == [
        "slipway",
        "slipway-release",
        "slipway-watch",
    ]


def test_api_server_keeps_an_audit_log_of_limited_size(home: SandboxHome) -> None:
    home.remember_slices({"node-a": 7, "node-b": 9})
    parts = kubernetes.parts(home, Path("/opt/controlplane"))
    (server,) = (part for part in parts if part.name == "apiserver")
    flags = dict(word.partition("=")[::2] for word in server.command[2:])
    assert flags["--audit-log-path"] == str(home.logs / "audit.log")
    assert flags["--audit-policy-file"] == str(home.config("apiserver") / "audit.yaml")
    assert int(flags["--audit-log-maxsize"]) * (1 + int(flags["--audit-log-maxbackup"])) <= 200


# -- the watcher, before the kubeconfig is there --------------------------------------------------


def settings(services: Path) -> Settings:
    return from_environment(
        {
            "SLIPWAY_SERVICES": str(services),
            "SLIPWAY_REGISTRY": "127.0.0.1:5000",
            "SLIPWAY_GATEWAY_URL": "http://127.0.0.1:8080",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
        }
    )


def test_watcher_that_cannot_connect_yet_says_so_and_keeps_what_it_watches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*_: Any) -> None:
        raise InputError("the kubeconfig has no context 'slipway-watch'", code="x", hint="")

    told: list[str] = []
    monkeypatch.setattr("slipway.adapters.service_file.load_services", lambda _: {"chat": None})
    monkeypatch.setattr("slipway.bootstrap.releases.connect", refused)
    assert watch._services(settings(tmp_path), {}, told.append) is None
    assert told == ["the kubeconfig has no context 'slipway-watch'"]

    connected: Any = object()
    monkeypatch.setattr("slipway.bootstrap.releases.connect", lambda *_: connected)
    assert watch._services(settings(tmp_path), {}, told.append) == {"chat": connected}
