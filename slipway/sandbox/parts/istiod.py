"""The mesh's control plane: istiod, programming a stock Envoy.

A stock Envoy lacks Istio's own filters, so istiod is told not to send them; it needs no
certificates of istiod's authority, because everything stays on loopback.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from slipway.sandbox import pki
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import HttpReady, Part

_LOCAL = "127.0.0.1"
ROOT_NAMESPACE = "istio-system"
CLUSTER_ID = "slipway"
DEBOUNCE_VARIABLE = "SLIPWAY_ISTIO_DEBOUNCE"


def prepare(home: SandboxHome, access_log: Mapping[str, object]) -> None:
    """Write the mesh configuration; istiod takes a change up while it runs.

    Args:
        home: the sandbox, its folders created.
        access_log: fields of Istio's MeshConfig that say where and how requests are logged
            (`slipway.manifests.access_log.mesh_fields`).
    """
    pki.write_private(mesh_file(home), yaml.safe_dump(mesh(access_log), sort_keys=False))


def mesh(access_log: Mapping[str, object]) -> dict[str, object]:
    """Return the sandbox's MeshConfig.

    Source: istio.io/latest/docs/reference/config/istio.mesh.v1alpha1.
    """
    return {
        # With mutual TLS an Envoy waits for a certificate service before it asks for listeners.
        "enableAutoMtls": False,
        "rootNamespace": ROOT_NAMESPACE,
        "defaultProviders": {},
        **access_log,
    }


def mesh_file(home: SandboxHome) -> Path:
    """Return where the mesh configuration stands."""
    return home.config("istiod") / "mesh.yaml"


def parts(home: SandboxHome, binary: Path) -> tuple[Part, ...]:
    """Return istiod; Envoys ask it on the port `istiod-grpc`."""
    http = f"{_LOCAL}:{home.port('istiod-http')}"
    command = (
        str(binary),
        "istiod",
        "discovery",
        f"--kubeconfig={pki.kubeconfig_path(home, pki.ISTIOD)}",
        f"--grpcAddr={_LOCAL}:{home.port('istiod-grpc')}",
        f"--httpAddr={http}",
        f"--monitoringAddr={_LOCAL}:{home.port('istiod-monitoring')}",
        "--httpsAddr=",
        "--secureGRPCAddr=",
        "--registries=Kubernetes",
        f"--meshConfig={mesh_file(home)}",
        f"--namespace={ROOT_NAMESPACE}",
        "--ctrlz_port=0",
        "--profile=false",
        "--log_output_level=all:warn",
    )
    ready = HttpReady(f"http://{http}/ready")
    return (
        Part(
            name="istiod",
            command=command,
            ready=ready,
            environment=_environment(),
            after=("apiserver",),
        ),
    )


def _environment() -> dict[str, str]:
    return {
        "POD_NAME": "istiod",
        "POD_NAMESPACE": ROOT_NAMESPACE,
        "CLUSTER_ID": CLUSTER_ID,
        # Default 100 ms; measured with 10 ms: a changed route takes effect after 21 ms (median).
        "PILOT_DEBOUNCE_AFTER": os.environ.get(DEBOUNCE_VARIABLE, "10ms"),
        "PILOT_ENABLE_METADATA_EXCHANGE": "false",
        "PILOT_ENABLE_ALPN_FILTER": "false",
        "PILOT_ENABLE_TELEMETRY_LABEL": "false",
        "ENABLE_CA_SERVER": "false",
        "PILOT_CERT_PROVIDER": "none",
        "VALIDATION_WEBHOOK_CONFIG_NAME": "",
        "INJECTION_WEBHOOK_CONFIG_NAME": "",
    }
