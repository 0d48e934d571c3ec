"""KEDA's custom resource on the sandbox: its schema, no operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.support import Sandbox

CRD = Path(__file__).parent / "crds" / "scaledobjects.keda.sh.yaml"


@contextmanager
def keda_installed(sandbox: Sandbox) -> Iterator[None]:
    """Have the API server know ScaledObjects; they all go with it at the end."""
    applied = sandbox.kubectl("apply", "--server-side", "-f", str(CRD))
    assert applied.returncode == 0, applied.stderr
    served = sandbox.kubectl(
        *("wait", "--for=condition=Established", "--timeout=60s"),
        "crd/scaledobjects.keda.sh",
    )
    assert served.returncode == 0, served.stderr
    try:
        yield
    finally:
        removed = sandbox.kubectl("delete", "-f", str(CRD), "--wait=false")
        assert removed.returncode == 0, removed.stderr
