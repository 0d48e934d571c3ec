"""The part of the OpenAI API that a model server speaks: requests in, JSON and SSE events out.

Field names: platform.openai.com/docs/api-reference (chat, completions, models); `ignore_eos` is
vLLM's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from slipway.sandbox.servers.simulated_behaviour import LONGEST_ANSWER_TOKENS

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
JSON_TYPE = "application/json"


class RefusedError(Exception):
    """A request that the server refuses, with the status and text of the answer."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a request asks for.

    Args:
        max_tokens: None leaves the length to the model.
        usage: a last event with the token counts was asked for.
    """

    chat: bool
    prompt: str
    max_tokens: int | None
    ignore_eos: bool
    stream: bool
    usage: bool


def dump(value: object) -> bytes:
    """Return compact JSON, as OpenAI and vLLM send it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def parse_ask(path: str, body: bytes, model_name: str) -> Ask:
    """Read the body of a completion request.

    Raises:
        RefusedError: not JSON, a field of the wrong kind, or another model's name.
    """
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    asked_model = fields.get("model", model_name)
    if asked_model != model_name:
        raise RefusedError(HTTPStatus.NOT_FOUND, f"The model `{asked_model}` does not exist.")
    chat = path == CHAT_PATH
    max_tokens = fields.get("max_completion_tokens") if chat else None
    max_tokens = fields.get("max_tokens") if max_tokens is None else max_tokens
    whole = isinstance(max_tokens, int) and not isinstance(max_tokens, bool)
    if max_tokens is not None and not (whole and 1 <= max_tokens <= LONGEST_ANSWER_TOKENS):
        message = f"max_tokens must be a whole number within 1..{LONGEST_ANSWER_TOKENS}"
        raise RefusedError(HTTPStatus.BAD_REQUEST, message)
    options = fields.get("stream_options")
    return Ask(
        chat=chat,
        prompt=_chat_prompt(fields.get("messages")) if chat else _prompt(fields.get("prompt")),
        max_tokens=max_tokens,
        ignore_eos=fields.get("ignore_eos") is True,
        stream=fields.get("stream") is True,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _prompt(prompt: object) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "prompt must be one text")
    return prompt


def _chat_prompt(messages: object) -> str:
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "messages must be a list that is not empty")
    content = messages[-1].get("content")
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    if not isinstance(content, str):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the last message has no text")
    return content


def error_body(status: HTTPStatus, message: str) -> bytes:
    """Return the body of an error answer."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return dump({"error": {"message": message, "type": kind, "code": int(status)}})


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Events:
    """Renders one answer, whole or as SSE events; the parts that repeat are rendered once.

    Args:
        identity: the answer's `id`.
        created_s: Unix time.
    """

    def __init__(self, *, chat: bool, identity: str, created_s: int, model_name: str) -> None:
        self._chat = chat
        whole = "chat.completion" if chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": identity,
            "object": whole,
            "created": created_s,
            "model": model_name,
        }
        chunk = {**self._head, "object": "chat.completion.chunk" if chat else whole}
        self._chunk_head = chunk
        before = dump(chunk)[:-1] + b',"choices":[{"index":0,'
        self._before_token = b"data: " + before + (b'"delta":{"content":' if chat else b'"text":')
        end = b'"finish_reason":null}]}\n\n'
        self._after_token = (b'},"logprobs":null,' if chat else b',"logprobs":null,') + end

    def role(self) -> bytes:
        """Return the first event of a chat: the role, no content; it is not the first token."""
        return self._event([{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}])

    def token(self, text: str) -> bytes:
        """Return the event of one token."""
        return self._before_token + dump(text) + self._after_token

    def end(self, finish_reason: str, counts: dict[str, int] | None) -> bytes:
        """Return the last events: finish reason, usage if asked for, `[DONE]`."""
        part: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        events = self._event([{"index": 0, **part, "finish_reason": finish_reason}])
        if counts is not None:
            events += self._event([], counts)
        return events + b"data: [DONE]\n\n"

    def whole(self, text: str, finish_reason: str, counts: dict[str, int]) -> bytes:
        """Return the body of an answer that is not streamed."""
        message = {"role": "assistant", "content": text}
        part: dict[str, Any] = {"message": message} if self._chat else {"text": text}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": finish_reason}
        return dump({**self._head, "choices": [choice], "usage": counts})

    def _event(self, choices: list[dict[str, Any]], counts: dict[str, int] | None = None) -> bytes:
        body = {**self._chunk_head, "choices": choices}
        if counts is not None:
            body["usage"] = counts
        return b"data: " + dump(body) + b"\n\n"
