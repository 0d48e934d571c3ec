"""A bucket, or a prefix of one, as a store of backups: AWS S3, MinIO, SeaweedFS and their like."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from slipway.adapters import s3_api
from slipway.adapters.backups.s3_http import SignedHttp
from slipway.adapters.backups.s3_wire import SignedWire, Wire
from slipway.core.backup.sums import Sum
from slipway.core.errors import ConflictError, PermanentError, TransientError
from slipway.ports.backups import Body, Stored
from slipway.retries import call_with_retries

ATTEMPTS = 8
"""Of a request: one in ten that fails then stops one run of a million requests in a hundred."""

_PAGE = 1_000
"""Keys that S3 removes at once."""

_ANY_REGION = "us-east-1"
"""Signed with where none is named; servers other than AWS take any."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class S3BackupStore:
    """`slipway.ports.BackupStore` on a bucket, which must exist.

    Args:
        bucket: name of it.
        endpoint: URL of the S3 API; None is AWS of the region.
        prefix: put before every key, without a slash at its end.
        access_key: None takes the credentials botocore finds by itself.
        plain_boto: ask by boto3, for what it alone can: proxies, AWS without an endpoint (where
            it is taken in any case).
        sleep: waits between attempts.
    """

    bucket: str
    endpoint: str | None = None
    prefix: str = ""
    access_key: str | None = None
    secret_key: str | None = None
    region: str | None = None
    plain_boto: bool = False
    sleep: Callable[[float], None] = time.sleep
    _sessions: list[_Session] = field(default_factory=list, compare=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def put(self, key: str, body: Body, *, checksum: Sum) -> None:
        """See `slipway.ports.BackupStore`.

        What lies in a file is sent from there once. If that fails, it may be the file that has
        changed, so the next attempt looks, and sends what it has seen.
        """
        attempt = 0

        def once() -> None:
            nonlocal attempt
            attempt += 1
            sent = body
            if attempt > 1 and not isinstance(body, bytes | memoryview):
                sent = body.checked(checksum)
            self._put(key, sent, checksum, False)

        self._retried(once)

    def create(self, key: str, body: bytes | memoryview, *, checksum: Sum) -> bool:
        """See `slipway.ports.BackupStore`.

        It looks first: a store that ignores the condition must not be written over.
        """
        if self._retried(self._is_there, key):
            return False
        unanswered = 0

        def once() -> None:
            nonlocal unanswered
            try:
                self._put(key, body, checksum, True)
            except TransientError:
                unanswered += 1
                raise

        try:
            self._retried(once)
        except ConflictError as error:
            if error.code != "object-exists":
                raise
            return unanswered > 0 and self.get(key) == body
        return True

    def get(self, key: str) -> bytes:
        """See `slipway.ports.BackupStore`."""
        return self._retried(self._get, key)

    def read(self, key: str) -> Iterator[memoryview]:
        """See `slipway.ports.BackupStore`."""
        return self._session.wire.read(self._full(key))

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `slipway.ports.BackupStore`."""
        cut, token = len(self._full("")), ""
        while True:
            items, token = self._retried(self._page, prefix, token)
            for item in items:
                # Gateways to file systems list folders too, by names that end in a slash.
                if not item.key.endswith("/"):
                    yield Stored(item.key[cut:], item.size_bytes)
            if not token:
                return

    def delete(self, keys: Sequence[str]) -> None:
        """See `slipway.ports.BackupStore`."""
        for start in range(0, len(keys), _PAGE):
            self._retried(self._delete, keys[start : start + _PAGE])

    def tidy(self) -> None:
        """See `slipway.ports.BackupStore`: an upload that is cut off leaves nothing here."""

    def url(self, key: str) -> str:
        """Return what people call an object."""
        return f"s3://{self.bucket}/{self._full(key)}"

    def signed_http(self) -> SignedHttp:
        """Return the server itself, for probes."""
        return self._session.server

    def _put(self, key: str, body: Body, checksum: Sum, create: bool) -> None:
        self._session.wire.put(self._full(key), body, checksum=checksum, create=create)

    def _get(self, key: str) -> bytes:
        return b"".join(map(bytes, self._session.wire.read(self._full(key))))

    def _is_there(self, key: str) -> bool:
        try:
            self._session.wire.look(self._full(key))
        except PermanentError as error:
            if error.code == "object-missing":
                return False
            # What is asked without a body is refused without a word: clock, key, or right?
            for _ in self._session.wire.read(self._full(key)):
                break
        return True

    def _page(self, prefix: str, token: str) -> tuple[Sequence[Stored], str]:
        return self._session.wire.page(self._full(prefix), token)

    def _delete(self, keys: Sequence[str]) -> None:
        self._session.wire.delete([self._full(key) for key in keys])

    def _retried(self, call: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return what a call returns, again after passing failures and with renewed credentials.

        Those in a mounted file, or of a role, may have been changed since they were read.
        """
        session = self._session
        try:
            return call_with_retries(lambda: call(*arguments), attempts=ATTEMPTS, sleep=self.sleep)
        except PermanentError as error:
            if error.code != "object-store-credentials":
                raise
            with self._lock:
                if self._sessions and self._sessions[-1] is session:
                    self._sessions.clear()
        return call_with_retries(lambda: call(*arguments), attempts=ATTEMPTS, sleep=self.sleep)

    @property
    def _session(self) -> _Session:
        with self._lock:
            if not self._sessions:
                self._sessions.append(self._new_session())
            return self._sessions[-1]

    def _new_session(self) -> _Session:
        import botocore.session

        session = botocore.session.get_session()
        if self.access_key is not None:
            session.set_credentials(self.access_key, self.secret_key)
        if self.region is not None:
            session.set_config_variable("region", self.region)
        region = session.get_config_variable("region") or _ANY_REGION
        if self.endpoint is not None and not self.plain_boto:
            server = _server(session, self.endpoint, region)
            return _Session(SignedWire(server, self.bucket), server)
        from slipway.adapters.backups.s3_boto import BotoWire, client

        asked = client(session, self.endpoint)
        region = asked.meta.region_name or region
        server = _server(session, asked.meta.endpoint_url, region)
        return _Session(BotoWire(asked, self.bucket), server)

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


def _server(session: Any, endpoint: str, region: str) -> SignedHttp:
    with s3_api.mapped("ask", endpoint):
        credentials = session.get_credentials()
    tls = None
    if endpoint.startswith("https:"):
        tls = ssl.create_default_context(cafile=session.get_config_variable("ca_bundle"))
    return SignedHttp(endpoint=endpoint, region=region, credentials=credentials, tls=tls)


@dataclass(frozen=True)
class _Session:
    """What was made with credentials that were read at one time.

    Args:
        wire: to the bucket.
        server: the same server, for probes.
    """

    wire: Wire
    server: SignedHttp
