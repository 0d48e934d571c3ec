"""Files come back byte by byte, whatever is there already and whatever is wrong."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.backup.repository import make_repository, open_repository
from slipway.backup.restoring import LocalVersion, Wanted, restore
from slipway.core.backup.manifest import extents
from slipway.core.errors import InputError, PermanentError
from tests.fakes.backups import FakeBackupStore
from tests.unit.backup_house import BYTES, HONEST, PLAIN, TENSORS, House, files
from tests.unit.model_files import safetensors


@pytest.fixture(params=PLAIN)
def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    return House(tmp_path, request.param)


def test_restore_goes_on_where_the_one_before_was_killed(house: House) -> None:
    house.write("w", BYTES)
    taken = house.take()
    house.target.mkdir()
    half = bytearray(BYTES[:3_000])
    half[100] ^= 1
    (house.target / "w.part").write_bytes(half)

    done = house.restore(taken.manifest)
    assert files(house.target) == {"w": BYTES}
    assert done.kept_bytes == 4 * 512  # five whole chunks were there, one of them wrong
    assert done.fetched_bytes == len(BYTES) - done.kept_bytes
    again = house.restore(taken.manifest)
    assert (again.fetched_bytes, again.kept_bytes) == (0, len(BYTES))


def test_file_that_is_there_stays_until_the_new_one_is_whole(house: House) -> None:
    house.write("w", BYTES)
    taken = house.take()
    house.target.mkdir()
    (house.target / "w").write_bytes(b"the one before")
    chunk = next(key for key in house.store.objects if key.startswith("chunks/"))
    kept = house.store.objects.pop(chunk)

    with pytest.raises(PermanentError) as caught:
        house.restore(taken.manifest)
    assert caught.value.code == "chunk-missing"
    assert (house.target / "w").read_bytes() == b"the one before"
    house.store.objects[chunk] = kept
    house.restore(taken.manifest)
    assert files(house.target) == {"w": BYTES}


def test_flipped_bit_is_noticed_and_healed_where_a_good_copy_is(house: House) -> None:
    house.write("w", BYTES)
    taken = house.take()
    replica = FakeBackupStore(dict(house.store.objects))
    chunk = next(key for key in house.store.objects if key.startswith("chunks/"))
    bad = bytearray(house.store.objects[chunk])
    bad[-1] ^= 1
    house.store.objects[chunk] = bytes(bad)

    with pytest.raises(PermanentError) as caught:
        house.restore(taken.manifest)
    assert caught.value.code == "chunk-damaged"
    assert "w" not in files(house.target)
    restore(taken.manifest, Wanted(target=house.target), [house.store, replica], house.codec)
    assert files(house.target) == {"w": BYTES}


def test_other_local_version_is_copied_from_and_never_trusted(house: House) -> None:
    house.write("model.safetensors", safetensors(TENSORS))
    base = house.take().manifest
    old = house.folder.rename(house.folder.with_name("old"))
    house.folder.mkdir()
    house.write("model.safetensors", safetensors({**TENSORS, "blk.1.w": BYTES[4_000:]}))
    tuned = house.take().manifest

    done = house.restore(tuned, local=(LocalVersion(folder=old, manifest=base),))
    assert files(house.target) == files(house.folder)
    assert done.copied_bytes + done.fetched_bytes == done.size_bytes
    assert done.fetched_bytes == 1_000
    (old / "model.safetensors").write_bytes(b"x" * 3_000)
    house.target = house.target.with_name("elsewhere")
    done = house.restore(tuned, local=(LocalVersion(folder=old, manifest=base),))
    assert files(house.target) == files(house.folder)
    assert done.copied_bytes == 0


def test_file_that_the_disk_did_not_keep_gets_no_name_and_those_before_have_theirs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("a", BYTES[:100])
    house.write("b", BYTES[:200])
    house.write("c", BYTES)
    taken = house.take()
    real = os.fsync

    def full_at_c(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(BYTES):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_c)
    with pytest.raises(PermanentError) as caught:
        house.restore(taken.manifest)
    assert caught.value.code == "target-full"
    assert sorted(files(house.target)) == ["a", "b", "c.part"]
    monkeypatch.setattr(os, "fsync", real)
    again = house.restore(taken.manifest)
    assert (again.fetched_bytes, sorted(files(house.target))) == (0, ["a", "b", "c"])


def test_whole_file_gets_its_name_though_a_later_one_cannot_be_had(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("a", BYTES[:100])
    house.write("w", BYTES)
    taken = house.take()
    missing = str(taken.manifest.key_of(taken.manifest.chunks[-1]))
    del house.store.objects[missing]
    was_asked, real, read = threading.Event(), os.fsync, house.store.read

    def noticed(key: str) -> Iterator[memoryview]:
        if key == missing:
            was_asked.set()
        return read(key)

    def slow(descriptor: int) -> None:
        assert was_asked.wait(30)
        real(descriptor)

    monkeypatch.setattr(house.store, "read", noticed)
    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(PermanentError) as caught:
        house.restore(taken.manifest)
    assert caught.value.code == "chunk-missing"
    assert sorted(files(house.target)) == ["a", "w.part"]


def test_many_files_hold_few_descriptors(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        house.write(f"f{number:02}", bytes([number]) * (number + 1))
    taken = house.take()
    opened: list[int] = []
    real = os.fsync

    def counted(descriptor: int) -> None:
        opened.append(len(list(Path("/proc/self/fd").iterdir())))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    before = len(list(Path("/proc/self/fd").iterdir()))
    house.restore(taken.manifest)
    assert max(opened) - before < 12
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_single_files_are_restored_by_name(house: House) -> None:
    house.write("a", b"1")
    house.write("b", b"2")
    taken = house.take()

    house.restore(taken.manifest, paths=("b",))
    assert files(house.target) == {"b": b"2"}
    with pytest.raises(InputError) as caught:
        house.restore(taken.manifest, paths=("c",))
    assert caught.value.code == "path-unknown"


def test_manifest_that_was_changed_is_refused(house: House) -> None:
    house.write("w", BYTES)
    name = house.take().name
    house.store.objects[name.key] = house.store.objects[name.key].replace(b'"w"', b'"v"')

    with pytest.raises(PermanentError) as caught:
        house.repository.load(name)
    assert caught.value.code == "manifest-damaged"


def test_place_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    foreign = FakeBackupStore({"config": b"restic"})
    with pytest.raises(PermanentError) as caught:
        make_repository(foreign, "memory", at_ns=0, random_bits=0, facts=HONEST)
    assert caught.value.code == "repository-foreign"
    assert foreign.objects == {"config": b"restic"}
    with pytest.raises(PermanentError) as caught:
        open_repository(FakeBackupStore(), "memory")
    assert caught.value.code == "repository-missing"


def test_repository_is_made_once(house: House) -> None:
    again = make_repository(house.store, "memory", at_ns=9, random_bits=9, facts=HONEST)
    assert again.settings.id == house.repository.settings.id


def test_disk_error_while_reading_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.write("w", BYTES)

    def fails(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(PermanentError, match="Input/output error") as caught:
        house.take()
    assert caught.value.code == "source-unreadable"


class _Slow(FakeBackupStore):
    """One chunk is missing; the others come when that has been told."""

    def __init__(self, objects: dict[str, bytes], missing: str) -> None:
        super().__init__(objects)
        self._missing = missing
        self.told = threading.Event()

    def get(self, key: str) -> bytes:
        if key == self._missing:
            self.told.set()
            raise PermanentError(f"there is no {key}", code="object-missing", hint="")
        self.told.wait(5)
        time.sleep(0.05)  # so that the error is there first; without it the test proves less
        return super().get(key)


def test_after_an_error_nobody_writes_any_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.write("w", BYTES)
    taken = house.take()
    first = next(extents(taken.manifest, taken.manifest.files[0])).chunk
    store = _Slow(dict(house.store.objects), str(taken.manifest.key_of(first)))
    closed: set[int] = set()
    late: list[int] = []
    close, pwrite = os.close, os.pwrite

    def closes(descriptor: int) -> None:
        closed.add(descriptor)
        close(descriptor)

    def writes(descriptor: int, *rest: Any) -> int:
        late.extend({descriptor} & closed)
        return pwrite(descriptor, *rest)

    monkeypatch.setattr(os, "close", closes)
    monkeypatch.setattr(os, "pwrite", writes)
    with pytest.raises(PermanentError) as caught:
        restore(taken.manifest, Wanted(target=house.target), [store], house.codec)
    assert caught.value.code == "chunk-missing"
    assert late == []


def test_damaged_backup_before_does_not_keep_the_next_from_being_taken(house: House) -> None:
    house.write("w", BYTES)
    house.store.objects[house.take().name.key] = b"{"

    again = house.take()
    assert (again.read_bytes, again.sent_bytes) == (len(BYTES), 0)


def test_replica_that_cannot_be_listed_does_not_hide_the_next_one(house: House) -> None:
    house.write("w", BYTES)
    taken = house.take()
    good = FakeBackupStore(dict(house.store.objects))
    house.store.objects.pop(next(key for key in house.store.objects if key.startswith("chunks/")))

    class Forbidden(FakeBackupStore):
        def list(self, prefix: str) -> Any:
            raise PermanentError("no", code="object-store-refused", hint="ask")

    stores = [house.store, Forbidden(), good]
    restore(taken.manifest, Wanted(target=house.target), stores, house.codec)
    assert files(house.target) == {"w": BYTES}
