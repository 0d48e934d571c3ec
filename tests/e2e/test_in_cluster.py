"""Slipway as a pod of the cluster sees it: a mounted token, no kubeconfig."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes.config import incluster_config

from slipway.adapters.kubernetes_api import KubernetesApi, object_path
from slipway.bootstrap.releases import connect
from slipway.core.errors import PermanentError
from slipway.manifests.rights import release_rights
from tests.e2e.support import Sandbox, World, said


@pytest.fixture
def pod(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this process look like a pod's; returns the file of its token."""
    found = yaml.safe_load(sandbox.home.kubeconfig.read_text())
    server = urlsplit(found["clusters"][0]["cluster"]["server"])
    (tmp_path / "home").mkdir()
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    authority.write_text((sandbox.home.pki / "ca.crt").read_text())
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    return token


def token_of(sandbox: Sandbox, account: str) -> str:
    made = sandbox.kubectl("-n", "serving", "create", "token", account, "--duration=10m")
    assert made.returncode == 0, said(made)
    return made.stdout.strip()


def test_release_account_has_all_that_a_release_needs_by_its_mounted_token(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory, pod: Path
) -> None:
    world = World(sandbox, tmp_path_factory.mktemp("in-cluster"))
    service = world.given_service("in-cluster")
    pod.write_text(token_of(sandbox, "slipway-release"))
    ports = connect(service, replace(world.settings, kubeconfig=None, context=None))

    assert ports.preflight.missing_rights(release_rights(ports.spec)) == ()
    assert ports.releases.lock(service).holder == ""


def _two_minutes_on() -> SimpleNamespace:
    """Return the module `datetime` as it will be then: a mounted token is trusted for one."""
    # The client compares moments without a zone.
    then = datetime.fromtimestamp(time.time() + 120, tz=UTC).astimezone().replace(tzinfo=None)
    return SimpleNamespace(datetime=SimpleNamespace(now=lambda: then), timedelta=timedelta)


def test_token_that_the_kubelet_renews_is_read_again(
    sandbox: Sandbox, pod: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.write_text(token_of(sandbox, "slipway-release"))
    api, path = KubernetesApi(), object_path("Pod", "serving")
    assert api.get(path) is not None

    # Another account's, which may not: so it shows which one is used.
    pod.write_text(token_of(sandbox, "slipway-model"))
    monkeypatch.setattr(incluster_config, "datetime", _two_minutes_on())
    with pytest.raises(PermanentError, match="slipway-model"):
        api.get(path)


def test_process_without_any_configuration_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(Exception, match="set KUBECONFIG"):
        KubernetesApi()
