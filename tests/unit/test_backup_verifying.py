"""What is read back, in which order, what is healed, and who is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.backup.repairing import Remedies, Repaired, repair
from slipway.backup.repository import Repository, open_repository
from slipway.backup.retaining import plan_prune
from slipway.backup.verifying import Verified, verify
from slipway.core.backup.collection import Condemned, Run, RunKind
from slipway.core.backup.names import read_chunk_key
from slipway.core.backup.retention import Policy
from slipway.core.errors import PermanentError, TransientError
from tests.fakes.backups import FakeBackupStore
from tests.unit.backup_house import BYTES, PLAIN, House, files, other_repository


@pytest.fixture(params=PLAIN)
def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    house = House(tmp_path, request.param)
    house.write("w", BYTES)
    return house


def verified(house: House, **changes: object) -> Verified:
    return verify(house.repository, house.codec, house.surroundings(), **changes)  # type: ignore[arg-type]


def repaired(house: House, **remedies: object) -> Repaired:
    chosen = Remedies(**remedies)  # type: ignore[arg-type]
    return repair(house.repository, house.codec, house.surroundings(), chosen)


def chunks(house: House) -> list[str]:
    return [key for key in house.store.objects if key.startswith("chunks/")]


def damage(house: House, key: str) -> None:
    house.store.objects[key] = house.store.objects[key][:-1] + b"!"


def test_backup_is_verified_once_all_of_it_was_read(house: House) -> None:
    taken = house.take()
    before = verified(house, budget_bytes=0, only=[])
    assert before.standings == {}
    done = verified(house)
    assert (done.chunks, done.read_bytes, done.bad) == (10, len(BYTES), {})
    standing = done.standings[taken.name]
    assert standing.verified_at_ns == house.now_ns
    assert done.verified_share == 1.0


def test_budget_reads_the_oldest_and_what_was_never_read(house: House) -> None:
    house.take()
    first = verified(house)
    house.write("x", BYTES[::-1][:512])
    house.take()
    second = verified(house, budget_bytes=1_024)
    assert (second.chunks, second.read_bytes) == (2, 1_024)  # the new one, and one old one
    rounds = [verified(house, budget_bytes=1_024) for _ in range(5)]
    assert all(1_024 <= done.read_bytes < 1_024 + 512 for done in rounds)
    oldest = min(item.verified_at_ns or 0 for item in rounds[-1].standings.values())
    assert oldest > max(item.verified_at_ns or 0 for item in first.standings.values())
    # What is said again later is not kept: ten chunks, a record for each of at most seven looks.
    assert len([key for key in house.store.objects if key.startswith("verified/")]) <= 7


def _nobody_opens() -> Repository:
    raise AssertionError("what heals is nearer")


@pytest.mark.parametrize("how", ["damaged", "cut", "missing"])
def test_bad_chunk_is_found_told_and_healed(house: House, tmp_path: Path, how: str) -> None:
    taken = house.take()
    copied = {key.replace(".0", ".7"): body for key, body in house.store.objects.items()}
    replica = other_repository(house, FakeBackupStore(copied))
    key = chunks(house)[3]
    if how == "damaged":
        damage(house, key)
    elif how == "cut":
        house.store.objects[key] = house.store.objects[key][:-1]
    else:
        house.store.delete([key])

    done = verified(house)
    assert [str(item) for item in done.bad] == [key]
    assert done.broken == (taken.name,)
    assert done.standings[taken.name].verified_at_ns is None

    lost = repaired(house)
    assert [str(item) for item in lost.lost] == [key]
    assert lost.broken == (taken.name,)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "w").write_bytes(BYTES[::-1])
    healed = repaired(house, folders={"chat": [elsewhere]}, replicas=[lambda: replica])
    assert list(healed.healed.values()) == ["replica"]
    assert repaired(house).healed == {}

    damage(house, key)
    verified(house)
    healed = repaired(house, folders={"chat": [elsewhere, house.folder]}, replicas=[_nobody_opens])
    assert list(healed.healed.values()) == [str(house.folder / "w")]
    after = verified(house)
    assert (after.bad, after.broken) == ({}, ())
    house.restore(taken.manifest)
    assert files(house.target) == {"w": BYTES}


def test_chunk_that_is_right_after_all_is_noted_as_right(house: House) -> None:
    house.take()
    key = chunks(house)[0]
    good = house.store.objects[key]
    damage(house, key)
    verified(house)
    house.store.objects[key] = good
    done = repaired(house)
    assert [str(item) for item in done.was_right] == [key]
    assert verified(house, budget_bytes=0).broken == ()


def test_next_backup_sends_anew_what_is_known_to_be_bad(house: House) -> None:
    taken = house.take()
    key = chunks(house)[0]
    damage(house, key)
    verified(house)
    again = house.take()
    assert again.sent_chunks == 1
    assert verified(house).broken == ()
    house.restore(again.manifest)
    assert files(house.target) == {"w": BYTES}
    assert again.manifest.chunk_keys() == taken.manifest.chunk_keys()


def test_chunk_is_healed_from_what_a_later_backup_sent_under_another_epoch(house: House) -> None:
    taken = house.take()
    house.write("y", b"short-lived")
    gone = house.take().name
    (house.folder / "y").unlink()
    house.remove([gone])  # the epoch is 1 from here on
    key = chunks(house)[0]
    damage(house, key)
    verified(house)
    assert house.take().sent_chunks == 1
    assert list(repaired(house).healed.values()) == ["the repository itself"]
    house.restore(taken.manifest)
    assert files(house.target) == {"w": BYTES}


def test_condemned_chunk_is_not_healed(house: House) -> None:
    name = house.take().name
    key = chunks(house)[0]
    damage(house, key)
    verified(house)
    waits = Run(writer="0" * 26, kind=RunKind.READS, manifest=name.key, lifetime_s=10**10)
    with house.repository.registered(waits, now_ns=house.now_ns):
        assert house.remove([name]).waits_for
        done = repaired(house)
    assert (done.healed, done.lost, done.was_right) == ({}, {}, ())


def test_backup_that_is_removed_meanwhile_is_not_said_to_be_broken(house: House) -> None:
    name = house.take().name
    house.threads = 1  # of several removals one is refused

    class Removes(FakeBackupStore):
        def read(self, key: str) -> Iterator[memoryview]:
            if read_chunk_key(key) and name.key in self.objects:
                house.remove([name])
            return super().read(key)

    store = Removes(house.store.objects)
    done = verify(replace(house.repository, store=store), house.codec, house.surroundings())
    assert done.bad == {}


def test_what_was_seen_before_the_store_failed_is_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.take()
    monkeypatch.setattr("slipway.backup.verifying._CHUNKS_PER_RECORD", 2)
    house.threads = 1

    class Fails(FakeBackupStore):
        reads = 0

        def read(self, key: str) -> Iterator[memoryview]:
            self.reads += 1
            if self.reads > 5:
                raise TransientError("down", code="object-store-unreachable", hint="wait")
            return super().read(key)

    monkeypatch.setattr("slipway.backup.fetching._TRIES", 1)
    broken = replace(house.repository, store=Fails(house.store.objects))
    with pytest.raises(TransientError):
        verify(broken, house.codec, house.surroundings())
    assert verified(house, budget_bytes=0).chunks == 6


def test_damaged_manifest_is_told(house: House) -> None:
    name = house.take().name
    other = house.take().name
    damage(house, name.key)
    done = verified(house)
    assert list(done.damaged) == [name]
    assert list(done.standings) == [other]


def test_bit_that_flips_once_in_what_is_condemned_or_in_a_manifest_changes_nothing(
    house: House,
) -> None:
    name = house.take().name

    class Flips(FakeBackupStore):
        left = 1

        def get(self, key: str) -> bytes:
            body = super().get(key)
            if self.left and body and not key.startswith("chunks/"):
                self.left -= 1
                return body[:-2] + bytes([body[-2] ^ 1]) + body[-1:]
            return body

    for key in [name.key, name.key + ".sum", "repo.json"]:
        store = Flips(house.store.objects)
        found = replace(house.repository, store=store)
        if key == "repo.json":
            assert open_repository(store, "memory").settings.id == house.repository.settings.id
        else:
            assert found.load(name).model == "chat"
        assert store.left == 0
    removal = Condemned(epoch=1, manifests=(name.key,), chunks=())
    assert house.repository.publish(removal)
    assert replace(house.repository, store=Flips(house.store.objects)).removals() == [removal]


def test_damaged_record_stops_no_backup_and_is_looked_at_anew(house: House) -> None:
    house.take()
    first = verified(house)
    assert first.unreadable == ()
    (record,) = (key for key in house.store.objects if key.startswith("verified/"))
    damage(house, record)
    house.write("more", b"another file")
    house.take()
    with pytest.raises(PermanentError) as caught:
        plan_prune(house.repository, Policy(last=0), now_ns=house.now_ns, uses={})
    assert caught.value.code == "records-unreadable"
    again = verified(house, budget_bytes=0)
    assert again.unreadable == (record,)
    assert again.verified_share == 1.0
    assert record not in house.store.objects
    assert verified(house, budget_bytes=0).unreadable == ()
    plan_prune(house.repository, Policy(last=0), now_ns=house.now_ns, uses={})


def test_small_object_that_is_damaged_at_rest_is_refused_by_name(house: House) -> None:
    house.repository.publish(Condemned(epoch=1, manifests=(), chunks=()))
    damage(house, "condemned/000000000001.json")
    with pytest.raises(PermanentError) as caught:
        house.repository.removals()
    assert caught.value.code == "repository-damaged"
