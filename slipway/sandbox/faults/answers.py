"""The answer of a server that fails, in the words of that server. Pure."""

from __future__ import annotations

import json
from enum import StrEnum
from http import HTTPStatus

from slipway.sandbox.faults.model import Fault

FAULT_HEADER = "x-slipway-fault"
_RETRY_AFTER_S = 1


class Dialect(StrEnum):
    """Whose clients read the answer."""

    S3 = "s3"
    REGISTRY = "registry"
    MLFLOW = "mlflow"
    KUBERNETES = "apiserver"
    MODEL = "model"


def answer(dialect: Dialect, fault: Fault) -> bytes:
    """Return a whole HTTP/1.1 response with the fault's status; the connection ends after it.

    Sources: Kubernetes API conventions (Status), Amazon S3 error responses, OCI distribution
    specification (errors), MLflow REST API (error_code), OpenAI API (error).
    """
    status = fault.status
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Fault"
    content_type, body = _body(dialect, status, f"fault {fault.id} of the sandbox answers")
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n{_retry_after(status)}"
        f"{FAULT_HEADER}: {fault.id}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _retry_after(status: int) -> str:
    return f"Retry-After: {_RETRY_AFTER_S}\r\n" if status in {429, 503} else ""


def _body(dialect: Dialect, status: int, message: str) -> tuple[str, bytes]:
    if dialect is Dialect.S3:
        code = {503: "SlowDown", 500: "InternalError", 429: "TooManyRequests"}.get(
            status, "ServiceUnavailable"
        )
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        )
        return "application/xml", text.encode()
    return "application/json", json.dumps(_document(dialect, status, message)).encode()


def _document(dialect: Dialect, status: int, message: str) -> dict[str, object]:
    if dialect is Dialect.KUBERNETES:
        return _kubernetes_status(status, message)
    if dialect is Dialect.REGISTRY:
        code = "TOOMANYREQUESTS" if status == 429 else "UNKNOWN"
        return {"errors": [{"code": code, "message": message}]}
    if dialect is Dialect.MLFLOW:
        code = "TEMPORARILY_UNAVAILABLE" if status == 503 else "INTERNAL_ERROR"
        return {"error_code": code, "message": message}
    return {"error": {"message": message, "type": "server_error", "code": status}}


def _kubernetes_status(status: int, message: str) -> dict[str, object]:
    reason = {
        429: "TooManyRequests",
        500: "InternalError",
        503: "ServiceUnavailable",
        504: "Timeout",
    }.get(status, "")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": {"retryAfterSeconds": _RETRY_AFTER_S},
        "code": status,
    }
