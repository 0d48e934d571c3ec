"""Asking a model server one question, for its tests: whole answers, over httpx."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from slipway.core.errors import InputError, PermanentError, TransientError

_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """What the server said.

    Args:
        text: of the first choice.
        latency_ms: from the request to the whole answer.
    """

    text: str
    latency_ms: float


class ChatEndpoint(Protocol):
    """A server that answers one message."""

    def ask(self, prompt: str, *, model: str, max_tokens: int) -> ChatAnswer:
        """Return the answer at temperature 0.

        Raises:
            TransientError: no answer, 429 or 5xx.
            PermanentError: the server refuses the request, or answers what is no chat answer.
        """


@dataclass(frozen=True)
class HttpChatEndpoint:
    """`ChatEndpoint` over the OpenAI API.

    Args:
        base_url: `http://HOST:PORT`.
        proxy: HTTP proxy that knows in-cluster addresses; None dials the server itself.
        headers: sent with every question.
    """

    base_url: str
    proxy: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(self, prompt: str, *, model: str, max_tokens: int) -> ChatAnswer:
        """Return the answer at temperature 0; see `ChatEndpoint`."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        headers = {"x-slipway-purpose": "evaluation", **self.headers}
        url = f"{self.base_url.rstrip('/')}/v1/chat/completions"
        # A connection per question: a server that ends an idle one is no broken model.
        try:
            with httpx.Client(proxy=self.proxy, trust_env=False, timeout=_TIMEOUT_S) as client:
                began_ns = time.monotonic_ns()
                answer = client.post(url, json=body, headers=headers)
                latency_ms = (time.monotonic_ns() - began_ns) / 1e6
        except httpx.InvalidURL as error:
            raise InputError(
                f"{url!r} is no URL: {error}",
                code="endpoint-invalid",
                hint="write http://HOST:PORT",
            ) from error
        except httpx.HTTPError as error:
            raise TransientError(
                f"no answer from {url}: {type(error).__name__}: {error}",
                code="endpoint-unreachable",
                hint="look at the log of the model server's pod",
            ) from error
        return ChatAnswer(text=_text(url, answer), latency_ms=latency_ms)


def _text(url: str, answer: httpx.Response) -> str:
    status = answer.status_code
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise TransientError(
            f"{url} answered {status}: {answer.text[:200]}",
            code="endpoint-error",
            hint="look at the log of the model server's pod",
        )
    if status != httpx.codes.OK:
        raise PermanentError(
            f"{url} refuses the question with {status}: {answer.text[:200]}",
            code="endpoint-refused",
            hint="does the server know the model by this name?",
        )
    try:
        text = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _no_chat_answer(url, answer) from error
    if not isinstance(text, str):
        raise _no_chat_answer(url, answer)
    return text


def _no_chat_answer(url: str, answer: httpx.Response) -> PermanentError:
    return PermanentError(
        f"{url} answered something else than a chat answer: {answer.text[:200]}",
        code="endpoint-answer-invalid",
        hint="the server must speak OpenAI's chat API",
    )
