"""Starts a model server as a container would: from its image's files, without this checkout."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import httpx


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A started server."""

    process: subprocess.Popen[str]
    url: str
    truth: Path

    def client(self, *, timeout_s: float = 30.0) -> httpx.Client:
        """Return a client without proxies; plain http needs no certificates, which load slowly."""
        return httpx.Client(base_url=self.url, trust_env=False, timeout=timeout_s, verify=False)

    def health(self) -> int:
        """Return the status of its health path, 0 when it does not listen."""
        try:
            with self.client(timeout_s=2.0) as client:
                return client.get("/health").status_code
        except httpx.TransportError:
            return 0

    def wait_for_health(self, status: int, *, timeout_s: float = 20.0) -> None:
        """Wait until the health path answers `status`; fails when the server ends instead."""
        deadline_s = time.monotonic() + timeout_s
        while self.health() != status:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}"
            assert time.monotonic() < deadline_s, f"health was never {status}"
            time.sleep(0.01)

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=20)


def unpack(files: Mapping[str, Path], root: Path) -> Path:
    """Copy the files of an image below `root`."""
    for inner, local in files.items():
        target = root / inner.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        copyfile(local, target)
    return root


def start_server(module: str, image: Path, model: Path, folder: Path) -> RunningServer:
    """Start a module of `slipway.sandbox.servers` from `image` with the plain interpreter."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    truth = folder / f"truth-{port}.jsonl"
    flags = ("--host", "127.0.0.1", "--port", str(port), "--model-dir", str(model))
    interpreter = (str(Path(sys.base_prefix, "bin/python3")), "-P", "-s", "-S", "-B")
    with (folder / f"stderr-{port}").open("w") as errors:
        process = subprocess.Popen(
            (
                *interpreter,
                "-m",
                f"slipway.sandbox.servers.{module}",
                *flags,
                "--model-name",
                "model",
            ),
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(image / "opt/server"),
                "SLIPWAY_TRUTH_LOG": str(truth),
            },
            stderr=errors,
            text=True,
        )
    return RunningServer(process, f"http://127.0.0.1:{port}", truth)
