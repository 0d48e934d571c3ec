"""Pods and containers on disk: one JSON file each, written by rename.

A runtime that starts on the same folder finds everything again. Nothing is synced: after a power
failure all processes are gone anyway, and a lost record is a pod the kubelet makes anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

from slipway.core.errors import ConflictError
from slipway.sandbox.runtime.model import (
    Container,
    Pod,
    container_from_json,
    pod_from_json,
    to_json,
)


class Store:
    """The records below one folder.

    Args:
        root: made when missing; locked for this process as long as it lives.

    Raises:
        ConflictError: another runtime works in this folder.
    """

    def __init__(self, root: Path) -> None:
        """Lock the folder and load what is there."""
        for name in ("pods", "containers"):
            (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root = root
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConflictError(
                f"another runtime works in {root}",
                code="runtime-running",
                hint="stop it, or choose another --root",
            ) from error
        for draft in (root / "pods").glob("*.new"):
            draft.unlink()
        for folder in (root / "containers").iterdir():
            # Half made or half removed when the earlier runtime was killed.
            if not (folder / "container.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
        self.pods = {
            pod.id: pod
            for path in sorted((root / "pods").glob("*.json"))
            for pod in (pod_from_json(json.loads(path.read_text())),)
        }
        self.containers = {
            container.id: container
            for path in sorted((root / "containers").glob("*/container.json"))
            for container in (container_from_json(json.loads(path.read_text())),)
        }
        last = root / "last-address"
        self.last_address = last.read_text() if last.exists() else ""

    def close(self) -> None:
        """Give the folder up."""
        os.close(self._lock)

    def folder(self, container_id: str) -> Path:
        """Return the folder of a container's files."""
        return self._root / "containers" / container_id

    def save_pod(self, pod: Pod) -> None:
        """Write a pod, new or changed."""
        self.pods[pod.id] = pod
        _write(self._root / "pods" / f"{pod.id}.json", json.dumps(to_json(pod)))

    def save_container(self, container: Container) -> None:
        """Write a container, new or changed."""
        self.containers[container.id] = container
        folder = self.folder(container.id)
        folder.mkdir(exist_ok=True, mode=0o700)
        _write(folder / "container.json", json.dumps(to_json(container)))

    def save_last_address(self, address: str) -> None:
        """Remember the pod address given out last."""
        self.last_address = address
        _write(self._root / "last-address", address)

    def drop_pod(self, pod_id: str) -> None:
        """Forget a pod."""
        self.pods.pop(pod_id, None)
        (self._root / "pods" / f"{pod_id}.json").unlink(missing_ok=True)

    def drop_container(self, container_id: str) -> None:
        """Forget a container with all its files."""
        self.containers.pop(container_id, None)
        # The record first: what is left is half removed, and no container any more.
        (self.folder(container_id) / "container.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder(container_id), ignore_errors=True)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(text)
    draft.replace(path)
