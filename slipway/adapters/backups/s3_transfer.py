"""How the bytes of chunks travel to an S3 server and back, in two ways.

boto3 can do all that its settings can: proxies, dual stacks, regions by name. `SignedTransfer`
hashes each byte once and copies it once.
"""

from __future__ import annotations

import base64
import html
import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from slipway.adapters import s3_api
from slipway.adapters.backups.s3_http import SignedHttp
from slipway.core.errors import SlipwayError

SLICE_BYTES = 256 << 10
"""What is received, hashed and written at once: it stays in the processor's cache."""


class Transfer(Protocol):
    """Sends and receives whole objects; one request each, no retries."""

    def put(self, key: str, body: bytes | memoryview, *, sha256: str, create: bool) -> None:
        """Store `body`; with `create` only where nothing is.

        Args:
            key: in the bucket.
            body: of the object.
            sha256: of it, hex.
            create: fails with the code `object-exists` where something is.

        Raises:
            SlipwayError: see `s3_api.refused`.
        """

    def read(self, key: str) -> Iterator[memoryview]:
        """Yield the object's bytes in slices; each is valid until the next is asked for."""


@dataclass(frozen=True)
class BotoTransfer:
    """`Transfer` by boto3's client.

    Args:
        client: boto3's; its settings keep it from hashing again what is hashed.
    """

    client: Any
    bucket: str

    def put(self, key: str, body: bytes | memoryview, *, sha256: str, create: bool) -> None:
        """See `Transfer`."""
        with s3_api.mapped("write", f"s3://{self.bucket}/{key}"):
            self.client.put_object(
                Bucket=self.bucket,
                Key=key,
                # boto3 takes no memoryview; bytes of a whole buffer are the same object.
                Body=body if isinstance(body, bytes) else bytearray(body),
                ChecksumSHA256=in_base64(sha256),
                **({"IfNoneMatch": "*"} if create else {}),
            )

    def read(self, key: str) -> Iterator[memoryview]:
        """See `Transfer`."""
        with s3_api.mapped("read", f"s3://{self.bucket}/{key}"):
            body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
            try:
                for piece in body.iter_chunks(SLICE_BYTES):
                    yield memoryview(piece)
            finally:
                body.close()


@dataclass(frozen=True)
class SignedTransfer:
    """`Transfer` by signed requests."""

    server: SignedHttp
    bucket: str

    def put(self, key: str, body: bytes | memoryview, *, sha256: str, create: bool) -> None:
        """See `Transfer`."""
        headers = {
            "Content-Length": str(len(body)),
            "x-amz-sdk-checksum-algorithm": "SHA256",
            "x-amz-checksum-sha256": in_base64(sha256),
            **({"If-None-Match": "*"} if create else {}),
        }
        with (
            self._mapped("write", key),
            self.server.answered(
                "PUT", f"{self.bucket}/{key}", headers=headers, body=body, sha256=sha256
            ) as answer,
        ):
            said = answer.read()
            # A write is answered by headers alone; some servers say 200 before they fail.
            if answer.status >= 300 or b"<Error" in said:
                raise self._refused("write", key, answer, said)

    def read(self, key: str) -> Iterator[memoryview]:
        """See `Transfer`."""
        buffer = memoryview(bytearray(SLICE_BYTES))
        with (
            self._mapped("read", key),
            self.server.answered("GET", f"{self.bucket}/{key}") as answer,
        ):
            if answer.status >= 300:
                raise self._refused("read", key, answer, answer.read())
            while count := answer.readinto(buffer):
                yield buffer[:count]
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)

    @contextmanager
    def _mapped(self, verb: str, key: str) -> Iterator[None]:
        with s3_api.mapped(verb, self._name(key)):
            try:
                yield
            except (OSError, http.client.HTTPException) as error:
                said = str(error) or type(error).__name__
                raise s3_api.unreachable(verb, self._name(key), said) from error

    def _refused(
        self, verb: str, key: str, answer: http.client.HTTPResponse, said: bytes
    ) -> SlipwayError:
        stated = element(said, "Code")
        return s3_api.refused(
            verb,
            self._name(key),
            code=stated or str(answer.status),
            message=element(said, "Message") or answer.reason,
            status=answer.status if answer.status >= 300 else 500,
            retry_after=answer.headers.get("Retry-After", ""),
        )

    def _name(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


def in_base64(sha256: str) -> str:
    """Return a hex digest as S3's headers have it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def element(said: bytes, tag: str) -> str:
    """Return the text of the first element of a name in an answer of S3; "" when it has none."""
    found = re.search(rf"<{tag}>([^<]*)</{tag}>".encode(), said)
    return html.unescape(found[1].decode(errors="replace")) if found else ""
