"""Sums and names of chunks are those of the standards."""

from __future__ import annotations

import pytest

from slipway.backup.codec import PlainCodec
from slipway.core.backup.settings import Algorithm
from slipway.core.backup.sums import Sum, SumKind, sha256_sum, sum_of
from slipway.core.errors import PermanentError

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
def test_chunk_with_another_name_is_damaged(algorithm: Algorithm) -> None:
    codec = PlainCodec(algorithm)
    opening = codec.opening(codec.digest(b"abc"))
    opening.update(memoryview(b"ab"))
    with pytest.raises(PermanentError, match=f"its {algorithm} is") as caught:
        opening.finish()
    assert caught.value.code == "chunk-damaged"
    opening.update(memoryview(b"c"))
    opening.finish()
