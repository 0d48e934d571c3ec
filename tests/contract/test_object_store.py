"""What `slipway.ports.ObjectStore` promises, kept by S3 (a real SeaweedFS) and by the fake."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from slipway.adapters.s3 import S3ObjectStore
from slipway.core.errors import PermanentError, TransientError
from slipway.ports.models import ObjectStore
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.parts import s3
from tests.contract.running_parts import object_store
from tests.fakes.journal import Journal
from tests.fakes.stores import FakeObjectStore


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxHome]:
    with object_store(tmp_path_factory.mktemp("s3")) as home:
        s3.set_up(home)  # twice equals once
        yield home


def s3_store(home: SandboxHome, prefix: str = "") -> S3ObjectStore:
    return S3ObjectStore(
        bucket=s3.EVIDENCE_BUCKET,
        endpoint=s3.endpoint(home),
        prefix=prefix,
        access_key=s3.ACCESS_KEY,
        secret_key=home.secret("s3-secret-key"),
        region=s3.REGION,
    )


def test_sockets_of_the_server_are_cleared_and_those_of_others_avoided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_store(tmp_path) as home:
        port = home.port("s3-master-grpc")
        (socket,) = Path("/tmp").glob(f"seaweedfs-*-{port}.sock")  # it has no option for it
        with monkeypatch.context() as patch:
            patch.setattr(os, "getuid", lambda: -1)  # as another user, who may not remove it
            s3.clear(home)
            assert socket.exists()
            remembered = (home.root / "ports.json").read_text()
            s3.prepare(home)
            assert home.port("s3-master-grpc") != port
            (home.root / "ports.json").write_text(remembered)
    s3.clear(home)  # twice equals once
    ports = home.remembered_ports().values()
    assert not [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*{port}.sock")]


@pytest.fixture(params=["s3", "fake"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "fake":
        return FakeObjectStore(Journal())
    return s3_store(request.getfixturevalue("home"), prefix=f"suite/{id(request)}")


def test_bytes_that_were_put_come_back_with_their_sha256(store: ObjectStore) -> None:
    body = bytes(range(256)) * 300
    assert store.put("a/b.bin", body, content_type="application/octet-stream") == (
        hashlib.sha256(body).hexdigest()
    )
    assert store.get("a/b.bin") == body


def test_a_repeated_put_replaces_and_an_empty_body_is_kept(store: ObjectStore) -> None:
    store.put("key", b"first", content_type="text/plain")
    store.put("key", b"", content_type="text/plain")
    assert store.get("key") == b""
    assert store.list("") == ["key"]


def test_a_missing_key_is_refused_by_name(store: ObjectStore) -> None:
    with pytest.raises(PermanentError, match="nowhere/at-all") as caught:
        store.get("nowhere/at-all")
    assert caught.value.code == "object-missing"


def test_list_gives_the_keys_of_a_prefix_sorted(store: ObjectStore) -> None:
    for key in ("r/2/b", "r/10/a", "r/2/a", "q/1"):
        store.put(key, b"x", content_type="text/plain")
    assert list(store.list("r/2/")) == ["r/2/a", "r/2/b"]
    assert list(store.list("r/")) == ["r/10/a", "r/2/a", "r/2/b"]
    assert list(store.list("nothing/")) == []


def test_a_key_has_a_place_a_person_can_name(store: ObjectStore) -> None:
    assert store.url("reports/a b.html").endswith(("reports/a%20b.html", "reports/a b.html"))


def test_more_keys_than_one_page_are_all_listed(home: SandboxHome) -> None:
    store = s3_store(home, prefix="pages")
    # The server's page is 1000 keys; asking for pages of 7 keeps the test short.
    client = store._client
    pages = client.get_paginator
    for number in range(20):
        store.put(f"{number:04}", b"", content_type="text/plain")
    client.get_paginator = lambda name: _SmallPages(pages(name))
    try:
        assert list(store.list("")) == [f"{number:04}" for number in range(20)]
    finally:
        client.get_paginator = pages


@dataclass
class _SmallPages:
    paginator: object

    def paginate(self, **arguments: object) -> object:
        return self.paginator.paginate(**arguments, PaginationConfig={"PageSize": 7})  # type: ignore[attr-defined]  # botocore makes it at run time


def test_a_wrong_secret_is_refused_and_not_repeated(home: SandboxHome) -> None:
    wrong = replace(s3_store(home), secret_key="0" * 64)
    with pytest.raises(PermanentError) as caught:
        wrong.put("x", b"x", content_type="text/plain")
    assert caught.value.code == "object-store-credentials"


def test_a_request_without_a_signature_gets_nothing(home: SandboxHome) -> None:
    s3_store(home).put("secret", b"x", content_type="text/plain")
    with httpx.Client(trust_env=False) as client:
        answer = client.get(f"{s3.endpoint(home)}/{s3.EVIDENCE_BUCKET}/secret")
    assert answer.status_code == httpx.codes.FORBIDDEN


def test_bytes_that_do_not_match_their_checksum_are_refused(home: SandboxHome) -> None:
    from botocore.exceptions import ClientError

    store = s3_store(home)
    with pytest.raises(ClientError, match="BadDigest"):
        store._client.put_object(
            Bucket=store.bucket, Key="x", Body=b"x", ChecksumSHA256="A" * 43 + "="
        )


def test_a_store_that_is_not_there_may_be_asked_again(tmp_path: Path) -> None:
    home = SandboxHome(tmp_path)
    home.create()
    with pytest.raises(TransientError) as caught:
        s3_store(home).get("x")
    assert caught.value.code == "object-store-unreachable"


def test_a_missing_bucket_is_refused(home: SandboxHome) -> None:
    store = replace(s3_store(home), bucket="never-made")
    with pytest.raises(PermanentError):
        store.list("")


def test_the_identities_file_is_only_for_its_owner(home: SandboxHome) -> None:
    path = home.config("s3") / "identities.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_everything_listens_on_loopback_alone(home: SandboxHome) -> None:
    ports = {name: home.port(name) for name in ("s3", "s3-master", "s3-volume", "s3-filer")}
    listening = _listening_addresses()
    for name, port in ports.items():
        assert listening.get(port) == {"0100007F"}, name


def _listening_addresses() -> dict[int, set[str]]:
    """Return port → local addresses (hex) of all listening TCP sockets (proc(5), net/tcp)."""
    found: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):  # noqa: PTH110  # a kernel without IPv6 has no such file
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A":
                found.setdefault(int(port, 16), set()).add(address)
    return found
