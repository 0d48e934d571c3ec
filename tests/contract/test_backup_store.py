"""What `slipway.ports.backups.BackupStore` promises, kept by a folder and by the fake."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest

from slipway.adapters.backups.folder import FolderBackupStore
from slipway.backup.source import ChangedError, open_piece, scan
from slipway.core.backup.cuts import Piece
from slipway.core.backup.sums import SumKind, sha256_sum, sum_of
from slipway.core.errors import PermanentError, SlipwayError, TransientError
from slipway.ports.backups import BackupStore, FileBody, Stored
from tests.contract.s3_servers import SERVERS, S3Server
from tests.fakes.backups import FakeBackupStore

BODY = bytes(range(256)) * 5_000


def put(store: BackupStore, key: str, body: bytes) -> None:
    store.put(key, body, checksum=sha256_sum(body))


@contextmanager
def in_file(folder: Path, piece: Piece) -> Iterator[FileBody]:
    """A piece of the only file of a folder."""
    (file,) = scan(folder)
    with open_piece(file, piece) as opened:
        yield opened


def create(store: BackupStore, key: str, body: bytes) -> bool:
    return store.create(key, body, checksum=sha256_sum(body))


_COMPARING = ("seaweedfs", "seaweedfs by boto3")
"""Servers that compare the sums of what arrives: see the table in test_backup_doctor.py."""

_HONEST = ("seaweedfs", "seaweedfs by boto3", "moto")
_DISHONEST = ("juicefs", "rclone")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], S3Server]]:
    with ExitStack() as stack:

        @cache
        def running(name: str) -> S3Server:
            folder = tmp_path_factory.mktemp(name)
            return stack.enter_context(SERVERS[name](folder))

        yield running


@pytest.fixture(params=["folder", "fake", *_HONEST, *_DISHONEST])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], S3Server]
) -> BackupStore:
    if request.param == "fake":
        return FakeBackupStore()
    if request.param == "folder":
        return FolderBackupStore(tmp_path / "made")
    server, _, way = request.param.partition(" by ")
    return servers(server).store(
        prefix=uuid.uuid4().hex, plain_boto=bool(way), sleep=lambda _: None
    )


def is_honest(request: pytest.FixtureRequest) -> bool:
    return request.node.callspec.params["store"] not in _DISHONEST


def test_bytes_come_back_whole_and_in_slices(store: BackupStore) -> None:
    put(store, "chunks/a", BODY)
    assert store.get("chunks/a") == BODY
    assert b"".join(bytes(piece) for piece in store.read("chunks/a")) == BODY
    put(store, "chunks/a", b"")
    assert store.get("chunks/a") == b""
    store.put("chunks/a", memoryview(BODY)[:3], checksum=sha256_sum(BODY[:3]))
    assert store.get("chunks/a") == BODY[:3]


@pytest.mark.parametrize("kind", SumKind)
def test_sum_of_other_bytes_is_refused_where_the_store_compares_it(
    store: BackupStore, request: pytest.FixtureRequest, kind: SumKind
) -> None:
    store.put("chunks/a", BODY, checksum=sum_of(kind, BODY))
    assert store.get("chunks/a") == BODY
    if request.node.callspec.params["store"] not in {"folder", *_COMPARING}:
        return
    with pytest.raises(SlipwayError) as caught:
        store.put("chunks/a", BODY, checksum=sum_of(kind, BODY[1:]))
    assert caught.value.code == "checksum-mismatch"
    assert store.get("chunks/a") == BODY


def test_what_lies_in_a_file_is_stored_from_there(store: BackupStore, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/w").write_bytes(b"before" + BODY + b"behind")
    with in_file(tmp_path / "model", Piece(6, len(BODY))) as body:
        store.put("chunks/a", body, checksum=sha256_sum(BODY))
    assert store.get("chunks/a") == BODY


@pytest.mark.parametrize("now", [b"x" * len(BODY), BODY[:-1], b""], ids=["other", "short", "empty"])
def test_file_that_changed_since_it_was_read_is_not_stored(
    store: BackupStore, request: pytest.FixtureRequest, tmp_path: Path, now: bytes
) -> None:
    compares = request.node.callspec.params["store"] in {"folder", "fake", *_COMPARING}
    if len(now) == len(BODY) and not compares:
        return  # there the engine sends from memory
    put(store, "chunks/a", b"what was there")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/w").write_bytes(BODY)
    with in_file(tmp_path / "model", Piece(0, len(BODY))) as body:
        (tmp_path / "model/w").write_bytes(now)
        with pytest.raises(ChangedError):
            store.put("chunks/a", body, checksum=sha256_sum(BODY))
    assert store.get("chunks/a") == b"what was there"


def test_first_to_create_a_key_is_the_only_one(
    store: BackupStore, request: pytest.FixtureRequest
) -> None:
    assert create(store, "m/1", b"one")
    assert not create(store, "m/1", b"two")
    assert store.get("m/1") == b"one"
    if not is_honest(request):
        return  # what `slipway backup doctor` finds out, and what lets only one run work there
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: create(store, "m/2", str(n).encode()), range(6)))
    assert won.count(True) == 1
    assert store.get("m/2") == str(won.index(True)).encode()


def test_keys_of_a_prefix_are_listed_with_their_sizes(store: BackupStore) -> None:
    for key in ("r/2/b", "r/10", "r/2-a", "r/2/a", "q/1"):
        put(store, key, key.encode())
    assert {item.key for item in store.list("r/2")} == {"r/2-a", "r/2/a", "r/2/b"}
    assert list(store.list("r/1")) == [Stored("r/10", 4)]
    assert len(list(store.list(""))) == 5
    assert list(store.list("nothing/")) == []


def test_what_is_removed_is_gone_and_may_be_removed_again(store: BackupStore) -> None:
    put(store, "a/b", b"1")
    put(store, "a/c", b"2")
    for _ in range(2):
        store.delete(["a/b", "nowhere/x"])
    assert [item.key for item in store.list("")] == ["a/c"]
    with pytest.raises(PermanentError) as caught:
        store.get("a/b")
    assert caught.value.code == "object-missing"
    assert create(store, "a/b", b"again")


def test_any_name_of_a_model_makes_a_key(store: BackupStore) -> None:
    keys = [f"manifests/{quote(name, safe='')}/x.json" for name in ("a/b", "ä b", "c+d~", "%2F")]
    for key in keys:
        put(store, key, key.encode())
    assert {item.key for item in store.list("manifests/")} == set(keys)
    assert [store.get(key).decode() for key in keys] == keys


def test_list_goes_over_many_pages(store: BackupStore, request: pytest.FixtureRequest) -> None:
    # rclone takes eight writes a second, juicefs fifty; boto3's way lists by the same code.
    is_slow = request.node.callspec.params["store"] in {"rclone", "juicefs", "seaweedfs by boto3"}
    keys = {f"chunks/{number:04}" for number in range(20 if is_slow else 1_100)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put(store, key, b""), keys))
    assert {item.key for item in store.list("chunks/")} == keys
    store.delete(sorted(keys))
    assert list(store.list("chunks/")) == []


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> FolderBackupStore:
        return FolderBackupStore(tmp_path / "made")

    def test_missing_key_is_missing_in_slices_too(self, folder: FolderBackupStore) -> None:
        with pytest.raises(PermanentError) as caught:
            list(folder.read("x"))
        assert caught.value.code == "object-missing"

    @pytest.mark.parametrize("key", ["../x", "/x", "a//b", "a/./b", ".part-1", ""])
    def test_key_that_leads_out_of_the_folder_is_refused(
        self, folder: FolderBackupStore, key: str
    ) -> None:
        with pytest.raises(PermanentError) as caught:
            put(folder, key, b"")
        assert caught.value.code == "object-store-refused"

    def test_bytes_that_are_not_those_stated_are_not_stored(
        self, folder: FolderBackupStore
    ) -> None:
        with pytest.raises(PermanentError) as caught:
            folder.put("x", b"1", checksum=sha256_sum(b"2"))
        assert caught.value.code == "checksum-mismatch"
        assert list(folder.list("")) == []

    def test_what_a_killed_writer_left_is_not_listed(self, folder: FolderBackupStore) -> None:
        put(folder, "a/b", b"1")
        (folder.root / "a" / ".part-123").write_bytes(b"half")
        assert [item.key for item in folder.list("a/")] == ["a/b"]

    @pytest.mark.parametrize(
        ("number", "kind", "code"),
        [
            (errno.ENOSPC, PermanentError, "object-store-full"),
            (errno.EIO, TransientError, "object-store-busy"),
            (errno.EROFS, PermanentError, "object-store-refused"),
        ],
    )
    def test_failure_of_the_disk_has_its_name_and_leaves_nothing(
        self,
        folder: FolderBackupStore,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        kind: type[SlipwayError],
        code: str,
    ) -> None:
        def fails(_: int) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            with pytest.raises(kind, match=os.strerror(number)) as caught:
                put(folder, "a/b", BODY)
        assert caught.value.code == code
        assert not [path for path in folder.root.rglob("*") if path.is_file()]

    def test_folder_that_cannot_be_listed_is_an_error(
        self, folder: FolderBackupStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(folder, "a/b", b"1")

        def fails(_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "scandir", fails)
        with pytest.raises(PermanentError, match="may not list"):
            list(folder.list(""))


def test_tidying_leaves_every_object_alone(store: BackupStore) -> None:
    put(store, "chunks/a", BODY)
    store.tidy()
    store.tidy()
    assert [item.key for item in store.list("")] == ["chunks/a"]


def test_what_a_killed_writer_left_goes_after_a_day_and_not_before(tmp_path: Path) -> None:
    store = FolderBackupStore(tmp_path / "made")
    put(store, "chunks/a", BODY)
    old, young = (tmp_path / f"made/chunks/.part-{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    two_days_ago_s = path.stat().st_mtime - 2 * 86_400
    os.utime(old, (two_days_ago_s, two_days_ago_s))
    store.tidy()
    assert (old.exists(), young.exists()) == (False, True)
    assert [item.key for item in store.list("")] == ["chunks/a"]
