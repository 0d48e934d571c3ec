"""Given / when / then of releases on a real sandbox."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

import httpx
import yaml

from slipway.bootstrap.releases import Ports, connect, install_services, registry
from slipway.core.release.record import ReleaseRecord
from slipway.manifests.names import RELEASE_ACCOUNT
from slipway.sandbox.environment import client_environment
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.pki import CONTEXT
from slipway.settings import CONTEXT_VARIABLE, Settings, from_environment

PROJECT = Path(__file__).resolve().parents[2]


# On a busy machine: a quiet one needs a tenth of it.
LONGEST_RELEASE_S = 480.0
LONGEST_START_S = 90.0

_ADMINISTRATORS = frozenset({"adopt", "install"})
"""Commands that no account of flows could run."""


class Sandbox(Protocol):
    """What the fixture `sandbox` offers."""

    @property
    def home(self) -> SandboxHome:
        """Its folder."""
        ...

    @property
    def environment(self) -> dict[str, str]:
        """Of a shell after `eval "$(slipway sandbox env)"`."""
        ...

    @property
    def gateway_url(self) -> str:
        """Where users call."""
        ...

    def kubectl(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator."""
        ...

    def start_kubectl(self, *args: str, stdout: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start kubectl as the administrator."""
        ...

    def run_cli(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `slipway ARGS`."""
        ...


class World:
    """Services, versions and releases of one test, on the sandbox of the test run."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.services = folder / "services"
        self.services.mkdir()
        self.context = RELEASE_ACCOUNT
        self.before_commands: tuple[str, ...] = ()
        self.environment = {
            **client_environment(sandbox.home),
            "SLIPWAY_SERVICES": str(self.services),
            "SLIPWAY_MODEL_CACHE": str(folder.parent / "model-cache"),
        }

    @property
    def settings(self) -> Settings:
        """The settings of this test's releases, but as the administrator: to install, to look."""
        os.environ.update({k: v for k, v in self.environment.items() if k.startswith("AWS_")})
        return from_environment(self.environment)

    def given_service(self, name: str, **changes: Any) -> str:
        """Write a service file like `simulated.yaml`, with `changes` by dotted name; install it."""
        self.given_file(name, **changes)
        install_services(self.settings, name)
        return name

    def given_file(self, name: str, **changes: Any) -> None:
        """Write a service file alone; see `given_service`."""
        text = (PROJECT / "deployments/services/simulated.yaml").read_text()
        data = yaml.safe_load(text)
        data.update(name=name, model=name, hosts=[f"{name}.localhost"])
        data["resources"]["gpus"] = 0
        data["policy"]["bake_s"] = 1
        data["policy"]["benchmark"].update(requests=20, concurrency=4)
        # A busy machine's pauses are not the subject of most tests; those of slow versions set it.
        data["policy"]["benchmark"]["slowdown_max"] = 50
        data["slo"].update(ttft_p95_ms=10_000, output_tokens_per_s=1)
        for dotted, value in changes.items():
            _set(data, dotted.split("__"), value)
        (self.services / f"{name}.yaml").write_text(yaml.safe_dump(data))

    def given_version(self, model: str, **behaviour: Any) -> str:
        """Register a version of a simulated model; returns its number."""
        folder = self.folder / f"version-{time.time_ns()}"
        folder.mkdir()
        answers = {"ping": "pong", "marco": "polo", "knock knock": "who's there"}
        content = {"ttft_ms": 5, "gap_ms": 2, "answers": answers, **behaviour}
        (folder / "simulated.json").write_text(json.dumps(content))
        return registry(self.settings).register(model, folder).version

    def release(self, service: str, version: str) -> subprocess.CompletedProcess[str]:
        """Run `slipway release SERVICE VERSION` to its end."""
        return self.cli("release", service, version)

    def cli(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `slipway ARGS` with the settings of this test, as whoever has to run it."""
        as_administrator = {CONTEXT_VARIABLE: CONTEXT} if args[0] in _ADMINISTRATORS else {}
        return subprocess.run(
            (*self.before_commands, *_command(*args)),
            env={**self.process_environment, **as_administrator},
            cwd=PROJECT,
            text=True,
            capture_output=True,
            check=False,
        )

    def start_release(self, service: str, version: str) -> subprocess.Popen[str]:
        """Start a release as a process of its own."""
        return subprocess.Popen(
            (*self.before_commands, *_command("release", service, version)),
            env=self.process_environment,
            cwd=PROJECT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @contextmanager
    def releasing(
        self, service: str, version: str, *, module: str = "slipway.cli"
    ) -> Iterator[Release]:
        """Run a release meanwhile; one that still runs at the end is killed, and waited for."""
        with subprocess.Popen(
            (*self.before_commands, sys.executable, "-m", module, "release", service, version),
            env=self.process_environment,
            cwd=PROJECT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                yield Release(process)
            finally:
                process.kill()

    def ports(self, service: str, *, context: str = CONTEXT) -> Ports:
        """Return the ports of a service, for looking at what is there as the administrator."""
        return connect(service, replace(self.settings, context=context))

    def record(self, service: str) -> ReleaseRecord:
        """Return the service's record."""
        stored = self.ports(service).releases.load(service)
        assert stored is not None
        return stored.record

    def wait_for_phase(self, service: str, *phases: str, timeout_s: float = 90) -> ReleaseRecord:
        """Wait until the record of a running release is in one of `phases`."""
        releases = self.ports(service).releases
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            stored = releases.load(service)
            if stored is not None and stored.record.phase in phases:
                return stored.record
            time.sleep(0.05)
        raise AssertionError(f"{service} did not reach {phases} in {timeout_s} s")

    def ask(self, service: str, prompt: str = "ping", **headers: str) -> httpx.Response:
        """Send one chat request as a user does."""
        return httpx.post(
            f"{self.sandbox.gateway_url}/v1/chat/completions",
            json={"model": service, "messages": [{"role": "user", "content": prompt}]},
            headers={"Host": f"{service}.localhost", **headers},
            timeout=20,
            trust_env=False,
        )

    def leftovers(self, service: str) -> list[str]:
        """Return what a release that ended must not leave behind."""
        ports = self.ports(service)
        route = ports.traffic.read(service)
        record = self.record(service)
        found = []
        if route.preview is not None:
            found.append("preview route")
        live = record.live_slot
        if route.subsets - ({live} if live else set()):
            found.append(f"subsets {sorted(route.subsets)}")
        pods = self.sandbox.kubectl("-n", "serving", "get", "pods", "-o", "json")
        for pod in json.loads(pods.stdout)["items"]:
            labels = pod["metadata"].get("labels", {})
            if labels.get("slipway.dev/service") != service:
                continue
            if labels.get("slipway.dev/slot") != live:
                found.append(f"pod {pod['metadata']['name']}")
        lease = json.loads(
            self.sandbox.kubectl(
                "-n", "serving", "get", "lease", f"slipway-{service}", "-o", "json"
            ).stdout
        )
        if lease["spec"].get("holderIdentity"):
            found.append("held lease")
        return found

    @property
    def process_environment(self) -> dict[str, str]:
        """The environment of a `slipway` of this test: it runs as it would in a cluster."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        return {**self.environment, **kept, "PATH": path, CONTEXT_VARIABLE: self.context}


class Release:
    """A release in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def end(self) -> str:
        """Wait for it to end well; return what it printed."""
        code, output = self.wait()
        assert code == 0, output
        return output

    def wait(self) -> tuple[int, str]:
        """Wait for it to end in whatever way; return its exit code and what it printed."""
        output, _ = self._process.communicate(timeout=LONGEST_RELEASE_S)
        return self._process.returncode, output


class Users:
    """Streaming users of one service, in a process of their own; they never retry."""

    def __init__(self, process: subprocess.Popen[str], ledger: Path) -> None:
        self._process = process
        self.ledger = ledger

    def stop(self) -> list[dict[str, Any]]:
        """Let them finish what they began; return their ledger, a row a request."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=90)
        assert self._process.returncode == 0, output
        return [json.loads(line) for line in self.ledger.read_text().splitlines()]


@contextmanager
def users(
    world: World,
    service: str,
    *,
    rate: float,
    long_streams: int = 0,
    long_tokens: int = 550,
    prompts: tuple[str, ...] = (),
    tokens: int = 16,
    sessions: int = 100_000,
) -> Iterator[Users]:
    """Run users of `service` meanwhile."""
    ledger = world.folder / f"users-{service}-{time.time_ns()}.jsonl"
    command = [
        *(sys.executable, "-m", "slipway.bench.users", "--url", world.sandbox.gateway_url),
        *("--host", f"{service}.localhost", "--model", service, "--rate", str(rate)),
        *("--long-streams", str(long_streams), "--long-tokens", str(long_tokens)),
        *(word for prompt in prompts for word in ("--prompt", prompt)),
        *("--tokens", str(tokens), "--sessions", str(sessions)),
        *("--out", str(ledger)),
    ]
    process = subprocess.Popen(
        command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        _begun(process, ledger)
        yield Users(process, ledger)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def harmed(ledger: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what users saw that did not end well, with how many did and when; else nothing."""
    if not ledger:
        return {"nobody asked": "the ledger is empty"}
    begun_ns = min(row["started_ns"] for row in ledger)
    when_s: dict[str, list[float]] = {}
    for row in ledger:
        if row["status"] != "ok":
            seen = f"{row['status']}: {row['error']} (HTTP {row['http_status']}, {row['slot']})"
            when_s.setdefault(seen, []).append((row["started_ns"] - begun_ns) / 1e9)
    return {
        seen: f"{len(found)} of {len(ledger)}, begun at {min(found):.1f} to {max(found):.1f} s"
        for seen, found in when_s.items()
    }


def _begun(process: subprocess.Popen[str], ledger: Path) -> None:
    """Wait for users who can be stopped: SIGTERM before that would kill them."""
    deadline_s = time.monotonic() + LONGEST_START_S
    while not ledger.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline_s, "the users did not begin"
        time.sleep(0.02)  # between two looks; the deadline decides


def said(result: subprocess.CompletedProcess[str]) -> str:
    """Return everything a command printed, on one line per line, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr)


def _command(*args: str) -> list[str]:
    return [sys.executable, "-m", "slipway.cli", *args]


def _set(data: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {})
    data[path[-1]] = value
