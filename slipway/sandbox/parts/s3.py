"""The object store of the sandbox: SeaweedFS, one process with its S3 door.

It enforces checksums and `If-None-Match`, which the other servers of the package index do not.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import HttpReady, Part

EVIDENCE_BUCKET = "slipway-evidence"
MODELS_BUCKET = "mlflow"
BACKUPS_BUCKET = "slipway-backups"
ACCESS_KEY = "slipway"
READER_ACCESS_KEY = "slipway-reader"
"""Of pods that fetch model versions: it may read the bucket of the models and nothing else."""

BACKUP_ACCESS_KEY = "slipway-backup"
"""Of pods that back up models: it may use the bucket of the backups and nothing else."""

BACKUP_REPOSITORY = f"s3://{BACKUPS_BUCKET}/models"

REGION = "us-east-1"

_SERVERS = ("s3-master", "s3-volume", "s3-filer", "s3-inner")
"""Names of the ports of SeaweedFS's servers; each has a gRPC port beside it."""

# A filer waits 15 s for its own subscriptions to end before it stops (measured, 4.48); by then no
# request is in flight any more, and its files are safe against the kill.
_STOP_GRACE_S = 1.0


def endpoint(home: SandboxHome) -> str:
    """Return the URL of the S3 API."""
    return f"http://127.0.0.1:{home.port('s3')}"


def environment(home: SandboxHome) -> dict[str, str]:
    """Return what a client process needs to reach the object store (names of botocore)."""
    return {
        "AWS_ENDPOINT_URL": endpoint(home),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": home.secret("s3-secret-key"),
        "AWS_DEFAULT_REGION": REGION,
        # A developer's own profile must neither be read nor used here.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def reader_environment(home: SandboxHome) -> dict[str, str]:
    """Return what a pod needs to read model versions, and no more (names of botocore)."""
    return {
        "AWS_ENDPOINT_URL": endpoint(home),
        "AWS_ACCESS_KEY_ID": READER_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": home.secret("s3-reader-secret-key"),
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def backup_environment(home: SandboxHome) -> dict[str, str]:
    """Return what a pod needs to back up models, and no more."""
    return {
        **reader_environment(home),
        "AWS_ACCESS_KEY_ID": BACKUP_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": home.secret("s3-backup-secret-key"),
        "SLIPWAY_BACKUP_REPOSITORY": BACKUP_REPOSITORY,
    }


def prepare(home: SandboxHome) -> None:
    """Write the identities file (0600); running twice equals once."""
    everything = ("Admin", "Read", "List", "Tagging", "Write")
    identities = [
        _identity(ACCESS_KEY, home.secret("s3-secret-key"), *everything),
        _identity(READER_ACCESS_KEY, home.secret("s3-reader-secret-key"), f"Read:{MODELS_BUCKET}"),
        _identity(
            BACKUP_ACCESS_KEY,
            home.secret("s3-backup-secret-key"),
            *(f"{action}:{BACKUPS_BUCKET}" for action in ("Read", "List", "Write")),
        ),
    ]
    for server in _SERVERS:
        home.port(f"{server}-grpc", usable=partial(_is_ours, server))
    path = _identities(home)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"identities": identities}, file, indent=2)


def parts(home: SandboxHome) -> tuple[Part, ...]:
    """Return the one process of the object store."""
    return (
        Part(
            name="s3",
            command=(str(Path(sys.executable).with_name("weed")), *_arguments(home)),
            # Idle it then takes 2.7 % of a core instead of 4 %. A memory limit (GOMEMLIMIT) below
            # what it holds anyway (100 MB of buffers) costs 10 %: the collector never rests.
            environment={"GOMAXPROCS": "1"},
            ready=HttpReady(f"http://127.0.0.1:{home.port('s3-inner')}/healthz"),
            addresses={"S3 API": endpoint(home)},
            stop_grace_s=_STOP_GRACE_S,
            # Which takes a full disk back before.
            stop_after=("faults",),
            start_timeout_s=30.0,
        ),
    )


def clear(home: SandboxHome) -> None:
    """Remove the sockets that the stopped server left behind; running twice equals once."""
    ports = home.remembered_ports()
    for server in _SERVERS:
        port = ports.get(f"{server}-grpc")
        if port is not None and _is_ours(server, port):
            _socket(server, port).unlink(missing_ok=True)


def set_up(home: SandboxHome) -> None:
    """Make the buckets; running twice equals once.

    Raises:
        TransientError: the server does not answer.
    """
    from slipway.adapters.s3 import S3ObjectStore

    for bucket in (EVIDENCE_BUCKET, MODELS_BUCKET, BACKUPS_BUCKET):
        S3ObjectStore(
            bucket=bucket,
            endpoint=endpoint(home),
            access_key=ACCESS_KEY,
            secret_key=home.secret("s3-secret-key"),
            region=REGION,
        ).create_bucket()


def _arguments(home: SandboxHome) -> tuple[str, ...]:
    def port(flag: str, name: str) -> tuple[str, str]:
        # The gRPC ports are named too: their default, port + 10000, may lie above 65535.
        return f"-{flag}={home.port(name)}", f"-{flag}.grpc={home.port(f'{name}-grpc')}"

    return (
        "-logtostderr=true",
        "server",
        f"-dir={home.data('s3')}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *port("master.port", "s3-master"),
        # One master elects nobody: ready after 2.2 s, against 12 s when an old raft log is resumed.
        "-master.peers=none",
        "-master.telemetry=false",
        # Volumes grow as they are written; nothing is allocated ahead.
        "-master.volumeSizeLimitMB=1024",
        *port("volume.port", "s3-volume"),
        "-volume.max=200",
        "-volume.preStopSeconds=0",
        "-filer",
        *port("filer.port", "s3-filer"),
        f"-filer.localSocket={home.run / 's3-filer.sock'}",
        "-s3",
        f"-s3.localSocket={home.run / 's3.sock'}",
        *port("s3.port", "s3-inner"),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={_identities(home)}",
    )


def _socket(server: str, port: int) -> Path:
    """Return where a gRPC server of SeaweedFS listens besides its port (4.48, no option for it)."""
    kind = "s3" if server == "s3-inner" else server.removeprefix("s3-")
    return Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock")  # noqa: S108  # not ours to choose


def _is_ours(server: str, port: int) -> bool:
    """Whether nobody else's socket is in the way: /tmp is sticky, so it could not be replaced."""
    try:
        return _socket(server, port).lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return True


def _identity(name: str, secret: str, *actions: str) -> dict[str, object]:
    credentials = [{"accessKey": name, "secretKey": secret}]
    return {"name": name, "credentials": credentials, "actions": list(actions)}


def _identities(home: SandboxHome) -> Path:
    return home.config("s3") / "identities.json"
