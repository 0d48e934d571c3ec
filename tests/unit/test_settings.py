"""Settings: read from named variables only, all that is missing said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.settings import from_environment

_LEAST = {
    "SLIPWAY_REGISTRY": "127.0.0.1:5000",
    "SLIPWAY_GATEWAY_URL": "http://127.0.0.1:8080/",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
}


def test_settings_missing_names_every_variable_at_once() -> None:
    with pytest.raises(InputError) as caught:
        from_environment({"SLIPWAY_REGISTRY": ""})
    assert caught.value.code == "settings-missing"
    for name in _LEAST:
        assert name in caught.value.message


@pytest.mark.parametrize("name", sorted(_LEAST))
def test_settings_lacking_one_variable_name_only_that_one(name: str) -> None:
    with pytest.raises(InputError) as caught:
        from_environment({key: value for key, value in _LEAST.items() if key != name})
    assert caught.value.message == f"not configured: {name}"


def test_settings_with_the_least_have_the_documented_defaults() -> None:
    settings = from_environment({**_LEAST, "XDG_CACHE_HOME": "/cache"})
    assert settings.services == Path("deployments/services")
    assert settings.kubeconfig is None
    assert settings.registry_scheme == "https"
    assert settings.gateway_url == "http://127.0.0.1:8080"
    assert settings.gateway_admin_urls == ()
    assert settings.access_log is None
    assert settings.cluster_proxy is None
    assert settings.s3_endpoint is None
    assert settings.evidence_bucket == "slipway-evidence"
    assert settings.cache == Path("/cache/slipway/models")


def test_settings_given_in_full_are_taken_as_they_are() -> None:
    settings = from_environment(
        {
            **_LEAST,
            "SLIPWAY_SERVICES": "/etc/slipway/services",
            "KUBECONFIG": "/etc/kubeconfig",
            "SLIPWAY_REGISTRY_SCHEME": "http",
            "SLIPWAY_GATEWAY_ADMIN_URLS": "http://127.0.0.1:1,,http://127.0.0.1:2",
            "SLIPWAY_ACCESS_LOG": "/var/log/access.log",
            "SLIPWAY_CLUSTER_PROXY": "http://127.0.0.1:3128",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:8333",
            "SLIPWAY_EVIDENCE_BUCKET": "proofs",
            "SLIPWAY_MODEL_CACHE": "/models",
        }
    )
    assert settings.services == Path("/etc/slipway/services")
    assert settings.kubeconfig == "/etc/kubeconfig"
    assert settings.registry_scheme == "http"
    assert settings.gateway_admin_urls == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert settings.access_log == Path("/var/log/access.log")
    assert settings.cluster_proxy == "http://127.0.0.1:3128"
    assert settings.s3_endpoint == "http://127.0.0.1:8333"
    assert settings.evidence_bucket == "proofs"
    assert settings.cache == Path("/models")


def test_settings_without_an_argument_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in _LEAST.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLIPWAY_EVIDENCE_BUCKET", "from-the-environment")
    assert from_environment().evidence_bucket == "from-the-environment"
