"""What the events of a stream mean, and where one event ends."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from slipway.bench.connection import Exchange, without_connection
from slipway.bench.openai import judge_stream, read_stream, request_bytes, to_row
from slipway.bench.values import BenchmarkPlan, Status, Target
from slipway.core.errors import InputError

ROLE = b'{"choices":[{"delta":{"role":"assistant","content":""}}]}'
DONE = b"[DONE]"
MS = 1_000_000


def token(text: str, field: str = "content") -> bytes:
    return json.dumps({"choices": [{"delta": {field: text}}]}).encode()


def usage(given: int, made: int) -> bytes:
    value = {"choices": [], "usage": {"prompt_tokens": given, "completion_tokens": made}}
    return json.dumps(value).encode()


def answered(status: int = 200, failure: str = "", body: bytes = b"") -> Exchange:
    exchange = Exchange(sent_ns=0, sink=lambda _stamp_ns, _data: None)
    exchange.http_status, exchange.failure = status, failure
    exchange.body += body
    return exchange


def test_the_first_event_with_content_is_the_first_token_not_the_role() -> None:
    events = [(1 * MS, ROLE), (100 * MS, token("a")), (120 * MS, token("b")), (121 * MS, DONE)]
    row = to_row("r", "s", answered(), events)
    assert (row.ttft_ms, row.latency_ms, row.itl_ms) == (100.0, 120.0, 20.0)
    assert (row.output_tokens, row.status, row.error) == (2, Status.OK, "")


def test_the_servers_token_count_beats_the_number_of_events() -> None:
    events = [(100 * MS, token("a b")), (140 * MS, token("c d e")), (141 * MS, usage(7, 5))]
    row = to_row("r", "s", answered(), [*events, (142 * MS, DONE)])
    assert (row.input_tokens, row.output_tokens, row.itl_ms) == (7, 5, 10.0)


@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning"])
def test_reasoning_counts_as_content(field: str) -> None:
    assert read_stream([(5, token("hm", field))]).first_ns == 5


def test_the_completions_api_has_its_text_beside_no_delta() -> None:
    assert read_stream([(5, b'{"choices":[{"text":"x"}]}')]).events == 1


def test_an_answer_of_one_token_has_no_gap_between_tokens() -> None:
    row = to_row("r", "s", answered(), [(5 * MS, token("pong")), (6 * MS, DONE)])
    assert row.status is Status.OK
    assert row.itl_ms is None


@pytest.mark.parametrize(
    ("events", "status", "said"),
    [
        ([], Status.ERROR, "without content"),
        ([ROLE], Status.ERROR, "without content"),
        ([ROLE, DONE], Status.ERROR, "no content"),
        ([token("a")], Status.TRUNCATED, "after 1 events"),
        ([token("a"), b'{"error":{"message":"boom"}}', DONE], Status.ERROR, "boom"),
        ([token("a"), b'{"error":"boom"}'], Status.ERROR, "boom"),
        ([b"<html>", DONE], Status.ERROR, "not a JSON object"),
        ([b"3", DONE], Status.ERROR, "not a JSON object"),
    ],
)
def test_a_stream_that_is_not_whole_is_not_ok(
    events: list[bytes], status: Status, said: str
) -> None:
    found, error = judge_stream(answered(), read_stream([(1, data) for data in events]))
    assert found is status
    assert said in error


def test_what_comes_after_done_is_not_read() -> None:
    assert read_stream([(1, token("a")), (2, DONE), (3, b"garbage")]).error == ""


def test_an_http_error_says_its_status_and_the_servers_words() -> None:
    status, error = judge_stream(answered(503, body=b"no healthy upstream"), read_stream([]))
    assert (status, error) == (Status.ERROR, "HTTP 503: no healthy upstream")


def test_no_answer_at_all_says_why() -> None:
    status, error = judge_stream(answered(0, "connection reset"), read_stream([]))
    assert (status, error) == (Status.ERROR, "connection reset")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_are_the_same_however_the_bytes_are_cut(size: int, end: bytes) -> None:
    lines = [b": hello", b"data: one", b"", b"event: x", b"data:two", b"data: more", b"", b""]
    raw = end.join([*lines, b"data: [DONE]", b"", b""])
    seen: list[bytes] = []
    exchange = Exchange(sent_ns=0, sink=lambda _stamp_ns, data: seen.append(data))
    for start in range(0, len(raw), size):
        exchange.feed(raw[start : start + size])
    exchange.close()
    assert seen == [b"one", b"two\nmore", b"[DONE]"]


def test_a_last_event_without_its_empty_line_counts_but_half_a_line_does_not() -> None:
    seen: list[bytes] = []
    exchange = Exchange(sent_ns=0, sink=lambda _stamp_ns, data: seen.append(data))
    exchange.feed(b'data: [DONE]\ndata: {"cho')
    exchange.close()
    assert seen == [b"[DONE]"]


def test_a_request_carries_host_and_headers_once() -> None:
    target = Target(
        url="http://127.0.0.1:8080",
        model="m",
        headers=(("Host", "simulated.localhost"), ("x-slipway-preview", "t")),
    )
    raw = request_bytes(target, prompt="ping", max_tokens=3, headers=(("x-request-id", "r1"),))
    head, body = raw.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert [line for line in lines if line.lower().startswith("host:")] == [
        "host: simulated.localhost"
    ]
    assert {"x-slipway-preview: t", "x-request-id: r1"} <= set(lines)
    assert f"content-length: {len(body)}" in lines
    asked = json.loads(body)
    assert (asked["max_tokens"], asked["stream"], asked["temperature"]) == (3, True, 0)
    assert "ignore_eos" not in asked


@pytest.mark.parametrize(
    ("error", "words"),
    [(TimeoutError(), "TimeoutError"), (OSError(111, "refused"), "[Errno 111] refused")],
)
def test_connection_that_is_not_made_has_a_reason_in_words(error: OSError, words: str) -> None:
    assert without_connection(error) == f"no connection: {words}"


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "http://", "/v1"])
def test_a_target_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        Target(url=url, model="m")


def test_a_header_with_a_line_break_is_refused() -> None:
    with pytest.raises(InputError, match="line break"):
        Target(url="http://h", model="m", headers=(("x", "a\r\nx-evil: 1"),))


@pytest.mark.parametrize("changes", [{"requests": 0}, {"concurrency": 0}, {"max_tokens": 0}])
def test_a_plan_that_measures_nothing_is_refused(changes: dict[str, int]) -> None:
    whole = BenchmarkPlan(requests=1, concurrency=1)
    with pytest.raises(InputError):
        replace(whole, **changes)  # type: ignore[arg-type]  # fields that exist
    with pytest.raises(InputError):
        replace(whole, prompts=())
