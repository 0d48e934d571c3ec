"""The page on real clusters is followed word by word, with a kubeconfig and addresses alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.support import PROJECT, Sandbox, World

PAGE = PROJECT / "docs/how-to/real-cluster.md"
# What an operator knows of a cluster and its services.
_KNOWN = (
    *("SLIPWAY_REGISTRY", "SLIPWAY_REGISTRY_SCHEME", "SLIPWAY_GATEWAY_URL"),
    *("SLIPWAY_GATEWAY_ADMIN_URLS", "SLIPWAY_ACCESS_LOG", "SLIPWAY_CLUSTER_PROXY"),
    *("SLIPWAY_POD_PREFIX", "SLIPWAY_SERVICES", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"),
    *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"),
    *("AWS_DEFAULT_REGION", "NO_PROXY", "no_proxy"),
)


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


def commands() -> str:
    """Return the commands of the page that are marked as such, in their order."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(line.strip() for block in blocks for line in block.splitlines())


@pytest.mark.drawn("page")
@pytest.mark.parametrize("kind", ["istio", "gateway_api"])
def test_first_release_by_the_page_with_a_kubeconfig_alone(world: World, kind: str) -> None:
    service = f"paged-{kind.replace('_', '-')}"
    world.given_file(service, router={"kind": kind}, replicas=1)
    (world.folder / service).mkdir()
    answers = {"ping": "pong", "marco": "polo", "knock knock": "who's there"}
    content = {"ttft_ms": 5, "gap_ms": 2, "answers": answers}
    (world.folder / service / "simulated.json").write_text(json.dumps(content))
    (world.folder / "home").mkdir()
    copied = world.folder / "administrator.kubeconfig"
    whole = yaml.safe_load(world.sandbox.home.kubeconfig.read_text())
    copied.write_text(yaml.safe_dump(whole))
    environment = {name: world.environment[name] for name in _KNOWN if name in world.environment}
    said = commands().replace("llama3.models.example.com", f"{service}.localhost")
    said = said.replace("llama3", service)
    assert "sandbox" not in said

    done = subprocess.run(
        ("bash", "-euo", "pipefail", "-x", "-c", said),
        cwd=world.folder,
        env={
            **environment,
            "HOME": str(world.folder / "home"),
            "KUBECONFIG": str(copied),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
        },
        text=True,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    theirs = yaml.safe_load((world.folder / "release.kubeconfig").read_text())
    assert [user["name"] for user in theirs["users"]] == ["slipway-release"]
    record = world.record(service)
    assert (record.version, str(record.phase)) == ("1", "done")
    assert f'"id": "{service}"' in done.stdout or f'"id":"{service}"' in done.stdout


def test_steps_for_the_gateways_log_are_taken_by_the_api_server(sandbox: Sandbox) -> None:
    blocks = re.findall(
        r"^ *```\n( *python - .*?)^ *```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    fields, timing = ("\n".join(line.strip() for line in one.splitlines()) for one in blocks)
    timing = timing.replace("kubectl apply", "kubectl apply --dry-run=server")
    for words, expected in ((fields, '"accessLogFile"'), (timing, "envoyfilter")):
        done = subprocess.run(
            ("bash", "-euo", "pipefail", "-c", words),
            cwd=PROJECT,
            env={**sandbox.environment, "PYTHONPATH": str(PROJECT)},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
