"""Starting the sandbox with all that a release needs: services installed, flows deployed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from slipway.adapters.decorators import RetryingKubernetesApi
from slipway.adapters.kubernetes_api import INSTALL_MANAGER
from slipway.bootstrap.releases import install_services
from slipway.core.errors import PermanentError
from slipway.sandbox import accounts, lifecycle
from slipway.sandbox.environment import client_environment, project_folder
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.lifecycle_steps import Step
from slipway.sandbox.pki import CONTEXT
from slipway.settings import from_environment


def start(home: SandboxHome, progress: Callable[[str], None]) -> None:
    """Bring the sandbox up, then make this process one that talks to it."""
    lifecycle.INSTALLS[:] = [_steps]
    lifecycle.up(home, progress)
    adopt_environment(home)


def adopt_environment(home: SandboxHome) -> None:
    """Give this process the settings of the sandbox; what the caller set stays."""
    for name, value in client_environment(home).items():
        if name.lower() == "no_proxy":
            os.environ[name] = _extended(os.environ.get(name, ""), value)
        elif name != "PATH":
            os.environ.setdefault(name, value)


def _extended(no_proxy: str, further: str) -> str:
    """Add loopback to the caller's exceptions: their proxy cannot reach this machine's sandbox."""
    if no_proxy.strip() == "*":  # no proxy at all; understood only when it stands alone
        return no_proxy
    return f"{no_proxy},{further}" if no_proxy else further


def _steps(home: SandboxHome) -> tuple[Step, ...]:
    return (
        Step("services", lambda: _install(home), needs=("cluster",)),
        Step("accounts", lambda: accounts.set_up(home), needs=("services",)),
        Step("deployments", lambda: _deploy(home), needs=("flows",)),
    )


def _install(home: SandboxHome) -> None:
    install_services(from_environment({**os.environ, **client_environment(home)}))
    # An option in a cluster; here nobody else's pods are to be hidden from releases.
    option = project_folder() / "deployments" / "kubernetes" / "preflight-pods.yaml"
    api = RetryingKubernetesApi(str(home.kubeconfig), context=CONTEXT)
    for manifest in yaml.safe_load_all(option.read_text()):
        api.apply(manifest, manager=INSTALL_MANAGER)


def deployments_stamp(project: Path) -> str:
    """Return a digest of all that `prefect deploy` reads: its file, and the flows for their forms.

    Args:
        project: folder of prefect.yaml.
    """
    files = (project / "prefect.yaml", *sorted((project / "flows").glob("*.py")))
    contents = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("\n".join((str(project), *contents)).encode()).hexdigest()


def _deploy(home: SandboxHome) -> None:
    """Tell the orchestrator of the flows in prefect.yaml, unless it knows these very flows."""
    project = project_folder()
    stamp = deployments_stamp(project)
    deployed = home.data("prefect") / "deployed"
    if deployed.exists() and deployed.read_text() == stamp:
        return
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=project,
        env={**os.environ, **client_environment(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PermanentError(
            f"prefect deploy failed: {(done.stdout + done.stderr)[-800:]}",
            code="deploy-failed",
            hint=f"run it by hand in {project}: prefect deploy --all",
        )
    deployed.write_text(stamp)
