"""What benchmarks on a sandbox of their own share: its commands, one service, its versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slipway.bootstrap.releases import install_services, registry
from slipway.sandbox.environment import client_environment
from slipway.sandbox.home import SandboxHome
from slipway.settings import Settings, from_environment

PROJECT = Path(__file__).resolve().parents[1]
_ANSWERS = {"ping": "pong", "marco": "polo", "knock knock": "who's there"}


def slipway(environment: Mapping[str, str], *args: str) -> None:
    """Run `slipway ARGS`; a failure ends the benchmark with what it printed."""
    done = subprocess.run(
        (sys.executable, "-m", "slipway.cli", *args),
        env=dict(environment),
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"slipway {' '.join(args)}: {done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Service:
    """A service of simulated models, installed on a sandbox that runs.

    Args:
        folder: for its versions' files.
        environment: of commands about it.
    """

    name: str
    folder: Path
    settings: Settings
    environment: Mapping[str, str]

    def register(self, **behaviour: Any) -> str:
        """Register a version that behaves so; returns its number."""
        version = self.folder / f"v{len(list(self.folder.iterdir()))}"
        version.mkdir()
        content = {"answers": _ANSWERS, **behaviour}
        (version / "simulated.json").write_text(json.dumps(content))
        return registry(self.settings).register(self.name, version).version

    def release(self, number: str) -> None:
        """Release a version to its end."""
        slipway(self.environment, "release", self.name, number)


def installed_service(home: SandboxHome, folder: Path, name: str, **policy: Any) -> Service:
    """Install a service like `simulated.yaml`, without GPUs, with these changes of its policy."""
    services = folder / "services"
    services.mkdir()
    data = yaml.safe_load((PROJECT / "deployments/services/simulated.yaml").read_text())
    data.update(name=name, model=name, hosts=[f"{name}.localhost"])
    data["resources"]["gpus"] = 0
    data["policy"].update(policy)
    (services / f"{name}.yaml").write_text(yaml.safe_dump(data))
    added = {**client_environment(home), "SLIPWAY_SERVICES": str(services)}
    environment = {**os.environ, **added, "PATH": f"{added['PATH']}:{os.environ['PATH']}"}
    os.environ.update({key: value for key, value in added.items() if key.startswith("AWS_")})
    settings = from_environment(environment)
    install_services(settings, name)
    return Service(name, folder, settings, environment)
