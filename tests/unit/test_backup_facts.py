"""What follows from what a store was found to do, and what is known of chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.backup.collection import Run, RunKind
from slipway.core.backup.cuts import CutRules
from slipway.core.backup.drills import Drill
from slipway.core.backup.facts import (
    CHANGED_CHUNK,
    CHANGED_FAST_CHUNK,
    CREATE_ONCE,
    ONE_WINNER,
    Finding,
    Kept,
    facts_of,
)
from slipway.core.backup.manifest import Chunk, Manifest, Origin
from slipway.core.backup.names import ChunkKey, read_manifest_key
from slipway.core.backup.settings import Algorithm, RepositorySettings, StoreFacts
from slipway.core.backup.ulid import time_of, ulid
from slipway.core.backup.verification import (
    Bad,
    Look,
    Record,
    in_order_of_need,
    ledger_of,
    standing_of,
    superseded,
)
from slipway.core.errors import InputError
from tests.unit.backup_house import House


def findings(**kept: Kept) -> list[Finding]:
    names = {
        "changed": CHANGED_CHUNK,
        "fast": CHANGED_FAST_CHUNK,
        "once": CREATE_ONCE,
        "winner": ONE_WINNER,
    }
    return [Finding(probe=names[name], promise="", kept=value) for name, value in kept.items()]


@pytest.mark.parametrize(
    ("once", "winner", "conditional"),
    [
        (Kept.YES, Kept.YES, True),
        (Kept.YES, Kept.NO, False),
        (Kept.NO, Kept.YES, False),
        (Kept.NOT_OFFERED, Kept.NOT_OFFERED, False),
    ],
)
def test_only_what_was_seen_is_relied_on(once: Kept, winner: Kept, conditional: bool) -> None:
    found = {"once": once, "winner": winner}
    facts = facts_of(findings(changed=Kept.NO, fast=Kept.NO, **found), probed="now")
    assert (facts.checks_sha256, facts.checks_crc32c) == (False, False)
    assert facts.conditional_writes == conditional
    good = facts_of(findings(changed=Kept.YES, fast=Kept.NO, **found), probed="now")
    assert (good.checks_sha256, good.checks_crc32c) == (True, False)
    fast = facts_of(findings(changed=Kept.NO, fast=Kept.YES, **found), probed="now")
    assert (fast.checks_sha256, fast.checks_crc32c) == (False, True)
    assert good.probed == "now"


@pytest.mark.parametrize(
    ("algorithm", "sha256", "crc32c", "checks"),
    [
        (Algorithm.SHA256, True, False, True),
        (Algorithm.SHA256, False, True, False),
        (Algorithm.HMAC_SHA256, True, False, True),
        (Algorithm.HMAC_SHA256, False, True, False),
        (Algorithm.BLAKE3, True, False, False),
        (Algorithm.BLAKE3, False, True, True),
    ],
)
def test_store_must_check_the_sum_that_chunks_travel_with(
    algorithm: Algorithm, sha256: bool, crc32c: bool, checks: bool
) -> None:
    facts = StoreFacts(checks_sha256=sha256, checks_crc32c=crc32c)
    settings = RepositorySettings(id="1", cuts=CutRules(), algorithm=algorithm, store=facts)
    assert settings.checks_chunks is checks


def test_probe_that_did_not_run_counts_for_nothing() -> None:
    with pytest.raises(InputError, match="changed-chunk, changed-fast-chunk, one-winner"):
        facts_of(findings(once=Kept.YES), probed="now")


def run(kind: RunKind, writer: str) -> Run:
    return Run(writer=writer, kind=kind, manifest="m", lifetime_s=10)


@pytest.mark.parametrize(
    ("one", "other", "disturbed"),
    [
        (RunKind.WRITES, RunKind.WRITES, True),
        (RunKind.WRITES, RunKind.REMOVES, True),
        (RunKind.REMOVES, RunKind.REMOVES, True),
        (RunKind.READS, RunKind.REMOVES, True),
        (RunKind.REMOVES, RunKind.READS, True),
        (RunKind.READS, RunKind.WRITES, False),
        (RunKind.WRITES, RunKind.READS, False),
        (RunKind.READS, RunKind.READS, False),
    ],
)
def test_who_disturbs_whom(one: RunKind, other: RunKind, disturbed: bool) -> None:
    assert run(one, "a").is_disturbed_by(run(other, "b")) is disturbed
    assert not run(one, "a").is_disturbed_by(run(other, "a"))
    assert not run(one, "a").is_overdue(0, 10 * 10**9)
    assert run(one, "a").is_overdue(0, 10 * 10**9 + 1)


def test_ulid_states_its_time_and_anything_else_is_none() -> None:
    assert time_of(ulid(1_700_000_000_123_456_789, 5)) == 1_700_000_000_123_000_000
    with pytest.raises(ValueError, match="no ULID"):
        time_of("left")


def test_ended_repair_is_no_backup() -> None:
    assert read_manifest_key("manifests/repair/repair-01M8KCCZ18W5Y5KVTRWT81G8S5.json") is None


ONE, TWO = (ChunkKey(digit * 64) for digit in "12")
MANIFEST = Manifest(
    repository="r",
    model="m",
    taken_at_ns=5,
    algorithm="sha256",
    origin=Origin(place="here", tool="test"),
    files=(),
    chunks=(
        Chunk(digest=ONE.digest, size_bytes=10),
        Chunk(digest=TWO.digest, size_bytes=30),
    ),
)


def seen(at_ns: int, good: str = "", bad: str = "") -> Record:
    keys = {"1": str(ONE), "2": str(TWO)}
    return Record(
        at_ns=at_ns,
        good=tuple(keys[name] for name in good),
        bad=tuple(Bad(chunk=keys[name], why="wrong") for name in bad),
    )


def test_last_look_counts_and_of_two_at_once_the_bad_one() -> None:
    assert ledger_of([seen(3, good="1"), seen(2, bad="1")])[str(ONE)] == Look(3)
    assert ledger_of([seen(2, bad="1"), seen(2, good="1")])[str(ONE)] == Look(2, "wrong")
    assert ledger_of([seen(2, good="1"), seen(2, bad="1")])[str(ONE)] == Look(2, "wrong")


def test_backup_is_as_verified_as_the_chunk_seen_longest_ago() -> None:
    nothing = standing_of(MANIFEST, {})
    assert (nothing.verified_at_ns, nothing.verified_bytes, nothing.size_bytes) == (None, 0, 40)
    half = standing_of(MANIFEST, ledger_of([seen(7, good="2")]))
    assert (half.verified_at_ns, half.verified_bytes) == (None, 30)
    whole = standing_of(MANIFEST, ledger_of([seen(7, good="2"), seen(9, good="1")]))
    assert (whole.verified_at_ns, whole.verified_bytes) == (7, 40)
    broken = standing_of(MANIFEST, ledger_of([seen(7, good="2"), seen(9, bad="1")]))
    assert (broken.verified_at_ns, dict(broken.broken)) == (None, {str(ONE): "wrong"})


def test_what_was_never_seen_or_was_bad_is_read_first_whatever_the_budget() -> None:
    chunks = [(ONE, 10), (TWO, 30)]
    assert list(in_order_of_need(chunks, {}, budget_bytes=0)) == chunks
    older = ledger_of([seen(7, good="2"), seen(9, good="1")])
    assert list(in_order_of_need(chunks, older, budget_bytes=1)) == [(TWO, 30)]
    assert list(in_order_of_need(chunks, older, budget_bytes=31)) == [(TWO, 30), (ONE, 10)]
    bad = ledger_of([seen(7, good="2"), seen(9, bad="1")])
    assert list(in_order_of_need(chunks, bad, budget_bytes=10)) == [(ONE, 10)]


def test_record_goes_when_all_it_says_is_said_later_or_of_no_use() -> None:
    records = {"a": seen(1, good="12"), "b": seen(2, good="1"), "c": seen(3, bad="2")}
    assert superseded(records, [ONE, TWO]) == ["a"]
    assert superseded(records, [ONE]) == ["a", "c"]
    assert superseded({"a": seen(1, good="1"), "b": seen(1, good="1")}, [ONE]) == []


def test_drill_is_written_down_and_read_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    drills = [Drill(f"chat@{n}", n, passed=n == 2, said="", recovery_s=1.5) for n in (2, 1)]
    for place, drill in enumerate(drills):
        house.repository.note_drill(ulid(place, place), drill)
    assert house.repository.drills() == drills[::-1]
