"""A folder is backed up and comes back: files of every kind, changes, holes, bad chunks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.backup.source import OpenPiece
from slipway.core.backup.settings import StoreFacts
from slipway.core.backup.sums import Sum
from slipway.core.errors import ConflictError, InputError, TransientError
from slipway.ports.backups import Body
from tests.fakes.backups import FakeBackupStore
from tests.unit.backup_house import BYTES, HONEST, PLAIN, TENSORS, House, files
from tests.unit.model_files import safetensors


@pytest.fixture(params=PLAIN)
def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    return House(tmp_path, request.param)


def test_files_come_back_as_they_were(house: House) -> None:
    house.write("model.safetensors", safetensors(TENSORS)).chmod(0o640)
    house.write("deep/er/config.json", b"{}")
    house.write("empty", b"")
    os.utime(house.folder / "empty", ns=(5, 7))
    odd = os.fsdecode(b"odd-\xff\n.bin")
    house.write(odd, BYTES)

    taken = house.take(checksums={"empty": "e3b0"}, tags=("gold",))
    house.restore(house.repository.load(taken.name))

    assert files(house.target) == files(house.folder)
    assert (house.target / "model.safetensors").stat().st_mode & 0o777 == 0o640
    assert (house.target / "empty").stat().st_mtime_ns == 7
    assert taken.manifest.tags == ("gold",)
    assert {entry.path: entry.sha256 for entry in taken.manifest.files}["empty"] == "e3b0"
    assert house.repository.runs() == []


def test_second_backup_of_unchanged_files_reads_and_sends_nothing(house: House) -> None:
    house.write("model.safetensors", safetensors(TENSORS))
    first, second = house.take(), house.take()

    assert first.sent_bytes == first.read_bytes > 4_000
    assert (second.read_bytes, second.sent_bytes, second.sent_chunks) == (0, 0, 0)
    assert second.manifest.files == first.manifest.files
    by_hash = house.take(reads_all=True)
    assert (by_hash.read_bytes, by_hash.sent_bytes) == (first.read_bytes, 0)
    assert len(house.repository.manifests("chat")) == 3


def test_only_the_tensors_that_changed_are_sent(house: House) -> None:
    house.write("model.safetensors", safetensors(TENSORS))
    house.take()
    house.write("model.safetensors", safetensors({**TENSORS, "blk.2.w": BYTES[4_000:]}))

    assert house.take().sent_bytes == 1_000


@pytest.mark.parametrize("step_ns", [-(10**9), 10**9])
def test_same_size_and_another_time_is_read(house: House, step_ns: int) -> None:
    file = house.write("w", b"a" * 100)
    house.take()
    before = file.stat()
    file.write_bytes(b"b" * 100)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + step_ns))

    assert house.take().sent_bytes == 100


def test_same_size_and_time_is_told_by_the_kernels_own_account(house: House) -> None:
    file = house.write("w", b"a" * 100)
    house.take()
    before = file.stat()
    file.write_bytes(b"b" * 100)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert house.take().sent_bytes == 100


def test_links_are_followed_and_loops_named(house: House) -> None:
    blob = house.write("blobs/x", BYTES)
    (house.folder / "model.bin").symlink_to(blob)
    taken = house.take()
    assert [entry.path for entry in taken.manifest.files] == ["blobs/x", "model.bin"]
    assert taken.sent_bytes == len(BYTES)

    (house.folder / "blobs" / "up").symlink_to(house.folder)
    with pytest.raises(InputError) as caught:
        house.take()
    assert caught.value.code == "source-loop"


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _dangling(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "nowhere")


def _itself(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "link")


def _removed(folder: Path) -> None:
    folder.rmdir()


def _a_file(folder: Path) -> None:
    folder.rmdir()
    folder.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_fifo, "source-special"),
        (_dangling, "source-dangling"),
        (_itself, "source-loop"),
        (_removed, "source-missing"),
        (_a_file, "source-missing"),
        (lambda _: None, "source-empty"),
    ],
)
def test_folder_that_is_no_version_is_refused_and_nothing_is_kept(
    house: House, spoil: Callable[[Path], None], code: str
) -> None:
    spoil(house.folder)
    with pytest.raises(InputError) as caught:
        house.take()
    assert caught.value.code == code
    assert house.repository.manifests() == []
    assert house.repository.runs() == []


def test_holes_stay_holes(house: House) -> None:
    with (house.folder / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(2 << 20)
    taken = house.take()
    house.restore(taken.manifest)

    assert files(house.target) == files(house.folder)
    assert taken.read_bytes < 64 << 10
    assert (house.target / "sparse").stat().st_blocks * 512 < 64 << 10


def test_hole_that_holds_something_is_emptied(house: House) -> None:
    with (house.folder / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(2 << 20)
    taken = house.take()
    house.target.mkdir()
    (house.target / "sparse.part").write_bytes(b"left by somebody" * 4_096)
    house.restore(taken.manifest)
    assert files(house.target) == files(house.folder)

    spoiled = bytearray((house.target / "sparse").read_bytes())
    spoiled[5] = 1
    (house.target / "sparse").write_bytes(spoiled)
    house.restore(taken.manifest)
    assert files(house.target) == files(house.folder)


class _Disturbing(FakeBackupStore):
    """Something happens to the source while the first chunks are sent."""

    def __init__(self, disturb: Callable[[int], object], **options: Any) -> None:
        super().__init__(**options)
        self._disturb = disturb
        self._chunks = 0

    def put(self, key: str, body: Body, *, checksum: Sum) -> None:
        if key.startswith("chunks/"):
            self._chunks += 1
            self._disturb(self._chunks)
        super().put(key, body, checksum=checksum)


def disturbed(house: House, disturb: Callable[[int], object]) -> None:
    store = _Disturbing(disturb, objects=house.store.objects)
    house.repository = replace(house.repository, store=store)
    house.threads = 1


def test_file_that_changes_once_while_it_is_read_is_read_again(house: House) -> None:
    file = house.write("w", b"a" * 2_000)
    disturbed(house, lambda count: file.write_bytes(b"b" * 3_000) if count == 1 else None)

    taken = house.take()
    house.restore(taken.manifest)
    assert files(house.target) == {"w": b"b" * 3_000}


def test_file_that_goes_or_shrinks_meanwhile_is_as_it_is_at_the_end(house: House) -> None:
    house.write("a", BYTES[:600])
    gone, shrinks = house.write("b", b"b" * 900), house.write("c", BYTES[:2_000])

    def disturb(count: int) -> None:
        if count == 1:
            gone.unlink()
            shrinks.write_bytes(b"short")

    disturbed(house, disturb)
    taken = house.take()
    house.restore(taken.manifest)
    assert files(house.target) == {"a": BYTES[:600], "c": b"short"}


class _Noting(FakeBackupStore):
    """Notes where the bodies of chunks came from."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.from_files: set[bool] = set()

    def put(self, key: str, body: Body, *, checksum: Sum) -> None:
        if key.startswith("chunks/"):
            self.from_files.add(isinstance(body, OpenPiece))
        super().put(key, body, checksum=checksum)


@pytest.mark.parametrize("facts", [HONEST, StoreFacts()], ids=["compares", "does not"])
def test_chunk_is_sent_from_its_file_only_if_the_store_compares_what_arrives(
    house: House, facts: StoreFacts
) -> None:
    store = _Noting(objects=house.store.objects)
    settings = replace(house.repository.settings, store=facts)
    house.repository = replace(house.repository, store=store, settings=settings)
    house.write("w", BYTES)
    house.take()
    assert store.from_files == {facts is HONEST}


class _ChangingWhatIsSent(FakeBackupStore):
    """The first file that a chunk is sent from changes once another relies on that chunk."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.relied_on = threading.Event()
        self._begun = False

    def put(self, key: str, body: Body, *, checksum: Sum) -> None:
        if key.startswith("chunks/") and not self._begun:
            self._begun = True
            assert self.relied_on.wait(30)
            assert isinstance(body, OpenPiece)
            body.source.place.write_bytes(BYTES[1_000:1_400])
        super().put(key, body, checksum=checksum)


def test_chunk_whose_file_changed_before_it_was_sent_is_named_by_nobody(house: House) -> None:
    house.write("a", BYTES[:400])
    house.write("b", BYTES[:400])
    store = _ChangingWhatIsSent(objects=house.store.objects)
    house.repository = replace(house.repository, store=store)
    house.progress = lambda _read, _sent: store.relied_on.set()
    taken = house.take()
    house.restore(taken.manifest)
    assert files(house.target) == files(house.folder)
    assert set(files(house.target).values()) == {BYTES[:400], BYTES[1_000:1_400]}


def test_files_that_never_rest_are_no_backup(house: House) -> None:
    file = house.write("w", b"a" * 2_000)
    disturbed(house, lambda count: file.write_bytes(os.urandom(2_000)))

    with pytest.raises(InputError, match="w") as caught:
        house.take()
    assert caught.value.code == "source-unstable"
    assert house.repository.manifests() == []


def test_run_that_a_removal_has_ended_commits_nothing(house: House) -> None:
    house.write("w", BYTES)

    def end_it(count: int) -> None:
        if count == 1:
            assert house.repository.end(house.repository.runs()[0])

    disturbed(house, end_it)
    with pytest.raises(ConflictError) as caught:
        house.take()
    assert caught.value.code == "run-ended"
    assert house.repository.manifests() == []


def test_chunks_that_vanish_while_they_are_relied_on_are_noticed(house: House) -> None:
    house.write("a", BYTES[:400])
    house.take()
    house.write("b", BYTES[400:])

    def vanish(count: int) -> None:
        if count == 1:
            key = next(key for key in house.store.objects if key.startswith("chunks/"))
            house.store.delete([key])

    disturbed(house, vanish)
    with pytest.raises(TransientError) as caught:
        house.take()
    assert caught.value.code == "chunks-vanished"
    disturbed(house, lambda _: None)
    house.restore(house.take().manifest)
    assert files(house.target) == files(house.folder)
