"""Sums and names of chunks are those of the standards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slipway.backup.codec import PlainCodec
from slipway.backup.replicating import replicate
from slipway.backup.repository import Repository
from slipway.core.backup.settings import Algorithm, StoreFacts
from slipway.core.backup.sums import Sum, SumKind, sha256_sum, sum_of
from slipway.core.errors import PermanentError
from tests.fakes.backups import FakeBackupStore
from tests.unit.backup_house import BYTES, PLAIN, House

_SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""FIPS 180-2, appendix B.1."""

_CRC32C_OF_DIGITS = "e3069283"
"""Of "123456789": the check value of CRC-32C in RFC 3720's polynomial (reveng's catalogue)."""

_BLAKE3_OF_NOTHING = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
"""BLAKE3's test vectors, input_len 0."""


def test_sums_are_those_of_the_standards() -> None:
    assert sha256_sum(b"abc") == Sum(SumKind.SHA256, _SHA256_OF_ABC)
    assert sum_of(SumKind.CRC32C, b"123456789") == Sum(SumKind.CRC32C, _CRC32C_OF_DIGITS)
    assert sum_of(SumKind.CRC32C, b"").hexdigest == "00000000"
    # zlib's CRC-32 has another polynomial, and S3 another header for it.
    assert sha256_sum(memoryview(b"xabcx")[1:4]).fits(b"abc")
    assert not sum_of(SumKind.CRC32C, b"abx").fits(b"abc")


def test_names_are_those_of_the_standards() -> None:
    assert PlainCodec().digest(b"abc") == _SHA256_OF_ABC
    assert PlainCodec(Algorithm.BLAKE3).digest(b"") == _BLAKE3_OF_NOTHING


@pytest.mark.parametrize("algorithm", [Algorithm.SHA256, Algorithm.BLAKE3])
def test_chunk_travels_with_a_sum_that_s3_knows(algorithm: Algorithm) -> None:
    codec = PlainCodec(algorithm)
    sealed = codec.seal(codec.digest(b"abc"), memoryview(b"abc"))
    kind = SumKind.CRC32C if algorithm is Algorithm.BLAKE3 else SumKind.SHA256
    assert sealed.checksum == sum_of(kind, b"abc")


@pytest.mark.parametrize("algorithm", [Algorithm.SHA256, Algorithm.BLAKE3])
def test_slices_have_the_name_and_sum_of_the_whole(algorithm: Algorithm) -> None:
    codec = PlainCodec(algorithm)
    found = codec.plainly()
    for slice_ in (b"a", b"", b"bc"):
        found.update(memoryview(slice_))
    assert found.digest() == codec.digest(b"abc")
    assert found.checksum() == codec.seal(found.digest(), b"abc").checksum


@pytest.mark.parametrize("algorithm", [Algorithm.SHA256, Algorithm.BLAKE3])
def test_chunk_with_another_name_is_damaged(algorithm: Algorithm) -> None:
    codec = PlainCodec(algorithm)
    opening = codec.opening(codec.digest(b"abc"))
    opening.update(memoryview(b"ab"))
    with pytest.raises(PermanentError, match=f"its {algorithm} is") as caught:
        opening.finish()
    assert caught.value.code == "chunk-damaged"
    opening.update(memoryview(b"c"))
    opening.finish()


@pytest.mark.parametrize("algorithm", PLAIN)
@pytest.mark.parametrize("checked", [SumKind.SHA256, SumKind.CRC32C])
def test_chunk_is_read_back_where_nobody_compares_the_sum_it_travels_with(
    tmp_path: Path, algorithm: Algorithm, checked: SumKind
) -> None:
    facts = StoreFacts(
        checks_sha256=checked is SumKind.SHA256,
        checks_crc32c=checked is SumKind.CRC32C,
        conditional_writes=True,
    )
    house = House(tmp_path, algorithm)
    house.repository = replace(
        house.repository, settings=replace(house.repository.settings, store=facts)
    )
    house.write("w", BYTES)
    house.take()
    compared = checked == ("crc32c" if algorithm is Algorithm.BLAKE3 else "sha256")
    assert _reads_of_chunks(house.store) is not compared

    far = FakeBackupStore()
    settings = replace(house.repository.settings, id="replica")
    replicate(
        house.repository, Repository(far, settings, "replica"), house.codec, house.surroundings()
    )
    assert _reads_of_chunks(far) is not compared


def _reads_of_chunks(store: FakeBackupStore) -> bool:
    return any(verb == "get" and key.startswith("chunks/") for verb, key in store.requests)
