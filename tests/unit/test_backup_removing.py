"""What is removed, what stays, and who is waited for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slipway.backup.removing import remove
from slipway.backup.ulid import ulid
from slipway.core.backup.collection import Run, RunKind
from slipway.core.backup.names import hold_key
from slipway.core.errors import PermanentError
from tests.unit.backup_house import BYTES, HONEST, House, files


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_nothing_is_removed_where_writes_are_not_conditional(house: House) -> None:
    house.write("w", BYTES)
    name = house.take().name
    unfit = replace(house.repository.settings, store=replace(HONEST, conditional_writes=False))
    with pytest.raises(PermanentError) as caught:
        remove(replace(house.repository, settings=unfit), [name], now_ns=lambda: house.now_ns)
    assert caught.value.code == "store-unfit"
    assert house.repository.manifests() == [name]


def test_held_backup_is_not_removed_and_others_go_with_their_chunks(house: House) -> None:
    house.write("w", BYTES)
    held = house.take().name
    house.write("w", BYTES[::-1])
    other = house.take().name
    house.store.objects[hold_key(held)] = b"{}"

    done = remove(house.repository, [held, other], now_ns=lambda: house.now_ns)
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
    with house.repository.registered(under_way):
        waits = remove(house.repository, [name], now_ns=lambda: house.now_ns)
        assert waits.waits_for == (under_way,)
        house.store.objects[hold_key(name)] = b"{}"

    assert remove(house.repository, [], now_ns=lambda: house.now_ns).manifests == ()
    assert house.repository.manifests() == [name]
    house.store.delete([hold_key(name)])
    assert remove(house.repository, [name], now_ns=lambda: house.now_ns).manifests == (name.key,)
    assert not [key for key in house.store.objects if key.startswith(("chunks/", "manifests/"))]


def test_reader_of_a_backup_is_waited_for_until_its_time_is_over(house: House) -> None:
    house.write("w", BYTES)
    name = house.take().name
    reads = Run(writer=ulid(house.now_ns, 1), kind=RunKind.READS, manifest=name.key, lifetime_s=9)
    with house.repository.registered(reads):
        assert remove(house.repository, [name], now_ns=lambda: house.now_ns).waits_for == (reads,)
        house.restore(house.repository.load(name))
        late_ns = house.now_ns + 10 * 10**9
        assert remove(house.repository, [], now_ns=lambda: late_ns).manifests == (name.key,)
    assert house.repository.manifests() == []
