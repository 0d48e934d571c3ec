"""Settings: read from named variables only, all that is missing said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.core.service import Router, RouterKind
from slipway.settings import from_environment, require_gateway_evidence

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


def test_images_of_pods_come_from_the_registry_unless_others_are_named() -> None:
    assert from_environment(_LEAST).pod_registries == ("127.0.0.1:5000",)
    named = {"SLIPWAY_POD_REGISTRIES": "registry.example, mirror.example/models,"}
    assert from_environment({**_LEAST, **named}).pod_registries == (
        "registry.example",
        "mirror.example/models",
    )


def test_pods_are_dialled_at_the_addresses_that_the_cluster_shows_unless_told_otherwise() -> None:
    assert from_environment(_LEAST).pod_prefix == ("", "")
    settings = from_environment({**_LEAST, "SLIPWAY_POD_PREFIX": "127.100.=100.100."})
    assert settings.pod_prefix == ("127.100.", "100.100.")


def test_pod_prefix_without_a_sign_between_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        from_environment({**_LEAST, "SLIPWAY_POD_PREFIX": "127.100."})
    assert caught.value.code == "settings-invalid"


@pytest.mark.parametrize(
    ("router", "missing"),
    [
        (Router(), ["SLIPWAY_GATEWAY_ADMIN_URLS", "SLIPWAY_ACCESS_LOG"]),
        (
            Router(kind=RouterKind.GATEWAY_API),
            ["SLIPWAY_GATEWAY_ADMIN_URLS", "SLIPWAY_ACCESS_LOG"],
        ),
        (Router(kind=RouterKind.SERVICE), ["SLIPWAY_ACCESS_LOG"]),
    ],
)
def test_release_without_the_gateways_word_is_refused_by_what_its_router_needs(
    router: Router, missing: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        require_gateway_evidence(from_environment(_LEAST), router)
    assert caught.value.code == "settings-missing"
    assert f"not configured: {', '.join(missing)}" in str(caught.value)


def test_plain_service_without_a_gateway_in_front_needs_no_word_of_one() -> None:
    router = Router(kind=RouterKind.SERVICE, access_log=False)
    require_gateway_evidence(from_environment(_LEAST), router)
