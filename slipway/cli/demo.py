"""`slipway demo`: everything Slipway does for one release, on real parts, in a few minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from slipway.cli import exit_codes
from slipway.cli.demo_backup import BackupStory, backed_up_broken_healed_and_drilled
from slipway.core.errors import PermanentError, SlipwayError
from slipway.manifests.names import BACKUP_ACCOUNT, RELEASE_ACCOUNT
from slipway.sandbox.home import SandboxHome
from slipway.settings import CONTEXT_VARIABLE

_QUESTION = "What is the capital of France? Answer with one word."
_SMOLLM_USERS_PER_S = 0.4
_SIMULATED_USERS_PER_S = 20.0
_CANARY_USERS_PER_S = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRow:
    """One release of the closing table."""

    service: str
    version: str
    expected: str
    outcome: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersRow:
    """What the users of one service saw, counted by themselves."""

    service: str
    requests: int
    failed: int
    truncated: int


@dataclass(slots=True)
class Demo:
    """What the demo has seen so far."""

    home: SandboxHome
    console: Console
    releases: list[ReleaseRow] = field(default_factory=list)
    users: list[UsersRow] = field(default_factory=list)
    backup: BackupStory | None = None

    @property
    def went_as_said(self) -> bool:
        """Whether every release ended as expected and no user was failed."""
        as_said = all(row.outcome == row.expected for row in self.releases)
        unharmed = all(row.failed == row.truncated == 0 < row.requests for row in self.users)
        proved = self.backup is not None and self.backup.went_as_said
        return as_said and unharmed and len(self.users) > 0 and proved


def run_demo() -> int:
    """Run the whole demo; returns the exit code: 0 only if all went as said."""
    from slipway.cli.sandbox import clock
    from slipway.cli.sandbox_name import home_of

    demo = Demo(home=home_of(None), console=Console(highlight=False))
    from slipway.cli.sandbox_start import start

    began = time.monotonic()
    _title(demo, "1  A sandbox: Kubernetes, Istio, S3, MLflow and Prefect on this machine")
    start(demo.home, clock())
    os.environ[CONTEXT_VARIABLE] = RELEASE_ACCOUNT  # as in a cluster, not as its administrator
    _title(demo, "2  smollm: a real language model, three versions, real answers")
    _smollm(demo)
    _title(demo, f"3  simulated: version 2 under {_SIMULATED_USERS_PER_S:.0f} streams a second")
    _simulated(demo)
    _title(demo, "4  canary: 1, 5, 25, 50, 100 %; a newer version takes over; a process is killed")
    _canary(demo)
    _title(demo, "5  backup: what is in use, a chunk broken on purpose, a restore that answers")
    _backup(demo)
    _title(demo, f"What happened in {time.monotonic() - began:.0f} s")
    _closing(demo)
    return 0 if demo.went_as_said else 1


def _smollm(demo: Demo) -> None:
    from slipway.sandbox.weights import cache_folder, make_variants

    demo.console.print("making three versions of SmolLM2-135M: Q4_1, Q8_0, and damaged weights")
    folders = make_variants(cache_folder() / "smollm")
    versions = _registered("smollm", folders)
    _release(demo, "smollm", versions[0], expected="done")
    _ask(demo)
    with _users(demo, "smollm", rate=_SMOLLM_USERS_PER_S):
        _release(demo, "smollm", versions[1], expected="done")
        _release(demo, "smollm", versions[2], expected="rolled_back")
    _ask(demo)


def _simulated(demo: Demo) -> None:
    versions = _simulated_versions("simulated", (30, 20))
    _release(demo, "simulated", versions[0], expected="done")
    with _users(demo, "simulated", rate=_SIMULATED_USERS_PER_S):
        _release(demo, "simulated", versions[1], expected="done")


def _canary(demo: Demo) -> None:
    from slipway.cli.demo_canary import SERVICE, is_live, superseded_and_killed

    first, second, third, fourth = _simulated_versions(SERVICE, (20, 21, 22, 23))
    # Where the demo has run before, the first version is a canary, too: it needs users to judge it.
    with _users(demo, SERVICE, rate=_CANARY_USERS_PER_S) if is_live() else nullcontext():
        _release(demo, SERVICE, first, expected="done")
    with _users(demo, SERVICE, rate=_CANARY_USERS_PER_S):
        _release(demo, SERVICE, second, expected="done")
        began = time.monotonic()
        code, record = superseded_and_killed(third, fourth, say=demo.console.print)
    gave_way = code == exit_codes.PERMANENT
    outcomes = (
        (third, "rolled_back" if gave_way else f"exit code {code}", f"gave way to {fourth}"),
        (fourth, "done" if record.phase == "done" else str(record.phase), record.reason),
    )
    for (version, outcome, reason), expected in zip(outcomes, ("rolled_back", "done"), strict=True):
        demo.releases.append(
            ReleaseRow(
                service=SERVICE,
                version=version,
                expected=expected,
                outcome=outcome,
                reason=reason,
                seconds=time.monotonic() - began,
            )
        )


def _backup(demo: Demo) -> None:
    os.environ[CONTEXT_VARIABLE] = BACKUP_ACCOUNT
    demo.backup = backed_up_broken_healed_and_drilled("smollm", say=demo.console.print)


def _simulated_versions(model: str, ttfts_ms: tuple[int, ...]) -> tuple[str, ...]:
    """Register versions of a simulated model that differ by their time to first token."""
    from slipway.sandbox.weights import simulated_version

    answers = {"ping": "pong", "marco": "polo", "knock knock": "who's there?"}
    with tempfile.TemporaryDirectory(prefix="slipway-demo-") as name:
        folders = tuple(
            simulated_version(Path(name) / f"v{n}", ttft_ms=ttft_ms, gap_ms=8, answers=answers)
            for n, ttft_ms in enumerate(ttfts_ms)
        )
        return _registered(model, folders)


def _registered(model: str, folders: tuple[Path, ...]) -> tuple[str, ...]:
    """Register each folder as a new version; returns their numbers."""
    from slipway.bootstrap.releases import registry
    from slipway.settings import from_environment

    store = registry(from_environment())
    return tuple(store.register(model, folder).version for folder in folders)


def _release(demo: Demo, service: str, version: str, *, expected: str) -> None:
    from flows.release import release

    began = time.monotonic()
    demo.console.print(f"\n[bold]release {service} version {version}[/]")
    try:
        result = release(service, version)
        outcome, reason = result["outcome"], result["reason"]
    except SlipwayError as error:
        outcome, reason = "rolled_back", error.message
        if error.code in {"release-running", "release-unfinished"}:
            outcome = error.code
    seconds = time.monotonic() - began
    demo.releases.append(
        ReleaseRow(
            service=service,
            version=version,
            expected=expected,
            outcome=outcome,
            reason=reason,
            seconds=seconds,
        )
    )


def _ask(demo: Demo) -> None:
    answer = httpx.post(
        f"{os.environ['SLIPWAY_GATEWAY_URL']}/v1/chat/completions",
        headers={"Host": "smollm.localhost"},
        json={
            "model": "smollm",
            "messages": [{"role": "user", "content": _QUESTION}],
            "max_tokens": 16,
            "temperature": 0,
        },
        timeout=60,
        trust_env=False,
    )
    answer.raise_for_status()
    text = answer.json()["choices"][0]["message"]["content"].strip()
    slot = answer.headers.get("x-slipway-slot")
    demo.console.print(f"\n  you    {_QUESTION}\n  smollm {text}   (slot {slot})")


@contextmanager
def _users(demo: Demo, service: str, *, rate: float) -> Iterator[None]:
    """Have users stream from the service meanwhile; count what they saw."""
    from slipway.bench.users import read_summary

    with tempfile.TemporaryDirectory(prefix="slipway-users-") as folder:
        ledger = Path(folder) / "ledger.jsonl"
        command = [
            *(sys.executable, "-m", "slipway.bench.users", "--out", str(ledger)),
            *("--url", os.environ["SLIPWAY_GATEWAY_URL"], "--host", f"{service}.localhost"),
            *("--model", service, "--rate", str(rate)),
        ]
        process = subprocess.Popen(command)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
        summary = read_summary(ledger)
    demo.users.append(
        UsersRow(
            service=service,
            requests=summary.started,
            failed=summary.failed,
            truncated=summary.truncated,
        )
    )
    if process.returncode != 0:
        raise PermanentError(
            f"the users of {service} ended with exit code {process.returncode}",
            code="users-failed",
            hint="run the demo again; if it stays, report it with the lines above",
        )


def _closing(demo: Demo) -> None:
    releases = Table("service", "version", "outcome", "as expected", "seconds", "reason")
    for row in demo.releases:
        as_expected = "yes" if row.outcome == row.expected else f"no: {row.expected}"
        releases.add_row(
            row.service, row.version, row.outcome, as_expected, f"{row.seconds:.0f}", row.reason
        )
    seen = Table("users of", "requests", "failed", "truncated streams")
    for users in demo.users:
        seen.add_row(users.service, *map(str, (users.requests, users.failed, users.truncated)))
    demo.console.print(releases)
    demo.console.print(seen)
    if demo.backup is not None:
        demo.console.print(demo.backup.table())
    _addresses(demo.console.print)
    verdict = "all went as said" if demo.went_as_said else "[red]not all went as said[/]"
    demo.console.print(f"\n{verdict}; stop the sandbox with: make down")


def _addresses(say: Callable[[str], None]) -> None:
    env = os.environ
    say(f"\nreleases   {env['PREFECT_UI_URL']}")
    say(f"models     {env['MLFLOW_TRACKING_URI']}")
    say(f"gateway    {env['SLIPWAY_GATEWAY_URL']} (Host: smollm.localhost)")
    say(f"evidence   {env['AWS_ENDPOINT_URL']}/slipway-evidence/releases/")
    say('shell      eval "$(.venv/bin/slipway sandbox env)"; kubectl -n serving get pods')


def _title(demo: Demo, text: str) -> None:
    demo.console.print()
    demo.console.rule(text, align="left")
