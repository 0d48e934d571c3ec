"""Reads the gateway's access log: one JSON object a line, columns as in `manifests.access_log`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from slipway.core.errors import PermanentError, TransientError
from slipway.core.traffic import AccessRow

_NS_PER_S = 1_000_000_000
_CLUSTER_FIELDS = 4


def read_rows(
    path: Path,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    pod_address: Callable[[str], str] = str,
) -> Iterator[AccessRow]:
    """Yield the rows of an access log in the order in which the requests ended.

    A last line without its line end is still being written and is left out.

    Args:
        path: the log.
        since_ns: leave out requests that started before, Unix time.
        until_ns: leave out requests that started at this time or later, Unix time.
        pod_address: maps the address:port that Envoy dialled to the one the cluster shows.

    Raises:
        TransientError: there is no such file (yet).
        PermanentError: a line that is not such a row; names the file and the line.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise TransientError(
            f"there is no access log {path}",
            code="access-log-missing",
            hint="the gateway writes it at its first request; is it running?",
        ) from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            row = _row(line, path, number, pod_address)
            if since_ns is not None and row.started_ns < since_ns:
                continue
            if until_ns is not None and row.started_ns >= until_ns:
                continue
            yield row


def _row(line: bytes, path: Path, number: int, pod_address: Callable[[str], str]) -> AccessRow:
    try:
        return _parse(json.loads(line), pod_address)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PermanentError(
            f"{path}, line {number}: not a row of the gateway's access log "
            f"({type(error).__name__}: {error})",
            code="access-log-invalid",
            hint="was the file edited, or the mesh's accessLogFormat changed?",
        ) from error


def _parse(columns: Mapping[str, object], pod_address: Callable[[str], str]) -> AccessRow:
    service, subset = _destination(_text(columns["cluster"]))
    pod = _text(columns["pod"])
    length = _text(columns["content_length"])
    ttft = columns["ttft_us"]
    return AccessRow(
        started_ns=_unix_ns(_text(columns["time"])),
        route=_text(columns["route"]),
        route_revision=_text(columns["route_revision"]),
        host=_text(columns["host"]),
        service=service,
        slot=subset or _text(columns["slot"]),
        pod=pod_address(pod) if pod else "",
        status=_number(columns["status"]),
        flags=frozenset(_text(columns["flags"]).split(",")) - {""},
        details=_text(columns["details"]),
        method=_text(columns["method"]),
        path=_text(columns["path"]),
        content_type=_text(columns["content_type"]),
        content_length_bytes=int(length) if length else None,
        bytes_received=_number(columns["bytes_received"]),
        bytes_sent=_number(columns["bytes_sent"]),
        duration_ms=_number(columns["duration_ms"]),
        attempts=_number(columns["attempts"]),
        request_id=_text(columns["request_id"]),
        session_id=_text(columns["session_id"]),
        user_agent=_text(columns["user_agent"]),
        purpose=_text(columns["purpose"]),
        ttft_us=None if ttft is None else _number(ttft),
        token_events=_number(columns["token_events"]),
        token_span_us=_number(columns["token_span_us"]),
        done_seen=columns["done_seen"] is True,
        error_seen=columns["error_seen"] is True,
    )


def _destination(cluster: str) -> tuple[str, str]:
    """Return service host and subset of Istio's cluster name `outbound|80|blue|HOST`."""
    fields = cluster.split("|")
    if len(fields) != _CLUSTER_FIELDS:
        return "", ""
    return fields[3], fields[2]


def _text(value: object) -> str:
    """Return a text column; Envoy writes null, or `-`, for what a request does not have."""
    if value is None or value == "-":
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _number(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return round(value)


def _unix_ns(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return int(seconds) * _NS_PER_S + int(fraction.ljust(9, "0"))
