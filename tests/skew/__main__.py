"""`python -m tests.skew [VERSION ...]`: end-to-end tests on API servers of other versions."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from slipway.sandbox.build import OVERRIDE_VARIABLE
from tests.e2e.conftest import HOME, PROJECT
from tests.skew.build import binary_with

VERSIONS = ("1.34.6", "1.35.4", "1.37.2")
"""The oldest that the sandbox's own objects need, the newest there is, and one between.

A release itself needs no more than 1.30.
"""

TESTS = (
    "test_fence.py",
    "test_manifests_are_accepted.py",
    "test_port_contracts.py",
    "test_release_circle.py",
    "test_release_canary.py",
    "test_adoption.py",
)
"""What of the API server a release, an installation and an adoption use."""


def main() -> int:
    """Run the tests on each version; the worst exit code."""
    worst = 0
    folder = Path(tempfile.gettempdir()) / f"slipway-skew-{os.getuid()}"
    for version in sys.argv[1:] or VERSIONS:
        binary = binary_with(version, folder)
        environment = {
            **os.environ,
            OVERRIDE_VARIABLE: str(binary),
            HOME: str(folder / f"home-{version}"),
        }
        files = [f"tests/e2e/{name}" for name in TESTS]
        done = subprocess.run(
            (sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *files),
            cwd=PROJECT,
            env=environment,
            check=False,
        )
        print(f"Kubernetes {version}: exit code {done.returncode}", flush=True)
        worst = max(worst, abs(done.returncode))
    return worst


if __name__ == "__main__":
    sys.exit(main())
