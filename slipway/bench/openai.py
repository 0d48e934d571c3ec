"""OpenAI's streaming chat API, as bytes: the request out, the meaning of the events in.

What counts: the first event with content is the first token (a role-only event is not); an event
with `error` inside a 200 answer is an error; a stream without `[DONE]` is truncated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from slipway.bench.connection import Exchange
from slipway.bench.values import RequestRow, Status, Target

DONE = b"[DONE]"

_HTTP_OK = 200
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What a stream said.

    Args:
        first_ns: monotonic, first event with content; None without one.
        last_ns: the last one.
        events: how many held content.
        done: `[DONE]` came.
        error: of an error event or of one that is not JSON, empty otherwise.
    """

    first_ns: int | None
    last_ns: int | None
    events: int
    done: bool
    error: str
    input_tokens: int | None
    output_tokens: int | None


def request_bytes(
    target: Target,
    *,
    prompt: str,
    max_tokens: int,
    headers: Sequence[tuple[str, str]] = (),
    full_length: bool = False,
) -> bytes:
    """Return one streaming chat request.

    Args:
        target: where it goes.
        prompt: the user's message.
        max_tokens: longest answer.
        headers: beside the target's.
        full_length: ask for exactly `max_tokens` (`ignore_eos`: vLLM, llama.cpp, ours).
    """
    body: dict[str, object] = {
        "model": target.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if full_length:
        body["ignore_eos"] = True
    payload = json.dumps(body).encode()
    fields = {
        "host": urlsplit(target.url).netloc,
        "content-type": "application/json",
        "accept": "text/event-stream",
        "content-length": str(len(payload)),
        **{name.lower(): value for name, value in (*target.headers, *headers)},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {target.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + payload


def read_stream(events: Sequence[tuple[int, bytes]]) -> StreamFacts:
    """Return what the events of one stream say; stops at `[DONE]`."""
    stamps: list[int] = []
    done, error = False, ""
    usage: dict[str, Any] = {}
    for stamp_ns, data in events:
        if data == DONE:
            done = True
            break
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            error = error or f"an event is not a JSON object: {data[:80].decode(errors='replace')}"
            continue
        if value.get("error"):
            error = error or f"error event: {_message(value['error'])}"
        if _has_text(value):
            stamps.append(stamp_ns)
        usage = value.get("usage") or usage
    return StreamFacts(
        first_ns=stamps[0] if stamps else None,
        last_ns=stamps[-1] if stamps else None,
        events=len(stamps),
        done=done,
        error=error,
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
    )


def judge_stream(exchange: Exchange, facts: StreamFacts) -> tuple[Status, str]:
    """Return how a request ended, and why when it is not ok."""
    error = _http_error(exchange) or facts.error
    if not error and not facts.done:
        why = exchange.failure or "the answer ended"
        if facts.events:
            return Status.TRUNCATED, f"{why} without [DONE] after {facts.events} events"
        error = f"{why} without [DONE] and without content"
    if not error and not facts.events:
        error = "the stream held no content"
    return (Status.ERROR, error) if error else (Status.OK, "")


def to_row(
    request_id: str, scenario: str, exchange: Exchange, events: Sequence[tuple[int, bytes]]
) -> RequestRow:
    """Return the row of one request."""
    facts = read_stream(events)
    status, error = judge_stream(exchange, facts)
    tokens = facts.events if facts.output_tokens is None else facts.output_tokens
    ttft_ms = _since_ms(exchange.sent_ns, facts.first_ns)
    latency_ms = _since_ms(exchange.sent_ns, facts.last_ns)
    itl_ms = None
    if status is Status.OK and ttft_ms is not None and latency_ms is not None and tokens > 1:
        itl_ms = (latency_ms - ttft_ms) / (tokens - 1)
    return RequestRow(
        request_id=request_id,
        scenario=scenario,
        start_ns=exchange.sent_ns,
        ttft_ms=ttft_ms,
        latency_ms=latency_ms,
        itl_ms=itl_ms,
        input_tokens=facts.input_tokens,
        output_tokens=tokens,
        status=status,
        error=error,
    )


def _http_error(exchange: Exchange) -> str:
    if exchange.http_status == _HTTP_OK:
        return ""
    if exchange.http_status == 0:
        return exchange.failure or "no answer"
    return f"HTTP {exchange.http_status}: {bytes(exchange.body).decode(errors='replace')}"


def _has_text(value: dict[str, Any]) -> bool:
    for choice in value.get("choices") or ():
        delta = choice.get("delta") or choice
        if any(delta.get(field) for field in _TEXT_FIELDS):
            return True
    return False


def _message(error: object) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _since_ms(start_ns: int, stamp_ns: int | None) -> float | None:
    return None if stamp_ns is None else (stamp_ns - start_ns) / 1e6
