"""The model test against a dictionary as server, and what the HTTP endpoint makes of answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest

from slipway.core.errors import InputError, PermanentError, SlipwayError, TransientError
from slipway.core.service import GoldenPrompt, QualityPolicy
from slipway.core.verdicts import Verdict
from slipway.evaluation.endpoint import ChatAnswer, HttpChatEndpoint
from slipway.evaluation.quality import EvaluationResult, evaluate
from tests.fakes.clock import FakeClock

POLICY = QualityPolicy(
    golden=tuple(GoldenPrompt(prompt=f"p{number}", expect=rf"\b{number}\b") for number in range(8))
)


@dataclass
class DictionaryServer:
    """Answers from a dictionary; a list gives its texts one after the other, None no answer."""

    answers: dict[str, str | list[str] | None]
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def ask(self, prompt: str, *, model: str, max_tokens: int) -> ChatAnswer:
        self.asked.append((prompt, model, max_tokens))
        answer = self.answers[prompt]
        if answer is None:
            raise TransientError("no answer", code="endpoint-unreachable", hint="look")
        text = answer if isinstance(answer, str) else answer.pop(0)
        return ChatAnswer(text=text, latency_ms=2.0)


def answers(**changes: str | list[str] | None) -> dict[str, str | list[str] | None]:
    return {**{f"p{number}": f"It is {number}." for number in range(8)}, **changes}


def run(server: DictionaryServer) -> EvaluationResult:
    clock = FakeClock()

    def monotonic() -> float:
        clock.advance(0.5)
        clock.step(-3600)  # of no account: a window is no difference of wall clocks
        return clock.monotonic()

    return evaluate(server, POLICY, model="m", clock_ns=clock.time_ns, monotonic=monotonic)


def test_right_and_steady_answers_pass() -> None:
    server = DictionaryServer(answers())
    result = run(server)
    assert result.verdict is Verdict.PASS
    assert [(item.name, item.value, item.n) for item in result.evidence] == [
        ("accuracy", 1.0, 8),
        ("determinism", 1.0, 8),
    ]
    assert {item.window_s for item in result.evidence} == {0.5}
    assert len(server.asked) == 16
    assert server.asked[0] == ("p0", "m", POLICY.max_tokens)


def test_one_wrong_answer_of_eight_is_within_the_limit_and_two_are_not() -> None:
    one = run(DictionaryServer(answers(p1="no idea")))
    two = run(DictionaryServer(answers(p1="no idea", p2="no idea")))
    assert one.verdict is Verdict.PASS
    assert (two.verdict, two.evidence[0].value) == (Verdict.FAIL, 0.75)


def test_capitals_do_not_make_an_answer_wrong() -> None:
    policy = QualityPolicy(golden=(GoldenPrompt(prompt="capital?", expect="paris"),))
    result = evaluate(DictionaryServer({"capital?": "It is PARIS."}), policy, model="m")
    assert result.verdict is Verdict.PASS


def test_two_different_answers_to_one_question_fail() -> None:
    result = run(DictionaryServer(answers(p3=["It is 3.", "It's 3."])))
    assert result.verdict is Verdict.FAIL
    assert result.rows[3].right
    assert not result.rows[3].deterministic


@pytest.mark.parametrize("silent", [["p7"], [f"p{number}" for number in range(8)]])
def test_a_server_that_does_not_answer_is_an_error_never_zero(silent: list[str]) -> None:
    result = run(DictionaryServer(answers(**dict.fromkeys(silent))))
    assert result.verdict is Verdict.ERROR
    assert [row.prompt for row in result.rows if row.error] == silent
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["evidence"][0]["value"] is None


def test_no_golden_prompt_is_an_error() -> None:
    result = evaluate(DictionaryServer({}), QualityPolicy(golden=()), model="m")
    assert result.verdict is Verdict.ERROR


def test_the_stored_result_holds_every_answer() -> None:
    stored = run(DictionaryServer(answers(p1="no idea"))).to_json()
    assert stored["verdict"] == "PASS"
    assert stored["rows"][1]["answer"] == "no idea"
    assert stored["rows"][1]["expected"] == r"\b1\b"
    assert json.loads(json.dumps(stored, allow_nan=False)) == stored


Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], HttpChatEndpoint]:
    """An endpoint whose requests go to a function instead of a socket."""
    real = httpx.Client

    def build(handler: Handler) -> HttpChatEndpoint:
        def client(*, proxy: str | None, trust_env: bool, timeout: float) -> httpx.Client:
            assert trust_env is False
            return real(transport=httpx.MockTransport(handler), timeout=timeout)

        monkeypatch.setattr(httpx, "Client", client)
        return HttpChatEndpoint("http://model.test/", headers={"x-slipway-preview": "t"})

    return build


def chat(content: object) -> dict[str, object]:
    return {"choices": [{"message": {"content": content}}]}


def test_a_question_is_asked_at_temperature_zero_and_marked_as_ours(
    answering: Callable[[Handler], HttpChatEndpoint],
) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=chat("pong"))

    answer = answering(handler).ask("ping", model="m", max_tokens=4)
    assert answer.text == "pong"
    assert answer.latency_ms >= 0
    body = json.loads(seen[0].content)
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0, 4, "m")
    assert str(seen[0].url) == "http://model.test/v1/chat/completions"
    assert seen[0].headers["x-slipway-purpose"] == "evaluation"
    assert seen[0].headers["x-slipway-preview"] == "t"


@pytest.mark.parametrize(
    ("response", "kind", "code"),
    [
        (httpx.Response(503, text="loading"), TransientError, "endpoint-error"),
        (httpx.Response(429), TransientError, "endpoint-error"),
        (httpx.Response(404, text="no such model"), PermanentError, "endpoint-refused"),
        (httpx.Response(200, text="<html>"), PermanentError, "endpoint-answer-invalid"),
        (httpx.Response(200, json={"choices": []}), PermanentError, "endpoint-answer-invalid"),
        (httpx.Response(200, json=chat(None)), PermanentError, "endpoint-answer-invalid"),
        (httpx.Response(200, json=[1]), PermanentError, "endpoint-answer-invalid"),
    ],
)
def test_what_is_no_answer_is_named(
    answering: Callable[[Handler], HttpChatEndpoint],
    response: httpx.Response,
    kind: type[SlipwayError],
    code: str,
) -> None:
    with pytest.raises(kind) as caught:
        answering(lambda _request: response).ask("ping", model="m", max_tokens=4)
    assert caught.value.code == code


def test_a_broken_connection_may_be_tried_again(
    answering: Callable[[Handler], HttpChatEndpoint],
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(TransientError) as caught:
        answering(handler).ask("ping", model="m", max_tokens=4)
    assert caught.value.code == "endpoint-unreachable"


def test_a_base_url_that_is_none_is_the_users_to_mend() -> None:
    with pytest.raises(InputError, match="no URL"):
        HttpChatEndpoint("http://a\x00b").ask("ping", model="m", max_tokens=4)
