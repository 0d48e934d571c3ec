"""Backups on a real S3 server, through a proxy that does wrong: right in the end, or refused."""

from __future__ import annotations

import datetime as dt
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import botocore.auth
import pytest

from slipway.adapters.backups.s3 import S3BackupStore
from slipway.backup.codec import PlainCodec
from slipway.backup.repository import Repository, make_repository
from slipway.backup.restoring import Wanted, restore
from slipway.backup.taking import Order, Surroundings, take
from slipway.cli import exit_codes
from slipway.core.backup.manifest import Origin
from slipway.core.backup.settings import Algorithm, StoreFacts
from slipway.core.errors import PermanentError, SlipwayError
from tests.contract.s3_fault_proxy import Proxy, Wrong
from tests.contract.s3_servers import BUCKET, S3Server
from tests.unit.backup_house import HONEST, PLAIN, House, files

PASSING = (
    Wrong.BUSY,
    Wrong.TOO_MANY,
    Wrong.BROKEN,
    Wrong.RESET,
    Wrong.RESET_AFTERWARDS,
    Wrong.FLIPPED_UP,
    Wrong.FLIPPED_DOWN,
    Wrong.OTHER_BODY,
    Wrong.CUT,
    Wrong.GOOD_WITH_ERROR,
)
_SOAK = bool(os.environ.get("SLIPWAY_SOAK"))
_RUNS = 100 if _SOAK else 5
_SPARSE_BYTES = 60_000_000_000 if _SOAK else 2_000_000_000
BYTES = random.Random(3).randbytes(64 * 1_024)


class FarHouse(House):
    """A house whose repository is on the server, and reached through the proxy."""

    def __init__(self, folder: Path, server: S3Server, proxy: Proxy, algorithm: Algorithm) -> None:
        super().__init__(folder, algorithm)
        proxy.plan = lambda _method, _path: None
        through = replace(server, endpoint=proxy.endpoint)
        self.far: S3BackupStore = through.store(prefix=folder.name, sleep=lambda _: None)
        small = replace(self.repository.settings.cuts, chunk_bytes=4_096)
        made = make_repository(
            self.far, "far", at_ns=0, random_bits=1, facts=HONEST, algorithm=algorithm
        )
        self.repository = Repository(self.far, replace(made.settings, cuts=small), "far")

    def restored(self, manifest: Any) -> dict[str, bytes]:
        restore(manifest, Wanted(target=self.target), [self.far], self.codec)
        return files(self.target)


@pytest.fixture
def house(tmp_path: Path, server: S3Server, proxy: Proxy, request: pytest.FixtureRequest) -> House:
    return FarHouse(tmp_path, server, proxy, getattr(request, "param", Algorithm.SHA256))


of_each_hash = pytest.mark.parametrize("house", PLAIN, indirect=True)


@of_each_hash
@pytest.mark.parametrize("kind", [*PASSING, Wrong.SLOW])
def test_passing_fault_of_each_kind_changes_nothing(
    house: FarHouse, proxy: Proxy, kind: Wrong
) -> None:
    house.write("w", BYTES)
    proxy.once(kind, method="PUT", part="chunks", times=2)
    taken = house.take()
    proxy.once(kind, method="PUT", part="manifests")
    house.write("x", b"second")
    again = house.take()
    proxy.once(kind, method="GET", part="chunks", times=2)
    assert house.restored(taken.manifest) == {"w": BYTES}
    proxy.once(kind, method="GET", part="list-type", times=2)
    assert {item.writer for item in house.repository.manifests()} == {
        taken.name.writer,
        again.name.writer,
    }


@pytest.mark.parametrize("seed", range(_RUNS))
def test_one_request_in_ten_goes_wrong_and_all_is_right(
    house: FarHouse, proxy: Proxy, seed: int
) -> None:
    house.write("w", random.Random(seed).randbytes(400_000))
    before = proxy.up_bytes
    proxy.sometimes(0.1, PASSING, seed)
    taken = house.take()
    sent = proxy.up_bytes - before
    assert house.restored(taken.manifest) == files(house.folder)
    assert sent <= 1.12 * 400_000


@of_each_hash
def test_bit_that_flips_each_time_is_refused_and_nothing_gets_its_name(
    house: FarHouse, proxy: Proxy
) -> None:
    house.write("w", BYTES)
    taken = house.take()
    proxy.once(Wrong.FLIPPED_DOWN, method="GET", part="chunks", times=10**6)
    with pytest.raises(PermanentError) as caught:
        house.restored(taken.manifest)
    assert caught.value.code == "chunk-damaged"
    assert "w" not in files(house.target)
    proxy.once(Wrong.FLIPPED_UP, method="PUT", part="chunks", times=10**6)
    house.write("v", BYTES[::-1])
    with pytest.raises(SlipwayError) as refused:
        house.take()
    assert refused.value.code == "checksum-mismatch"
    assert house.repository.manifests() == [taken.name]


def test_store_that_checks_nothing_is_read_back(house: FarHouse, proxy: Proxy) -> None:
    unchecked = replace(house.repository.settings, store=StoreFacts(conditional_writes=True))
    house.repository = replace(house.repository, settings=unchecked)
    house.write("w", BYTES)
    house.take()
    read = [path for method, path, _ in proxy.requests if method == "GET" and "chunks/" in path]
    assert len({path for path in read if house.far.prefix in path}) == 16


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Wrong.SKEWED, "object-store-clock"),
        (Wrong.NO_BUCKET, "bucket-missing"),
        (Wrong.FULL, "object-store-full"),
        (Wrong.EXPIRED, "object-store-credentials"),
        (Wrong.BROKEN, "object-store-busy"),
    ],
)
def test_fault_that_stays_has_its_name_and_the_next_run_goes_on(
    house: FarHouse, proxy: Proxy, kind: Wrong, code: str
) -> None:
    house.write("w", BYTES)
    house.threads = 1
    seen = [0]

    def plan(method: str, path: str) -> Wrong | None:
        seen[0] += method == "PUT" and "chunks" in path
        return kind if seen[0] > 8 and method == "PUT" and "chunks" in path else None

    proxy.plan = plan
    with pytest.raises(SlipwayError) as caught:
        house.take()
    assert caught.value.code == code
    assert caught.value.hint
    proxy.plan = lambda _method, _path: None
    assert house.repository.manifests() == []
    again = house.take()
    assert again.sent_chunks == 8
    assert house.restored(again.manifest) == {"w": BYTES}


def test_clock_that_is_twenty_minutes_off_is_named_by_the_server_itself(
    house: FarHouse, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("w", BYTES)
    real = botocore.auth.get_current_datetime
    late = dt.timedelta(minutes=20)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: real() + late)
    with pytest.raises(PermanentError) as caught:
        house.take()
    assert caught.value.code == "object-store-clock"
    assert "NTP" in caught.value.hint


def test_disk_that_is_full_is_named_and_the_next_restore_goes_on(
    house: FarHouse, server: S3Server, tmp_path: Path
) -> None:
    house.write("a", BYTES[:5_000])
    house.write("w", random.Random(5).randbytes(300_000))
    taken = house.take()
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }
    place = f"s3://{BUCKET}/{house.far.prefix}"
    command = f"backup restore {taken.name} {house.target} --repository {place}"
    slipway = f"{sys.executable} -m slipway.cli {command}"
    # No file may have more than 100 blocks of 1 KiB, as on a disk with no more room.
    full = subprocess.run(
        ("bash", "-c", f"ulimit -f 100; {slipway}"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == exit_codes.PERMANENT, full.stderr
    assert "target-full" in full.stderr
    assert "w" not in files(house.target)
    assert house.restored(taken.manifest) == files(house.folder)


def test_large_sparse_file_sends_its_data_alone_and_comes_back_with_its_holes(
    tmp_path: Path, server: S3Server
) -> None:
    folder, target = tmp_path / "model", tmp_path / "restored"
    folder.mkdir()
    size = _SPARSE_BYTES
    data = random.Random(6).randbytes(3 << 20)
    with (folder / "disk.img").open("wb") as file:
        for at in (0, size // 2 + 12_345, size - len(data)):
            file.seek(at)
            file.write(data)
    far = server.store(prefix=tmp_path.name)
    repository = make_repository(far, "far", at_ns=0, random_bits=1, facts=HONEST)
    order = Order(model="m", folder=folder, origin=Origin(place="here", tool="a test"))
    around = Surroundings(now_ns=time.time_ns, random_bits=lambda: random.getrandbits(80))
    taken = take(repository, PlainCodec(), order, around)
    assert taken.manifest.size_bytes == size
    assert taken.sent_bytes <= 5 * (16 << 20)
    restore(taken.manifest, Wanted(target=target), [far], PlainCodec())
    restored = (target / "disk.img").stat()
    assert restored.st_size == size
    assert restored.st_blocks * 512 <= 5 * (16 << 20)
    with (target / "disk.img").open("rb") as file:
        for at in (0, size // 2 + 12_345, size - len(data)):
            file.seek(at)
            assert file.read(len(data)) == data


def test_credentials_that_were_renewed_meanwhile_are_read_again(
    house: FarHouse, proxy: Proxy
) -> None:
    house.write("w", BYTES)
    proxy.once(Wrong.EXPIRED, method="PUT", part="chunks")
    taken = house.take()
    assert house.restored(taken.manifest) == {"w": BYTES}


@pytest.mark.parametrize("kind", [Wrong.RESET_AFTERWARDS, Wrong.BUSY])
def test_answer_that_was_lost_does_not_lose_the_commit(
    house: FarHouse, proxy: Proxy, kind: Wrong
) -> None:
    house.write("w", BYTES)
    proxy.once(kind, method="PUT", part="manifests")
    name = house.take().name
    assert house.repository.manifests() == [name]
