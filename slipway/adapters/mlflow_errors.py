"""MLflow's client errors as Slipway's (codes: mlflow/protos/databricks.proto, ErrorCode)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slipway.core.errors import InputError, PermanentError, SlipwayError, TransientError

_MISSING = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND"})
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_INPUT = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", _EXISTS})
_RIGHTS = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"})
_HTTP_NOT_FOUND = 404
_HTTP_TOO_MANY = 429
_HTTP_SERVER_ERROR = 500


@contextmanager
def mapped(what: str, *, url: str, missing: SlipwayError | None = None) -> Iterator[None]:
    """Turn what MLflow's client raises into Slipway's errors.

    Args:
        what: begins the message, for example `cannot find the model llama3`.
        url: of the server.
        missing: raised when the server says that the object does not exist.

    Raises:
        InputError: the server finds the request wrong.
        TransientError: no connection, or the server is in trouble.
        PermanentError: refused.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if missing is not None and is_missing(error):
            raise missing from error
        raise _of_code(what, url, str(error.error_code), str(error.message)) from error
    except (ClientError, BotoCoreError) as error:
        raise _of_status(what, url, _s3_status(error), str(error), missing) from error
    except OSError as error:
        # requests' errors are OSErrors too; those with an answer carry it.
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise _of_status(what, url, status, str(error), missing) from error


def is_missing(error: Any) -> bool:
    """Return whether an MlflowException says that the object does not exist."""
    return str(error.error_code) in _MISSING


@contextmanager
def unless_it_exists() -> Iterator[None]:
    """Make something that may be there already."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if str(error.error_code) != _EXISTS:
            raise


def _of_code(what: str, url: str, code: str, said: str) -> SlipwayError:
    if code in _INPUT:
        return InputError(
            f"{what}: {said}", code="registry-request-invalid", hint="mend the name or the value"
        )
    if code in _RIGHTS:
        return _refused(what, said)
    if code in _MISSING:
        return PermanentError(
            f"{what}: {said}", code="registry-object-missing", hint="it was deleted meanwhile?"
        )
    return _unreachable(what, url, said)


def _of_status(
    what: str, url: str, status: int | None, said: str, missing: SlipwayError | None
) -> SlipwayError:
    if status == _HTTP_NOT_FOUND and missing is not None:
        return missing
    if status is None or status == _HTTP_TOO_MANY or status >= _HTTP_SERVER_ERROR:
        return _unreachable(what, url, said)
    return _refused(what, said)


def _s3_status(error: Any) -> int | None:
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return None
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None if status is None else int(status)


def _unreachable(what: str, url: str, said: str) -> TransientError:
    return TransientError(
        f"{what}: {said}",
        code="registry-unreachable",
        hint=f"check that the model registry at {url} runs",
    )


def _refused(what: str, said: str) -> PermanentError:
    return PermanentError(
        f"{what}: {said}",
        code="registry-refused",
        hint="check the credentials of this process and its rights in the registry",
    )
