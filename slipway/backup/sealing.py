"""Chunks that only holders of a key can read, and whose names tell nothing of what is in them.

A stored chunk is a nonce of 12 random bytes, the AES-256-GCM ciphertext, and its tag of 16 bytes;
the chunk's name is authenticated with it, so that no chunk passes for another. Names are
HMAC-SHA256: without the key nobody can tell whether a known file is in the repository. Both keys
come from one secret by HKDF-SHA256 (RFC 5869). There is no password and no default key.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import AEADDecryptionContext, Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from slipway.backup.codec import Codec, Hasher, Opening, PlainCodec, Sealed, damaged
from slipway.core.backup.settings import Algorithm, RepositorySettings
from slipway.core.backup.sums import sha256_sum
from slipway.core.errors import InputError

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_SLICE_BYTES = 256 << 10


@dataclass(frozen=True)
class Keys:
    """What a secret is used for.

    Args:
        content: encrypts chunks.
        names: names them.
        check: public; tells whether a secret is the one of a repository.
    """

    content: bytes
    names: bytes
    check: str


def keys_of(secret: bytes) -> Keys:
    """Return the keys that come from a secret.

    Raises:
        InputError: `key-invalid`, it is not 32 bytes long.
    """
    if len(secret) != KEY_BYTES:
        raise InputError(
            f"the key has {len(secret)} bytes, not {KEY_BYTES}",
            code="key-invalid",
            hint="make one: head -c 32 /dev/urandom > FILE, and keep a copy apart from the backups",
        )
    return Keys(
        content=_derived(secret, b"slipway-backup-content"),
        names=_derived(secret, b"slipway-backup-names"),
        check=_derived(secret, b"slipway-backup-check").hex(),
    )


def read_keys(file: Path) -> Keys:
    """Return the keys that come from a file of 32 bytes, for example of a mounted secret.

    Raises:
        InputError: `key-invalid` or `key-unreadable`.
    """
    try:
        secret = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the key {file}: {error.strerror}",
            code="key-unreadable",
            hint="mount the secret there, or name another file: SLIPWAY_BACKUP_KEY_FILE",
        ) from error
    return keys_of(secret)


def codec_of(settings: RepositorySettings, keys: Keys | None) -> Codec:
    """Return what names and opens the chunks of a repository.

    Args:
        settings: of the repository.
        keys: of whoever opens it; None: none.

    Raises:
        InputError: `key-missing`, `key-wrong`, or `key-unneeded`: its chunks are not encrypted.
    """
    if settings.algorithm is not Algorithm.HMAC_SHA256:
        if keys is not None:
            raise InputError(
                "there is a key, but the chunks of the repository are not encrypted",
                code="key-unneeded",
                hint="take SLIPWAY_BACKUP_KEY_FILE away, or make a new repository with the key",
            )
        return PlainCodec(settings.algorithm)
    if keys is None:
        raise InputError(
            "the chunks of the repository are encrypted, and there is no key",
            code="key-missing",
            hint="name the file with the key: SLIPWAY_BACKUP_KEY_FILE",
        )
    if not hmac.compare_digest(keys.check, settings.key_check):
        raise InputError(
            "the key is not the one that the repository was made with",
            code="key-wrong",
            hint="find that key: without it nothing in the repository can be read",
        )
    return SealingCodec(keys)


def _derived(secret: bytes, use: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=use).derive(secret)


class SealingCodec:
    """Encrypted chunks, named by keyed hashes."""

    algorithm = Algorithm.HMAC_SHA256

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._cipher = AESGCM(keys.content)

    def hasher(self) -> Hasher:
        """See `Codec`."""
        return hmac.new(self._keys.names, digestmod="sha256")

    def digest(self, body: bytes | memoryview) -> str:
        """See `Codec`."""
        return hmac.digest(self._keys.names, body, "sha256").hex()

    def seal(self, digest: str, body: bytes | memoryview) -> Sealed:
        """See `Codec`."""
        nonce = os.urandom(_NONCE_BYTES)
        stored = nonce + self._cipher.encrypt(nonce, body, bytes.fromhex(digest))
        return Sealed(stored, sha256_sum(stored))

    def plainly(self) -> None:
        """See `Codec`."""
        return

    def stored_bytes(self, size_bytes: int) -> int:
        """See `Codec`."""
        return _NONCE_BYTES + size_bytes + _TAG_BYTES

    def opening(self, digest: str) -> Opening:
        """See `Codec`."""
        return _SealedOpening(self._keys, digest)


class _SealedOpening:
    """The first bytes are the nonce, the last ones the tag: they are kept back until the end."""

    def __init__(self, keys: Keys, digest: str) -> None:
        self._keys = keys
        self._digest = digest
        self._name = hmac.new(keys.names, digestmod="sha256")
        self._kept = b""
        self._decryptor: AEADDecryptionContext | None = None

    def update(self, stored: memoryview) -> memoryview:
        self._kept += stored
        if self._decryptor is None:
            if len(self._kept) < _NONCE_BYTES + _TAG_BYTES:
                return memoryview(b"")
            nonce, self._kept = self._kept[:_NONCE_BYTES], self._kept[_NONCE_BYTES:]
            self._decryptor = Cipher(AES(self._keys.content), GCM(nonce)).decryptor()
            self._decryptor.authenticate_additional_data(bytes.fromhex(self._digest))
        ready, self._kept = self._kept[:-_TAG_BYTES], self._kept[-_TAG_BYTES:]
        body = self._decryptor.update(ready)
        self._name.update(body)
        return memoryview(body)

    def finish(self) -> None:
        if self._decryptor is None:
            raise damaged(self._digest, "it is too short to be a sealed one")
        try:
            self._decryptor.finalize_with_tag(self._kept)
        except InvalidTag:
            raise damaged(
                self._digest, "it was sealed with another key, or changed since"
            ) from None
        if not hmac.compare_digest(self._name.hexdigest(), self._digest):
            raise damaged(self._digest, "what is in it has another name")
