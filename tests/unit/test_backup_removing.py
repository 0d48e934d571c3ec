"""What is removed, what stays, and who is waited for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slipway.core.backup.collection import Run, RunKind
from slipway.core.backup.names import hold_key
from slipway.core.backup.ulid import ulid
from slipway.core.errors import ConflictError
from tests.unit.backup_house import BYTES, HONEST, PLAIN, House, files


@pytest.fixture(params=PLAIN)
def house(tmp_path: Path, request: pytest.FixtureRequest) -> House:
    return House(tmp_path, request.param)


def test_store_without_conditional_writes_lets_no_two_runs_work_side_by_side(house: House) -> None:
    house.write("w", BYTES)
    name = house.take().name
    unfit = replace(house.repository.settings, store=replace(HONEST, conditional_writes=False))
    house.repository = replace(house.repository, settings=unfit)
    other = Run(
        writer=ulid(house.now_ns, 1), kind=RunKind.WRITES, manifest="manifests/x", lifetime_s=9
    )
    with house.repository.registered(other, now_ns=house.now_ns):
        for attempt in (house.take, lambda: house.remove([name])):
            with pytest.raises(ConflictError) as caught:
                attempt()
            assert caught.value.code == "repository-busy"
            assert other.writer in caught.value.hint
        assert house.repository.runs() == [other]

        house.now_ns += 10 * 10**9  # it was killed, and its time is over
        house.write("x", b"1")
        second = house.take().name
        assert house.remove([name]).manifests == (name.key,)
    assert house.repository.manifests() == [second]
    assert house.restore(house.repository.load(second)).files == 2


def test_held_backup_is_not_removed_and_others_go_with_their_chunks(house: House) -> None:
    house.write("w", BYTES)
    held = house.take().name
    house.write("w", BYTES[::-1])
    other = house.take().name
    house.store.objects[hold_key(held)] = b"{}"

    done = house.remove([held, other])
    assert done.manifests == (other.key,)
    assert done.chunks == 10
    house.restore(house.repository.load(held))
    assert files(house.target) == {"w": BYTES}


def test_hold_that_comes_while_a_removal_waits_is_honoured(house: House) -> None:
    house.write("w", BYTES)
    name = house.take().name
    writer = ulid(house.now_ns, 1)
    under_way = Run(
        writer=writer, kind=RunKind.WRITES, manifest="manifests/x/1-2.json", lifetime_s=9
    )
    with house.repository.registered(under_way, now_ns=house.now_ns):
        waits = house.remove([name])
        assert waits.waits_for == (under_way,)
        house.store.objects[hold_key(name)] = b"{}"

    assert house.remove([]).manifests == ()
    assert house.repository.manifests() == [name]
    house.store.delete([hold_key(name)])
    assert house.remove([name]).manifests == (name.key,)
    assert not [key for key in house.store.objects if key.startswith(("chunks/", "manifests/"))]


def test_reader_of_a_backup_is_waited_for_until_its_time_is_over(house: House) -> None:
    house.write("w", BYTES)
    name = house.take().name
    reads = Run(writer=ulid(house.now_ns, 1), kind=RunKind.READS, manifest=name.key, lifetime_s=9)
    with house.repository.registered(reads, now_ns=house.now_ns):
        assert house.remove([name]).waits_for == (reads,)
        house.restore(house.repository.load(name))
        house.now_ns += 10 * 10**9
        assert house.remove([]).manifests == (name.key,)
    assert house.repository.manifests() == []
