"""Custom resources of others on the sandbox: their schemas, nobody that acts on them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

CRDS = Path(__file__).parent / "crds"
KEDA = "scaledobjects.keda.sh"
SNAPSHOTS = "volumesnapshots.snapshot.storage.k8s.io"


class Cluster(Protocol):
    """What has a `kubectl`."""

    def kubectl(self, *args: str) -> subprocess.CompletedProcess[str]: ...


def install(cluster: Cluster, name: str) -> None:
    """Have the API server know a kind from now on: tests beside this one may use it, too."""
    file = str(CRDS / f"{name}.yaml")
    applied = cluster.kubectl("apply", "--server-side", "-f", file)
    assert applied.returncode == 0, applied.stderr
    served = cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{name}")
    assert served.returncode == 0, served.stderr


@contextmanager
def installed(cluster: Cluster, name: str) -> Iterator[None]:
    """Have the API server know a kind; its objects all go with it at the end."""
    install(cluster, name)
    try:
        yield
    finally:
        removed = cluster.kubectl("delete", "-f", str(CRDS / f"{name}.yaml"), "--wait=false")
        assert removed.returncode == 0, removed.stderr
