"""What is asked of a model server, and what came of it: one row per request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from slipway.core.errors import InputError

STABLE = "stable"
CANDIDATE = "candidate"
"""Scenarios of a comparison: which of the two slots a row is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An OpenAI-compatible server.

    Args:
        url: base URL, `http://HOST:PORT` or `https://…`.
        model: name of the model, as the server knows it.
        proxy: `http://HOST:PORT` of a proxy that tunnels (CONNECT); None dials the server itself.
        headers: sent with every request; a `host` among them replaces the URL's.
        path: of the chat API.
    """

    url: str
    model: str
    proxy: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    path: str = "/v1/chat/completions"

    def __post_init__(self) -> None:
        for url in (self.url, self.proxy):
            if url is not None and not urlsplit(url).hostname:
                raise InputError(
                    f"{url!r} is not a URL with a host",
                    code="benchmark-target-invalid",
                    hint="write http://HOST:PORT",
                )
        for name, value in self.headers:
            if any(sign in name + value for sign in "\r\n"):
                raise InputError(
                    f"the header {name!r} holds a line break",
                    code="benchmark-target-invalid",
                    hint="headers are one line each",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkPlan:
    """A closed loop: `concurrency` streams, each sends its next request when the last one ended.

    Args:
        scenario: name, stands in every row.
        requests: how many are recorded.
        concurrency: streams in flight.
        warmup_requests: sent first, by the same streams, never recorded.
        max_tokens: asked of each answer.
        prompts: cycled through.
        timeout_s: longest wait for one whole answer.
    """

    requests: int
    concurrency: int
    warmup_requests: int = 0
    max_tokens: int = 32
    prompts: tuple[str, ...] = ("Tell me about the sea.",)
    scenario: str = "benchmark"
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if min(self.requests, self.concurrency, self.max_tokens, len(self.prompts)) < 1:
            raise InputError(
                f"a benchmark of {self.requests} requests in {self.concurrency} streams with "
                f"{self.max_tokens} tokens and {len(self.prompts)} prompts measures nothing",
                code="benchmark-plan-invalid",
                hint="each of them must be at least 1",
            )


class Status(StrEnum):
    """How a request ended."""

    OK = "ok"
    """A complete stream: content, then `[DONE]`."""
    ERROR = "error"
    """No answer, an HTTP error, an error inside the stream, or nothing in it."""
    TRUNCATED = "truncated"
    """Content came, but the stream broke off before `[DONE]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """One recorded request; figures that do not exist are None.

    Args:
        request_id: also sent as `x-request-id`.
        start_ns: monotonic, when the request was handed to the socket.
        ttft_ms: first event with content − request sent.
        latency_ms: last event with content − request sent.
        itl_ms: (latency − TTFT) / (output tokens − 1).
        input_tokens: as the server counted them.
        output_tokens: as the server counted them, else the number of events with content.
        error: why it is not ok, empty otherwise.
    """

    request_id: str
    scenario: str
    start_ns: int
    ttft_ms: float | None
    latency_ms: float | None
    itl_ms: float | None
    input_tokens: int | None
    output_tokens: int
    status: Status
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTable:
    """Everything one benchmark recorded.

    Args:
        rows: in the order the requests were started.
        started_ns: monotonic, before the first recorded request.
        window_s: from there to the end of the last one.
        ended_at_ns: Unix time of that end.
        client_cpu_percent: share of one core that the load generator took.
    """

    rows: tuple[RequestRow, ...]
    started_ns: int
    window_s: float
    ended_at_ns: int
    client_cpu_percent: float
