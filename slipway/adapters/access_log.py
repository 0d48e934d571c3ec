"""Reads the gateway's access log: one JSON object a line, columns as in `manifests.access_log`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from slipway.core.errors import PermanentError, TransientError
from slipway.core.traffic import AccessRow, AccessTail, LogPosition

_NS_PER_S = 1_000_000_000
_CLUSTER_FIELDS = 4
_CHUNK_BYTES = 65536


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
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            row = _row(line, f"{path}, line {number}", pod_address)
            if since_ns is not None and row.started_ns < since_ns:
                continue
            if until_ns is not None and row.started_ns >= until_ns:
                continue
            yield row


def log_end(path: Path) -> LogPosition:
    """Return the position after the last row that an access log holds now.

    Raises:
        TransientError: there is no such file (yet).
    """
    with _opened(path) as file:
        end = file.seek(0, os.SEEK_END)
        # A row that is still being written belongs to what follows.
        while end > 0:
            begin = max(0, end - _CHUNK_BYTES)
            file.seek(begin)
            last_line_end = file.read(end - begin).rfind(b"\n")
            if last_line_end >= 0:
                return LogPosition(log=_identity(file), offset_bytes=begin + last_line_end + 1)
            end = begin
        return LogPosition(log=_identity(file), offset_bytes=0)


def read_tail(
    path: Path, *, after: LogPosition, pod_address: Callable[[str], str] = str
) -> AccessTail:
    """Return the whole rows of an access log since a position; only these are read.

    Args:
        path: the log.
        after: of `log_end` or of the last look. All rows of a file begun anew come after it.
        pod_address: maps the address:port that Envoy dialled to the one the cluster shows.

    Raises:
        TransientError: there is no such file (yet).
        PermanentError: a line that is not such a row; names the file and the byte.
    """
    rows: list[AccessRow] = []
    with _opened(path) as file:
        log = _identity(file)
        same = log == after.log and os.fstat(file.fileno()).st_size >= after.offset_bytes
        offset_bytes = file.seek(after.offset_bytes if same else 0)
        for line in file:
            if not line.endswith(b"\n"):
                break
            rows.append(_row(line, f"{path}, byte {offset_bytes}", pod_address))
            offset_bytes += len(line)
    return AccessTail(rows=tuple(rows), end=LogPosition(log=log, offset_bytes=offset_bytes))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise TransientError(
            f"there is no access log {path}",
            code="access-log-missing",
            hint="the gateway writes it at its first request; is it running?",
        ) from error


def _identity(file: BinaryIO) -> str:
    found = os.fstat(file.fileno())
    return f"{found.st_dev}:{found.st_ino}"


def _row(line: bytes, where: str, pod_address: Callable[[str], str]) -> AccessRow:
    try:
        return _parse(json.loads(line), pod_address)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PermanentError(
            f"{where}: not a row of the gateway's access log ({type(error).__name__}: {error})",
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
        subset=subset,
        # A slot with the other one behind it is named `green-or-blue`: green was meant.
        slot=subset.partition("-or-")[0] or _text(columns["slot"]),
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
