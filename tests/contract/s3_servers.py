"""S3 servers for a test: one that keeps its promises, and three that do not keep all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from slipway.adapters.backups.s3 import S3BackupStore
from slipway.adapters.s3 import S3ObjectStore
from slipway.sandbox.parts import s3
from tests.contract.network_toys import free_port
from tests.contract.running_parts import object_store

BUCKET = "slipway-backups"
REGION = "us-east-1"
_ACCESS_KEY, _SECRET_KEY = "slipway-test", "slipway-test-secret"
_BIN = Path(sys.executable).parent
_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server with a bucket."""

    endpoint: str
    access_key: str = _ACCESS_KEY
    secret_key: str = _SECRET_KEY

    def store(self, prefix: str = "", **changes: object) -> S3BackupStore:
        arguments = {
            "bucket": BUCKET,
            "endpoint": self.endpoint,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "region": REGION,
            "prefix": prefix,
            **changes,
        }
        return S3BackupStore(**arguments)  # type: ignore[arg-type]


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    with object_store(folder) as home:
        yield _with_bucket(S3Server(s3.endpoint(home), s3.ACCESS_KEY, home.secret("s3-secret-key")))


@contextmanager
def juicefs(folder: Path) -> Iterator[S3Server]:
    meta = f"sqlite3://{folder}/meta.db"
    program = str(_BIN / "juicefs")
    made = (program, "format", "--storage", "file", "--bucket", f"{folder}/data/", meta, "backups")
    subprocess.run(made, check=True, capture_output=True)
    port = free_port()
    command = (
        *(program, "gateway", "--no-usage-report", "--multi-buckets", "--no-banner"),
        *("--log", f"{folder}/juicefs.log", "--cache-dir", f"{folder}/cache", "--no-bgjob"),
        *("--metrics", f"127.0.0.1:{free_port()}", meta, f"127.0.0.1:{port}"),
    )
    own = {"MINIO_ROOT_USER": _ACCESS_KEY, "MINIO_ROOT_PASSWORD": _SECRET_KEY}
    with _running(command, own, folder, port) as server:
        yield server


@contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    (folder / "data").mkdir()
    port = free_port()
    command = (
        *(str(_BIN / "rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"),
        *("--auth-key", f"{_ACCESS_KEY},{_SECRET_KEY}", "--config", f"{folder}/none.conf"),
        *("--cache-dir", f"{folder}/cache", f"{folder}/data"),
    )
    with _running(command, {}, folder, port) as server:
        yield server


@contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    port = free_port()
    command = (str(_BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port))
    with _running(command, {}, folder, port) as server:
        yield server


SERVERS: Mapping[str, Callable[[Path], AbstractContextManager[S3Server]]] = {
    "seaweedfs": seaweedfs,
    "juicefs": juicefs,
    "rclone": rclone,
    "moto": moto,
}


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, port: int
) -> Iterator[S3Server]:
    own = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **environment}
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as run,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}", run, folder / "server.log")
            yield _with_bucket(S3Server(f"http://127.0.0.1:{port}"))
        finally:
            run.terminate()
            try:
                run.wait(5)
            except subprocess.TimeoutExpired:
                run.kill()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            httpx.get(url, trust_env=False)
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.05)  # between two looks; the deadline decides
        else:
            return


def _with_bucket(server: S3Server) -> S3Server:
    S3ObjectStore(
        bucket=BUCKET,
        endpoint=server.endpoint,
        access_key=server.access_key,
        secret_key=server.secret_key,
        region=REGION,
    ).create_bucket()
    return server
