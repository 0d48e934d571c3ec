"""Run the end-to-end tests in lanes side by side: those that disturb it on a sandbox of their own.

They are drawn by seed (`tests/e2e/draw.py`). The tests wait more than they compute. In
each lane the order is that of the files, so that a failure can be repeated:
`python -m pytest -p no:randomly FILES`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipway.sandbox.home import SandboxHome
from tests.e2e.audit import difference, read_audit
from tests.e2e.conftest import ATTACHED, HOME, PROJECT, fresh_sandbox, sandbox_folder
from tests.e2e.draw import SEED, seed_of_commit

LOGS = PROJECT / "build"
FOLDER = Path("tests/e2e")
_OPTIONS = ("-q", "-p", "no:randomly", "--durations=10")
LANES = {
    # Take GPUs or quota of the namespace `serving`, or add nodes.
    "releases": (
        *("infeasible", "kubernetes_is_real", "prefect_deployment", "release_faults"),
        # And whatever keeps the rows about equally long.
        *("adoption", "adoption_refused"),
    ),
    # Release under users, in services of their own without GPUs.
    "crowds": (
        *("release_canary", "release_circle", "release_under_load", "release_weights_pvc"),
        # And whatever keeps the rows about equally long.
        *("in_cluster", "real_cluster", "rights"),
    ),
    # Disturb the whole sandbox: they have one that is theirs.
    "alone": ("faults_ports", "kills", "sandbox_lifecycle"),
    # Too long for `make test`.
    "soak": (
        "adoption_killed",
        "autoscaling",
        "change_of_router",
        "orders",
        "orders_to_stop",
        "release_canary_asks",
        "release_canary_refused",
        "release_outages",
        "release_port_faults",
        "routers_under_load",
        "runs_that_end_early",
        "side_by_side",
        "splits",
    ),
}
"""Every other file of the folder is in the lane `rest`: it uses namespaces of its own."""

ROWS = (("releases",), ("crowds", "alone"), ("rest",))
"""Side by side; the lanes of a row one after the other. About equally long."""


def files_of(lane: str) -> tuple[str, ...]:
    """Return the test files of a lane, sorted."""
    if lane in LANES:
        return tuple(str(FOLDER / f"test_{name}.py") for name in LANES[lane])
    listed = {file for other in LANES for file in files_of(other)}
    found = sorted(FOLDER / path.name for path in (PROJECT / FOLDER).glob("test_*.py"))
    return tuple(str(path) for path in found if str(path) not in listed)


def run_lane(lane: str) -> int:
    """Run the tests of a lane, show what they printed, and return their exit code."""
    settings = {HOME: str(_folder_of_alone())} if lane == "alone" else {ATTACHED: "1"}
    began_s = time.monotonic()
    with _log(lane).open("wb") as log:
        done = subprocess.run(
            (sys.executable, "-m", "pytest", *_OPTIONS, *files_of(lane)),
            cwd=PROJECT,
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    took_s = time.monotonic() - began_s
    print(f"tests/e2e, {lane} ({took_s:.0f} s):\n{_log(lane).read_text()}", flush=True)
    return done.returncode


def run_row(lanes: tuple[str, ...]) -> int:
    """Run lanes one after the other, none after one that was broken off; the worst exit code.

    A lane that a signal ended has a negative one.
    """
    worst = 0
    for lane in lanes:
        code = run_lane(lane)
        worst = max(worst, abs(code))
        if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            break
    return worst


def main() -> int:
    """Run every lane; the worst exit code of any."""
    LOGS.mkdir(exist_ok=True)
    if not os.environ.get("SLIPWAY_SOAK"):
        seed = os.environ.setdefault(SEED, seed_of_commit(PROJECT))
        print(f"tests/e2e: scenarios drawn by {SEED}={seed}; all of them: make soak", flush=True)
    with fresh_sandbox(), ThreadPoolExecutor(len(ROWS)) as rows:
        codes = list(rows.map(run_row, ROWS))
        if os.environ.get("SLIPWAY_SOAK"):
            codes.append(run_row(("soak",)))
    return max(*codes, compare_rights())


def compare_rights() -> int:
    """Compare what the accounts may do with what they did in all lanes; 1 when it differs."""
    homes = [SandboxHome(sandbox_folder()), SandboxHome(_folder_of_alone())]
    found = read_audit(homes)
    differs = [*found.faults(), *difference(found)]
    print(f"rights of the accounts: {len(found.granted)} granted, {len(found.used)} used")
    print("\n".join(differs), flush=True)
    return int(bool(differs))


def _folder_of_alone() -> Path:
    return Path(f"{sandbox_folder()}-alone")


def _log(lane: str) -> Path:
    return LOGS / f"test-e2e-{lane}.log"


if __name__ == "__main__":
    sys.exit(main())
