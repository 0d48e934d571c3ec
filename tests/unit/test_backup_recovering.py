"""Backups whose manifest is damaged: brought back from replicas, or given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slipway.backup.recovering import Recovered, give_up, recover
from slipway.backup.replicating import Replicated, replicate
from slipway.backup.repository import Hold, Repository
from slipway.backup.retaining import PrunePlan, plan_prune
from slipway.backup.taking import Taken
from slipway.core.backup.names import SUM
from slipway.core.backup.retention import Policy
from slipway.core.backup.settings import Algorithm
from slipway.core.backup.ulid import time_of
from slipway.core.errors import InputError
from tests.fakes.backups import FakeBackupStore
from tests.unit.backup_house import BYTES, PLAIN, House, files, other_repository

HOLD = Hold(reason="audit", by="me", at_ns=1)


class KilledError(Exception):
    """What a process does not catch that is killed."""


@pytest.fixture(params=PLAIN)
def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    house = House(tmp_path, request.param)
    house.write("w", BYTES)
    return house


def replicated(house: House, replica: Repository) -> Replicated:
    return replicate(house.repository, replica, house.codec, house.surroundings())


def recovered(house: House, *replicas: Repository) -> Recovered:
    openers = [lambda item=item: item for item in replicas]
    return recover(house.repository, openers, house.codec, house.surroundings())


def planned(house: House) -> PrunePlan:
    later_ns = house.now_ns + 10**15
    return plan_prune(house.repository, Policy(last=1), now_ns=later_ns, uses={})


def damage(house: House, taken: Taken, how: str = "bytes") -> None:
    key = taken.name.key
    if how == "sum is gone":
        house.store.delete([key + SUM])
    else:
        key = key + SUM if how == "sum" else key
        house.store.objects[key] = house.store.objects[key][:-1] + b"!"


@pytest.mark.parametrize("how", ["bytes", "sum", "sum is gone"])
def test_backup_comes_back_as_it_was_under_a_name_of_its_own(house: House, how: str) -> None:
    replica = other_repository(house)
    before = house.take(tags=("keep",))
    house.write("v", BYTES[::-1])
    other = house.take().name
    house.repository.hold(before.name, HOLD)
    replicated(house, replica)
    damage(house, before, how)
    assert list(planned(house).damaged) == [before.name]

    done = recovered(house, replica)
    own = done.back[before.name]
    assert done.damaged == {}
    assert house.repository.manifests() == [own, other]
    assert (own.model, own.taken) == (before.name.model, before.name.taken)
    assert time_of(own.writer) == time_of(before.name.writer)
    manifest = house.repository.load(own)
    assert manifest == replace(before.manifest, copy_of=manifest.copy_of)
    assert house.repository.holds() == {own: HOLD}
    assert planned(house).kept[own] == ("held: audit",)
    assert not [key for key in house.store.objects if key.startswith(before.name.key)]
    house.restore(manifest)
    assert files(house.target) == {"w": BYTES}


def test_what_came_back_is_not_copied_to_where_it_came_from(house: House) -> None:
    replica = other_repository(house)
    taken = house.take()
    replicated(house, replica)
    damage(house, taken)
    recovered(house, replica)
    done = replicated(house, replica)
    assert (done.copied, done.skipped, len(replica.manifests())) == ((), {}, 1)
    elsewhere = other_repository(house)
    assert replicated(house, elsewhere).copied == tuple(house.repository.manifests())


def test_chunks_that_are_gone_come_back_with_it(house: House) -> None:
    replica = other_repository(house)
    taken = house.take()
    replicated(house, replica)
    damage(house, taken)
    keys = [str(key) for key in taken.manifest.chunk_keys()]
    house.store.delete(keys[:3])
    own = recovered(house, replica).back[taken.name]
    house.restore(house.repository.load(own))
    assert files(house.target) == {"w": BYTES}


def test_second_replica_has_what_the_first_one_lacks(house: House) -> None:
    first, second = other_repository(house), other_repository(house)
    taken = house.take()
    replicated(house, first)
    damage(house, taken)
    assert list(recovered(house).damaged) == [taken.name]
    assert list(recovered(house, second).damaged) == [taken.name]
    key = next(iter(taken.manifest.chunk_keys()))
    house.store.delete([str(key)])
    for there in list(first.store.list("chunks/")):
        if key.digest in there.key:
            first.store.delete([there.key])
    lacking = recovered(house, second, first)
    assert lacking.back == {}
    assert f"chunk {key.digest} is missing" in lacking.damaged[taken.name]
    assert house.repository.manifests() == [taken.name]

    house.take()  # sends the chunk anew
    assert list(recovered(house, second, first).back) == [taken.name]


def test_killed_at_any_request_the_next_one_brings_it_back_once(tmp_path: Path) -> None:
    for moment in range(1, 200):
        folder = tmp_path / str(moment)
        folder.mkdir()
        house, left = House(folder), [10**9]
        house.threads = 1
        house.write("w", BYTES)
        taken, replica = house.take(), other_repository(house)
        replicated(house, replica)
        house.repository.hold(taken.name, HOLD)
        damage(house, taken)
        house.store.delete([str(next(iter(taken.manifest.chunk_keys())))])

        def around(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KilledError

        whole = house.repository
        dying = FakeBackupStore(house.store.objects, around=around)
        house.repository = replace(whole, store=dying)
        left[0] = moment
        try:
            recovered(house, replica)
            assert moment > 30
            return
        except KilledError:
            house.repository = whole
        recovered(house, replica)
        (own,) = whole.manifests()
        assert house.repository.holds() == {own: HOLD}
        assert not [key for key in house.store.objects if key.startswith(taken.name.key)]
        house.restore(whole.load(own))
        assert files(house.target) == {"w": BYTES}
    raise AssertionError("it never came to its end")


def test_replica_that_names_chunks_otherwise_is_refused(house: House) -> None:
    damage(house, house.take())
    replica = other_repository(house)
    settings = replace(replica.settings, algorithm=Algorithm.HMAC_SHA256)
    with pytest.raises(InputError) as caught:
        recovered(house, replace(replica, settings=settings))
    assert caught.value.code == "replica-unfit"


def test_only_what_is_damaged_and_not_held_can_be_given_up(house: House) -> None:
    good = house.take()
    house.write("w", BYTES[::-1])
    bad = house.take()
    house.repository.hold(bad.name, HOLD)
    damage(house, bad)
    for taken, code in ((good, "not-damaged"), (bad, "backup-held")):
        with pytest.raises(InputError) as caught:
            give_up(house.repository, taken.name)
        assert caught.value.code == code
    house.repository.release_hold(bad.name)
    give_up(house.repository, bad.name)
    assert not [key for key in house.store.objects if key.startswith(bad.name.key)]
    assert house.repository.manifests() == [good.name]
    assert house.remove(planned(house).going).chunks == bad.sent_chunks
    house.restore(good.manifest)
    assert files(house.target) == {"w": BYTES}
