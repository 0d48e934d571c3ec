"""What every client of the S3 API shares: how it is made, and what its errors are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slipway.core.errors import ConflictError, PermanentError, SlipwayError, TransientError

if TYPE_CHECKING:
    from botocore.config import Config

_CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
DRAIN_BYTES = 64 << 10

_NOT_FOUND = frozenset({"NoSuchKey", "404", "NotFound"})
_TRANSIENT = frozenset(
    {
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
        "RequestTimeout",
        "OperationAborted",
        "ConditionalRequestConflict",
        "500",
        "502",
        "503",
        "504",
    }
)
_FULL = frozenset({"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "507"})
_CHANGED_ON_THE_WAY = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"})
_CREDENTIALS = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)


def is_loopback(endpoint: str | None) -> bool:
    """Return whether an endpoint is this machine."""
    return endpoint is not None and "://127." in endpoint


def config(endpoint: str | None, *, attempts: int, **further: Any) -> Config:
    """Return botocore's settings for an endpoint; None is AWS of the region."""
    from botocore.config import Config

    return Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Loopback is never behind the environment's proxy; AWS may well be.
        proxies={} if is_loopback(endpoint) else None,
        **further,
    )


@contextmanager
def mapped(verb: str, name: str) -> Iterator[None]:
    """Turn botocore's errors into Slipway's.

    Args:
        verb: what is being done, for people.
        name: of the object.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
    )
    from botocore.exceptions import ConnectionError as BotoConnectionError

    try:
        yield
    except ClientError as error:
        raise _of_response(verb, name, error.response) from error
    except (HTTPClientError, BotoConnectionError, IncompleteReadError) as error:
        raise unreachable(verb, name, error) from error
    except NoCredentialsError as error:
        raise PermanentError(
            f"cannot {verb} {name}: {error}",
            code="object-store-credentials",
            hint="give an access key and a secret key, or a role",
        ) from error
    except BotoCoreError as error:
        raise PermanentError(
            f"cannot {verb} {name}: {error}",
            code="object-store-refused",
            hint="the request itself is wrong for this store; see the message",
        ) from error


def unreachable(verb: str, name: str, error: object) -> TransientError:
    """Return what is said when no answer came, or only a part of one."""
    return TransientError(
        f"cannot {verb} {name}: {error}",
        code="object-store-unreachable",
        hint="check that the object store runs and that the endpoint is right",
    )


def _of_response(verb: str, name: str, response: Any) -> SlipwayError:
    said = response.get("Error", {})
    stated = str(said.get("Code", ""))
    facts = response.get("ResponseMetadata", {})
    return refused(
        verb,
        name,
        code=stated,
        message=str(said.get("Message", "")),
        status=int(facts.get("HTTPStatusCode", 0)),
        retry_after=str(facts.get("HTTPHeaders", {}).get("retry-after", "")),
    )


def refused(
    verb: str, name: str, *, code: str, message: str, status: int, retry_after: str = ""
) -> SlipwayError:
    """Return the error that an S3 server's answer means.

    Args:
        verb: what was being done, for people.
        name: of the object.
        code: of S3, for example `NoSuchKey`.
        message: of the server.
        status: of HTTP.
        retry_after: header of that name; seconds, or anything.
    """
    said = f"{code}: {message}"
    if code in _CHANGED_ON_THE_WAY:
        return TransientError(
            f"{name} arrived with other bytes than were sent ({said})",
            code="checksum-mismatch",
            hint="try again; when it lasts, something between here and the store changes bytes",
        )
    if code in _FULL or status == 507:
        return PermanentError(
            f"cannot {verb} {name}: the store is full ({said})",
            code="object-store-full",
            hint="make room in the bucket; for backups: slipway backup prune",
        )
    if code in _TRANSIENT or status >= 500 or status == 429:
        return TransientError(
            f"cannot {verb} {name} just now ({said})",
            code="object-store-busy",
            hint="try again; look at the store's log when it lasts",
            retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
        )
    return _for_good(verb, name, code, said)


def raise_unless_gone(name: str, *, code: str, message: str) -> None:
    """Raise what kept an object from being removed; one that is gone already is as wanted."""
    if code != "NoSuchKey":
        raise refused("remove", name, code=code, message=message, status=200)


def _for_good(verb: str, name: str, code: str, said: str) -> SlipwayError:
    if code in {"PreconditionFailed", "412"}:
        return ConflictError(
            f"cannot {verb} {name}: something is there, or it has changed ({said})",
            code="object-exists",
            hint="read it again and decide anew",
        )
    if code in _NOT_FOUND:
        return PermanentError(f"there is no {name}", code="object-missing", hint="list its prefix")
    if code == "NoSuchBucket":
        return PermanentError(
            f"cannot {verb} {name}: there is no such bucket",
            code="bucket-missing",
            hint="make the bucket, or mend its name; Slipway makes none by itself",
        )
    if code == "RequestTimeTooSkewed":
        return PermanentError(
            f"cannot {verb} {name}: this machine's clock is not the store's ({said})",
            code="object-store-clock",
            hint="set the clock of this machine (NTP), or that of the store",
        )
    if code in _CREDENTIALS:
        return PermanentError(
            f"may not {verb} {name} ({said})",
            code="object-store-credentials",
            hint="give credentials that are valid now; what was done before is kept",
        )
    return PermanentError(
        f"may not {verb} {name} ({said})",
        code="object-store-refused",
        hint="check the bucket, the credentials and their rights",
    )
