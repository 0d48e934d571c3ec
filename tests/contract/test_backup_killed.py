"""A backup that is killed at any request: nothing half is listed, nothing is sent twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.backup.codec import PlainCodec
from slipway.backup.repository import Repository, make_repository
from slipway.backup.restoring import Wanted, restore
from slipway.backup.values import with_sum
from slipway.core.backup import names, settings
from slipway.core.backup.sums import sha256_sum
from tests.contract.s3_fault_proxy import Proxy, Wrong
from tests.contract.s3_servers import BUCKET, REGION, S3Server
from tests.unit.backup_house import HONEST, files

_POINTS = 50 if os.environ.get("SLIPWAY_SOAK") else 2
_CHUNK_BYTES = 64 << 10
_CHUNKS = 40
_THREADS = 4
_BYTES = random.Random(9).randbytes(_CHUNK_BYTES * _CHUNKS)


def repository_at(server: S3Server, prefix: str) -> Repository:
    store = server.store(prefix=prefix)
    made = make_repository(store, prefix, at_ns=0, random_bits=1, facts=HONEST)
    small = replace(made.settings, cuts=replace(made.settings.cuts, chunk_bytes=_CHUNK_BYTES))
    body = with_sum(settings.to_storage(small))
    store.put(names.REPOSITORY, body, checksum=sha256_sum(body))
    return Repository(store, small, prefix)


def take(server: S3Server, proxy: Proxy, prefix: str, model: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        (sys.executable, "-m", "slipway.cli", "backup", "take", str(model), "--model", "chat"),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(model),
            "AWS_ENDPOINT_URL": proxy.endpoint,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SLIPWAY_BACKUP_REPOSITORY": f"s3://{BUCKET}/{prefix}",
            "SLIPWAY_BACKUP_THREADS": str(_THREADS),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def is_chunk(method: str, path: str) -> bool:
    return method == "PUT" and "/chunks/" in path


@pytest.mark.parametrize("seed", range(_POINTS))
def test_next_run_sends_what_is_missing_and_no_more(
    server: S3Server, proxy: Proxy, tmp_path: Path, seed: int
) -> None:
    prefix, rng = tmp_path.name, random.Random(seed)
    found = repository_at(server, prefix)
    model = tmp_path / "model"
    model.mkdir()
    (model / "w").write_bytes(_BYTES)
    # Of some sixty requests; the last ones are the second look, the manifest and its sum.
    left = [rng.randrange(1, _CHUNKS + 12)]
    is_done = rng.random() < 0.5
    started: list[subprocess.Popen[bytes]] = []

    def dies(_method: str, _path: str) -> Wrong | None:
        left[0] -= 1
        if left[0] > 0:
            return None
        started[0].kill()
        return Wrong.RESET_AFTERWARDS if is_done else Wrong.RESET

    proxy.plan = dies
    with take(server, proxy, prefix, model) as process:
        started.append(process)
        process.wait(60)
        errors = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode == -9, errors
    stored = set(found.stored_chunks())
    listed = found.manifests()
    assert len(stored) <= _CHUNKS
    assert all(found.load(name).chunk_keys() <= stored for name in listed)

    requests = len(proxy.requests)
    proxy.plan = lambda _method, _path: None
    with take(server, proxy, prefix, model) as process:
        process.wait(60)
        assert process.returncode == 0, process.stderr.read().decode() if process.stderr else ""
    sent = sum(is_chunk(method, path) for method, path, _ in proxy.requests[requests:])
    assert sent == _CHUNKS - len(stored)
    names_now = found.manifests()
    assert len(names_now) == len(listed) + 1
    manifest = found.load(names_now[-1])
    assert set(found.stored_chunks()) == manifest.chunk_keys()
    restore(manifest, Wanted(target=tmp_path / "restored"), [found.store], PlainCodec())
    assert files(tmp_path / "restored") == {"w": _BYTES}
