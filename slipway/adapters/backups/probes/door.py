"""One request to an S3 server and its whole answer, for probes: no retries, no error is raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipway.adapters import s3_api
from slipway.adapters.backups.s3_http import SignedHttp
from slipway.adapters.backups.s3_wire import element, stated
from slipway.core.backup.facts import Finding, Kept
from slipway.core.backup.sums import sha256_sum

_BUSY = frozenset({429, 502, 503, 504})
_NOT_OFFERED = frozenset({405, 500, 501})
"""What servers answer to a request that they do not know."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said.

    Args:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_good(self) -> bool:
        """Return whether it did what was asked."""
        return self.status < 300 and b"<Error" not in self.body

    @property
    def said(self) -> str:
        """Return the status and S3's code, for people."""
        return f"{self.status} {element(self.body, 'Code')}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Door:
    """The part of a bucket that probes may write to.

    Args:
        server: that is probed.
        bucket: of it.
        prefix: of every key, ending in a slash.
    """

    server: SignedHttp
    bucket: str
    prefix: str

    def send(
        self,
        method: str,
        key: str | None,
        body: bytes = b"",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        payload: str | None = None,
        is_signed: bool = True,
    ) -> Answer:
        """Return a server's answer to a request.

        Args:
            method: of HTTP.
            key: below the prefix; None is the bucket itself.
            body: that is sent.
            query: parameters.
            headers: further ones.
            payload: what is signed instead of the body's sha256.
            is_signed: whether the request has a signature at all.
        """
        path = self.bucket if key is None else f"{self.bucket}/{self.prefix}{key}"
        with self.server.answered(
            method,
            path,
            query=query,
            headers={**(headers or {}), "Content-Length": str(len(body))},
            body=body,
            sha256=(payload or sha256_sum(body).hexdigest) if is_signed else None,
        ) as answer:
            if answer.status in _BUSY:
                raise s3_api.refused(
                    "probe", path, code=str(answer.status), message="", status=answer.status
                )
            return Answer(
                status=answer.status,
                headers={name.lower(): value for name, value in answer.headers.items()},
                body=answer.read(),
            )

    def put(self, key: str, body: bytes, **headers: str) -> Answer:
        """Store an object as a backup does; names of headers have `_` for `-`."""
        further = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("PUT", key, body, headers={**stated(sha256_sum(body)), **further})


def refuses(probe: str, promise: str, answer: Answer) -> Finding:
    """Return the finding of a probe that a good server answers with 4xx."""
    if answer.is_good:
        return Finding(probe=probe, promise=promise, kept=Kept.NO, said=answer.said)
    kept = Kept.NOT_OFFERED if answer.status in _NOT_OFFERED else Kept.YES
    return Finding(probe=probe, promise=promise, kept=kept, said=answer.said)


def offers(probe: str, promise: str, answer: Answer, *, proved: bool = True) -> Finding:
    """Return the finding of a probe that a good server answers with 2xx, and that proves it.

    Args:
        probe: its name.
        promise: for people.
        answer: to the request.
        proved: whether what was asked for also came true.
    """
    if not answer.is_good:
        return Finding(probe=probe, promise=promise, kept=Kept.NOT_OFFERED, said=answer.said)
    return Finding(
        probe=probe, promise=promise, kept=Kept.YES if proved else Kept.NO, said=answer.said
    )
