"""Signed requests to an S3 server by the standard library's HTTP client.

botocore signs; the body goes from its buffer to the socket and is hashed by whoever knows it
already. That halves the processor time of boto3's way (docs/design/0013-backup.md).
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import NoCredentialsError

from slipway.adapters import s3_api
from slipway.ports.backups import Body

_SHA256 = "slipway_sha256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""Says, in the place of the sha256, that the signature covers headers alone."""

_OF_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass
class SignedHttp:
    """An S3 server; every request has a connection of its own while it lasts.

    Args:
        endpoint: URL of the S3 API, which buckets are paths of.
        region: that it is signed for.
        credentials: botocore's, which renew themselves when that is due; None: there are none.
        tls: for `https`.
    """

    endpoint: str
    region: str
    credentials: Any
    tls: ssl.SSLContext | None = None
    _idle: list[http.client.HTTPConnection] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Close the idle connections with the last reference to the server."""
        weakref.finalize(self, _close, self._idle)

    @contextmanager
    def answered(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        sha256: str | None = _OF_NOTHING,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and give its answer of any status, to be read within the block.

        Args:
            method: of HTTP.
            path: bucket and key, not quoted.
            query: parameters.
            headers: further ones; signed too.
            body: not copied; what lies in a file goes from there to the socket in the kernel.
            sha256: of the body, hex, which is signed, or `UNSIGNED_PAYLOAD`; None: no signature.

        Raises:
            NoCredentialsError: there are none.
            OSError: no connection, or it broke.
            http.client.HTTPException: the answer is none, or is not whole.
        """
        base = urlsplit(self.endpoint)
        target = f"{base.path.rstrip('/')}/{quote(path, safe='/~')}"
        if query:
            target += f"?{urlencode(sorted(query.items()), quote_via=quote)}"
        signed = self._signed(
            method, f"{base.scheme}://{base.netloc}{target}", dict(headers or {}), sha256
        )
        connection = self._connection()
        try:
            _send(connection, method, target, signed, body)
            answer = connection.getresponse()
            yield answer
            while answer.read(s3_api.DRAIN_BYTES):
                pass
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    def _connection(self) -> http.client.HTTPConnection:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        base = urlsplit(self.endpoint)
        if base.scheme == "https":
            return http.client.HTTPSConnection(
                base.netloc, timeout=s3_api.READ_TIMEOUT_S, context=self.tls
            )
        return http.client.HTTPConnection(base.netloc, timeout=s3_api.READ_TIMEOUT_S)

    def _signed(
        self, method: str, url: str, headers: Mapping[str, str], sha256: str | None
    ) -> Mapping[str, str]:
        if sha256 is None:
            return headers
        if self.credentials is None:
            raise NoCredentialsError
        request = AWSRequest(method, url, headers=headers)
        request.context[_SHA256] = sha256
        _Signer(self.credentials.get_frozen_credentials(), "s3", self.region).add_auth(request)
        return dict(request.headers.items())


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Body | None,
) -> None:
    if isinstance(body, bytes | memoryview | None):
        connection.request(method, target, body=body, headers=headers)
    elif isinstance(connection, http.client.HTTPSConnection):
        connection.request(method, target, body=body.read(), headers=headers)
    else:
        connection.request(method, target, headers=headers)
        sent = connection.sock.sendfile(body.file, body.offset_bytes, len(body))
        if sent < len(body):
            raise OSError(f"the file ended {len(body) - sent} bytes early")


def _close(connections: list[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


class _Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """Signs with a hash of the body that is known already."""

    def payload(self, request: AWSRequest) -> str:
        """Return the body's sha256, or what stands for it."""
        known: str = request.context[_SHA256]
        return known
