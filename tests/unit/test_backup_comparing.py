"""Differences by tensor, files of a backup without restoring them, and copies elsewhere."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.backup.comparing import Change, compare
from slipway.backup.fetching import Fetcher
from slipway.backup.pacing import limited
from slipway.backup.replicating import Replicated, lag_s, replicate
from slipway.backup.repository import Hold, Repository
from slipway.backup.retaining import plan_prune
from slipway.backup.stored_file import StoredFile
from slipway.backup.verifying import verify
from slipway.core.backup.retention import Policy
from slipway.core.backup.settings import Algorithm, RepositorySettings
from slipway.core.errors import InputError
from tests.fakes.backups import FakeBackupStore
from tests.unit.backup_house import BYTES, PLAIN, TENSORS, House, files, other_repository
from tests.unit.model_files import safetensors


@pytest.fixture(params=PLAIN)
def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    return House(tmp_path, request.param)


def changes(house: House, before: object, after: object) -> tuple[dict[str, str], int]:
    fetcher = Fetcher([house.store], house.codec)
    found, new_bytes = compare(before, after, fetcher)  # type: ignore[arg-type]
    return {item.tensor or item.path: item.change.value for item in found}, new_bytes


def test_what_changed_is_told_by_tensor_also_where_it_moved(house: House) -> None:
    house.write("one.safetensors", safetensors(TENSORS))
    house.write("config.json", b"{}")
    before = house.take().manifest
    tuned = {**TENSORS, "blk.1.w": BYTES[4_000:], "new": b"12345678"}
    gone = tuned.pop("blk.3.w")
    house.write("two.safetensors", safetensors(tuned))
    (house.folder / "one.safetensors").unlink()
    after = house.take().manifest

    found, new_bytes = changes(house, before, after)
    assert found == {
        "config.json": "same",
        "one.safetensors": "removed",
        "two.safetensors": "added",
        "blk.0.w": "same",
        "blk.1.w": "changed",
        "blk.2.w": "same",
        "blk.3.w": "removed",
        "new": "added",
    }
    assert len(gone) <= new_bytes < 2 * len(gone)


def test_small_tensors_in_one_chunk_are_told_apart(house: House) -> None:
    small = {f"blk.0.{n}": bytes([n]) * 16 for n in range(4)}
    house.write("w.safetensors", safetensors(small))
    before = house.take().manifest
    house.write("w.safetensors", safetensors({**small, "blk.0.2": b"x" * 16}))
    after = house.take().manifest
    found, _ = changes(house, before, after)
    assert found == {
        "w.safetensors": "changed",
        **dict.fromkeys(small, Change.SAME.value),
        "blk.0.2": "changed",
    }


def test_stored_file_reads_as_the_file_with_its_holes(house: House) -> None:
    path = house.write("sparse", b"")
    with path.open("r+b") as file:
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(BYTES)
    manifest = house.take().manifest
    assert manifest.files[0].holes
    fetcher = Fetcher([house.store], house.codec)
    stored = io.BufferedReader(StoredFile(manifest, manifest.files[0], fetcher))
    assert stored.read() == path.read_bytes()
    stored.seek(-10, io.SEEK_END)
    assert stored.read(100) == bytes(10)
    stored.seek((512 << 10) - 3)
    assert stored.read(10) == bytes(3) + BYTES[:7]


def replicated(house: House, replica: Repository) -> Replicated:
    return replicate(house.repository, replica, house.codec, house.surroundings())


def test_replica_gets_what_it_lacks_and_stands_alone(house: House) -> None:
    replica = other_repository(house)
    house.write("w", BYTES)
    first = house.take().name
    assert replicated(house, replica).copied == (first,)
    house.write("v", BYTES[:512])
    second = house.take().name
    lagging = lag_s(house.repository, replica)
    assert lagging == {"chat": second_s(second) - second_s(first)}
    done = replicated(house, replica)
    assert (done.copied, done.sent_bytes, done.lag_s) == ((second,), 0, {"chat": 0.0})
    assert replicated(house, replica).copied == ()

    house.store.objects.clear()
    house.store.objects.update(replica.store.objects)  # type: ignore[attr-defined]
    newest = replica.manifests()[-1]
    house.restore(replica.load(newest))
    assert files(house.target) == {"w": BYTES, "v": BYTES[:512]}


def second_s(name: object) -> float:
    text = name.taken  # type: ignore[attr-defined]
    return float(text[-3:-1])


def test_broken_backup_is_not_copied_and_the_others_are(house: House) -> None:
    house.write("w", BYTES)
    broken = house.take().name
    key = next(key for key in house.store.objects if key.startswith("chunks/"))
    house.write("w", BYTES[::-1])
    good = house.take().name
    house.store.objects[key] = b"damaged"
    done = replicated(house, other_repository(house))
    assert done.copied == (good,)
    assert list(done.skipped) == [broken]


@pytest.mark.parametrize("moment", ["manifest", "chunk"])
def test_backup_that_is_removed_while_it_is_copied_is_passed_over(
    house: House, moment: str
) -> None:
    house.write("w", BYTES)
    goes = house.take()
    house.write("w", BYTES[::-1])
    stays = house.take().name
    first_key = str(goes.manifest.key_of(goes.manifest.chunks[0]))
    awaited = goes.name.key if moment == "manifest" else first_key

    class Removes(FakeBackupStore):
        def get(self, key: str) -> bytes:
            if key == awaited and goes.name in house.repository.manifests():
                house.remove([goes.name])
            return super().get(key)

    source = replace(house.repository, store=Removes(house.store.objects))
    done = replicate(source, other_repository(house), house.codec, house.surroundings())
    assert house.repository.manifests() == [stays]
    assert (done.copied, done.skipped) == ((stays,), {})


def test_replica_that_names_chunks_otherwise_or_is_itself_is_refused(house: House) -> None:
    replica = other_repository(house)
    other: RepositorySettings = replace(replica.settings, algorithm=Algorithm.HMAC_SHA256)
    for unfit in (house.repository, replace(replica, settings=other)):
        with pytest.raises(InputError) as caught:
            replicated(house, unfit)
        assert caught.value.code == "replica-unfit"


def test_plan_says_what_is_kept_and_what_is_freed(house: House) -> None:
    names = []
    for number in range(6):
        house.write("w", BYTES[number * 512 :][:1_024])
        names.append(house.take(tags=("keep",) if number == 0 else ()).name)
    verify(house.repository, house.codec, house.surroundings())
    house.repository.hold(names[1], Hold(reason="audit", by="me", at_ns=1))
    later = house.now_ns + 10**15
    policy = Policy(last=1, tags=frozenset({"keep"}))
    plan = plan_prune(house.repository, policy, now_ns=later, uses={("chat", ""): ("live",)})
    assert plan.going == ()
    plan = plan_prune(house.repository, policy, now_ns=later, uses={})
    assert set(plan.kept) == {names[0], names[1], names[5]}
    assert plan.kept[names[1]] == ("held: audit",)
    assert plan.going == (names[2], names[3], names[4])
    assert plan.freed_bytes == sum(
        len(house.store.objects[key]) for key in going_chunks(house, plan.going, plan.kept)
    )
    house.repository.release_hold(names[1])
    assert names[1] in plan_prune(house.repository, policy, now_ns=later, uses={}).going


def going_chunks(house: House, going: object, kept: object) -> set[str]:
    def keys(names: object) -> set[str]:
        loaded = [house.repository.load(name) for name in names]  # type: ignore[attr-defined]
        return {str(key) for manifest in loaded for key in manifest.chunk_keys()}

    return keys(going) - keys(kept)


def test_limit_holds_for_all_threads_together_and_saves_nothing_up() -> None:
    now, slept = [0.0], []
    lock = threading.Lock()

    def sleep(seconds: float) -> None:
        with lock:
            slept.append(seconds)
            now[0] += seconds

    wait = limited(100.0, now_s=lambda: now[0], sleep=sleep)
    for _ in range(5):
        wait(50)
    assert now[0] == pytest.approx(2.0)  # 200 bytes went before the fifth began
    now[0] += 100
    slept.clear()
    wait(50)
    wait(50)
    assert slept == [pytest.approx(0.5)]
