"""Encrypted chunks: only the key opens them, and nothing passes for another."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.backup.codec import PlainCodec
from slipway.backup.sealing import SealingCodec, codec_of, keys_of, read_keys
from slipway.core.backup.cuts import CutRules
from slipway.core.backup.settings import Algorithm, RepositorySettings
from slipway.core.errors import InputError, PermanentError
from tests.unit.backup_house import BYTES, House, files

SECRET = bytes(range(32))
CODEC = SealingCodec(keys_of(SECRET))


def opened(codec: SealingCodec, digest: str, stored: bytes, slice_bytes: int) -> bytes:
    opening = codec.opening(digest)
    view = memoryview(stored)
    body = b"".join(
        bytes(opening.update(view[at : at + slice_bytes]))
        for at in range(0, len(stored), slice_bytes)
    )
    opening.finish()
    return body


@pytest.mark.parametrize("slice_bytes", [1, 7, 16, 28, 29, 10_000])
@pytest.mark.parametrize("size_bytes", [0, 1, 15, 16, 17, 5_000])
def test_what_is_sealed_comes_back_in_slices_of_any_size(slice_bytes: int, size_bytes: int) -> None:
    body = BYTES[:size_bytes]
    digest = CODEC.digest(body)
    sealed = CODEC.seal(digest, body)
    assert len(sealed.body) == CODEC.stored_bytes(size_bytes)
    assert sealed.checksum.hexdigest == hashlib.sha256(sealed.body).hexdigest()
    assert opened(CODEC, digest, bytes(sealed.body), slice_bytes) == body
    hasher = CODEC.hasher()
    hasher.update(body)
    assert hasher.hexdigest() == digest


def test_every_flipped_bit_another_name_and_another_key_are_noticed() -> None:
    body = b"weights"
    digest = CODEC.digest(body)
    stored = bytes(CODEC.seal(digest, body).body)
    wrong = [
        (CODEC, digest, bytes([*stored[:at], stored[at] ^ 1, *stored[at + 1 :]]))
        for at in range(len(stored))
    ]
    wrong += [
        (CODEC, CODEC.digest(b"other"), stored),
        (CODEC, digest, stored[:-1]),
        (CODEC, digest, b""),
        (SealingCodec(keys_of(SECRET[::-1])), digest, stored),
    ]
    for codec, name, bad in wrong:
        with pytest.raises(PermanentError) as caught:
            opened(codec, name, bad, 5)
        assert caught.value.code == "chunk-damaged"


def test_names_and_stored_bytes_tell_nothing_without_the_key() -> None:
    body = b"a model that everybody has"
    other = SealingCodec(keys_of(SECRET[::-1]))
    assert len({PlainCodec().digest(body), CODEC.digest(body), other.digest(body)}) == 3
    one, two = (bytes(CODEC.seal(CODEC.digest(body), body).body) for _ in range(2))
    assert one != two
    assert body not in one


def test_sealed_repository_is_backed_up_and_restored(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.codec = CODEC
    sealed = replace(house.repository.settings, algorithm=CODEC.algorithm)
    house.repository = replace(house.repository, settings=sealed)
    house.write("w", BYTES)
    taken = house.take()
    assert house.take().sent_bytes == 0
    house.restore(taken.manifest)
    assert files(house.target) == {"w": BYTES}
    assert not any(BYTES[:64] in stored for stored in house.store.objects.values())


def test_key_that_is_missing_wrong_or_unneeded_is_refused(tmp_path: Path) -> None:
    keys = keys_of(SECRET)
    sealed = RepositorySettings(
        id="1", cuts=CutRules(), algorithm=Algorithm.HMAC_SHA256, key_check=keys.check
    )
    assert isinstance(codec_of(sealed, keys), SealingCodec)
    plain = RepositorySettings(id="1", cuts=CutRules())
    assert isinstance(codec_of(plain, None), PlainCodec)
    for settings, given, code in (
        (sealed, None, "key-missing"),
        (sealed, keys_of(SECRET[::-1]), "key-wrong"),
        (plain, keys, "key-unneeded"),
    ):
        with pytest.raises(InputError) as caught:
            codec_of(settings, given)
        assert caught.value.code == code

    file = tmp_path / "key"
    with pytest.raises(InputError) as caught:
        read_keys(file)
    assert caught.value.code == "key-unreadable"
    file.write_bytes(SECRET + b"\n")
    with pytest.raises(InputError) as caught:
        read_keys(file)
    assert caught.value.code == "key-invalid"
    file.write_bytes(SECRET)
    assert read_keys(file) == keys
