"""Backups over TLS: whose certificate is trusted, and that whole bodies travel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.adapters.backups.s3 import S3BackupStore
from slipway.backup.source import open_piece, scan
from slipway.core.backup.cuts import Piece
from slipway.core.backup.sums import sha256_sum
from slipway.core.errors import SlipwayError
from tests.contract.network_toys import free_port, wait_for_port
from tests.contract.tls_toys import write_certificates

_BUCKET = "backups"
_KEYS = ("slipway-test", "slipway-test-secret")
BODY = bytes(range(256)) * 50_000


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """An S3 server with a certificate of an authority of its own."""
    write_certificates(tmp_path)
    (tmp_path / "data" / _BUCKET).mkdir(parents=True)
    port = free_port()
    command = (
        *(str(Path(sys.executable).with_name("rclone")), "serve", "s3"),
        *("--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(_KEYS)),
        *("--cert", f"{tmp_path}/apiserver.crt", "--key", f"{tmp_path}/apiserver.key"),
        *("--config", f"{tmp_path}/none.conf", "--cache-dir", f"{tmp_path}/cache"),
        f"{tmp_path}/data",
    )
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            wait_for_port(port)
            yield f"https://127.0.0.1:{port}"
        finally:
            run.kill()


def store_at(endpoint: str) -> S3BackupStore:
    return S3BackupStore(
        bucket=_BUCKET,
        endpoint=endpoint,
        access_key=_KEYS[0],
        secret_key=_KEYS[1],
        sleep=lambda _: None,
    )


def test_bytes_travel_from_memory_and_from_a_file(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.crt"))
    store = store_at(endpoint)
    store.put("chunks/a", BODY, checksum=sha256_sum(BODY))
    assert store.get("chunks/a") == BODY
    (tmp_path / "model").mkdir()
    (tmp_path / "model/w").write_bytes(b"before" + BODY + b"behind")
    (file,) = scan(tmp_path / "model")
    with open_piece(file, Piece(6, len(BODY))) as body:
        store.put("chunks/b", body, checksum=sha256_sum(BODY))
    assert store.get("chunks/b") == BODY


def test_certificate_that_nobody_vouches_for_is_named(endpoint: str) -> None:
    with pytest.raises(SlipwayError, match="certificate verify failed"):
        store_at(endpoint).get("chunks/a")
