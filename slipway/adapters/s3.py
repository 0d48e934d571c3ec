"""Object store over the S3 API (SeaweedFS, MinIO, AWS): evidence in, evidence out.

boto3 sends `x-amz-checksum-sha256` when asked to, and SeaweedFS and AWS refuse bytes that do not
match. Some servers take them all the same, so `put` compares the sum that comes back.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from slipway.adapters import s3_api
from slipway.core.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Sequence

_ATTEMPTS = 3
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class S3ObjectStore:
    """`slipway.ports.ObjectStore` on one bucket.

    Args:
        bucket: must exist (`create_bucket` makes it).
        endpoint: URL of the S3 API; None is AWS of the region.
        prefix: put before every key, without a slash at its end.
        access_key: None takes the credentials botocore finds by itself.
    """

    bucket: str
    endpoint: str | None = None
    prefix: str = ""
    access_key: str | None = None
    secret_key: str | None = None
    region: str | None = None

    def put(self, key: str, body: bytes, *, content_type: str) -> str:
        """Store `body` under `key`; may be repeated.

        Returns:
            the sha256 of the bytes, hex.

        Raises:
            PermanentError: refused (rights, no such bucket), or stored with another checksum.
            TransientError: the store did not answer.
        """
        digest = hashlib.sha256(body)
        checksum = base64.b64encode(digest.digest()).decode()
        with self._mapped("write", key):
            answer = self._client.put_object(
                Bucket=self.bucket,
                Key=self._full(key),
                Body=body,
                ContentType=content_type,
                ChecksumSHA256=checksum,
            )
        stored = answer.get("ChecksumSHA256", checksum)
        if stored != checksum:
            raise PermanentError(
                f"{self._name(key)} was stored with sha256 {stored}, {checksum} was sent",
                code="checksum-mismatch",
                hint="the store or something before it changes bytes; do not trust it",
            )
        return digest.hexdigest()

    def get(self, key: str) -> bytes:
        """Return the bytes of `key`.

        Raises:
            PermanentError: there is no such key (`object-missing`), or refused.
            TransientError: the store did not answer.
        """
        with self._mapped("read", key):
            body: bytes = self._client.get_object(Bucket=self.bucket, Key=self._full(key))[
                "Body"
            ].read()
        return body

    def chunks(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of `key` from `offset` on, 1 MiB at a time; never all in memory.

        Args:
            key: of the object.
            offset: bytes to leave out; must be below the object's size.

        Raises:
            PermanentError: there is no such key (`object-missing`), or refused.
            TransientError: the store did not answer, or broke off.
        """
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        with self._mapped("read", key):
            body = self._client.get_object(Bucket=self.bucket, Key=self._full(key), **wanted)[
                "Body"
            ]
            try:
                yield from body.iter_chunks(_CHUNK_BYTES)
            finally:
                body.close()

    def list(self, prefix: str) -> Sequence[str]:
        """Return the keys that start with `prefix`, sorted, however many there are.

        Raises:
            PermanentError: refused.
            TransientError: the store did not answer.
        """
        keys: list[str] = []
        cut = len(self._full(""))
        with self._mapped("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._full(prefix)
            )
            for page in pages:
                keys.extend(item["Key"][cut:] for item in page.get("Contents", ()))
        return sorted(keys)

    def url(self, key: str) -> str:
        """Return where `key` lies: the path of the object at the endpoint, or its s3:// name."""
        if self.endpoint is None:
            return f"s3://{self.bucket}/{self._full(key)}"
        return f"{self.endpoint.rstrip('/')}/{self.bucket}/{quote(self._full(key))}"

    def create_bucket(self) -> None:
        """Make the bucket; one that is already ours is left as it is.

        Raises:
            PermanentError: the name is taken by somebody else, or refused.
            TransientError: the store did not answer.
        """
        with self._mapped("create the bucket of", ""):
            try:
                self._client.create_bucket(Bucket=self.bucket)
            except (
                self._client.exceptions.BucketAlreadyOwnedByYou,
                self._client.exceptions.BucketAlreadyExists,
            ):
                # Also what SeaweedFS says of one's own bucket; a foreign one fails at head_bucket.
                self._client.head_bucket(Bucket=self.bucket)

    @cached_property
    def _client(self) -> Any:
        # Imported here: half a second that a dry run or a help text should not pay.
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=s3_api.config(
                self.endpoint,
                attempts=_ATTEMPTS,
                s3={"addressing_style": "path" if self.endpoint else "auto"},
            ),
        )

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _name(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._full(key)}"

    def _mapped(self, verb: str, key: str) -> AbstractContextManager[None]:
        return s3_api.mapped(verb, self._name(key))
