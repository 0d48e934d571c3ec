"""The settings of a sandbox, as environment variables."""

from __future__ import annotations

import sys
from pathlib import Path

from slipway.manifests.names import RELEASE_ACCOUNT, WATCH_ACCOUNT
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.network.addresses import NODE_PREFIX, SHOWN_PREFIX
from slipway.sandbox.parts import gateway, mlflow, prefect, s3
from slipway.sandbox.pki import CONTEXT
from slipway.settings import CONTEXT_VARIABLE

_NO_PROXY = "127.0.0.0/8,127.0.0.1,localhost"


def client_environment(home: SandboxHome) -> dict[str, str]:
    """Return what a process outside the cluster needs: settings, kubectl, every client."""
    admin = f"http://127.0.0.1:{home.port('gateway-admin')}"
    return {
        **s3.environment(home),
        **mlflow.environment(home),
        **prefect.environment(home),
        "PATH": str(Path(sys.executable).parent),
        "KUBECONFIG": str(home.kubeconfig),
        # Said, for the context of the caller's own cluster must not be looked for in this file.
        CONTEXT_VARIABLE: CONTEXT,
        "SLIPWAY_HOME": str(home.root),
        "SLIPWAY_REGISTRY": f"127.0.0.1:{home.port('registry')}",
        "SLIPWAY_REGISTRY_SCHEME": "http",
        "SLIPWAY_GATEWAY_URL": gateway.url(home),
        "SLIPWAY_GATEWAY_ADMIN_URLS": admin,
        "SLIPWAY_ACCESS_LOG": str(gateway.access_log(home)),
        "SLIPWAY_CLUSTER_PROXY": f"http://127.0.0.1:{home.port('egress')}",
        "SLIPWAY_POD_PREFIX": f"{NODE_PREFIX}={SHOWN_PREFIX}",
        "SLIPWAY_BACKUP_REPOSITORY": s3.BACKUP_REPOSITORY,
        "SLIPWAY_SERVICES": str(services_folder()),
        "NO_PROXY": _NO_PROXY,
        "no_proxy": _NO_PROXY,
    }


def flow_environment(home: SandboxHome) -> dict[str, str]:
    """Return what a flow run on the sandbox's worker needs.

    Whoever runs flows in a cluster of their own gives the same names to their work pool.
    """
    return {
        **client_environment(home),
        CONTEXT_VARIABLE: RELEASE_ACCOUNT,
        "PYTHONPATH": str(project_folder()),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    }


def watcher_environment(home: SandboxHome) -> dict[str, str]:
    """Return what the sandbox's watcher needs: as a flow run, by an account that may do less."""
    return {**flow_environment(home), CONTEXT_VARIABLE: WATCH_ACCOUNT}


def project_folder() -> Path:
    """Return the checkout that this package belongs to."""
    return Path(__file__).resolve().parents[2]


def services_folder() -> Path:
    """Return the folder of the project's own service files."""
    return project_folder() / "deployments" / "services"
