"""The simulated model server over its socket, from the files that its image carries."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from slipway.sandbox.images import simulated_files
from slipway.sandbox.servers.simulated_behaviour import Behaviour, Fate, fate
from slipway.sandbox.weights import simulated_version
from tests.contract.model_servers import RunningServer, start_server, unpack

Start = Callable[..., RunningServer]

CHAT = "/v1/chat/completions"


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Start]:
    image = unpack(simulated_files(), tmp_path / "image")
    started: list[RunningServer] = []

    def launch(**behaviour: object) -> RunningServer:
        model = simulated_version(tmp_path / "model", **behaviour)
        started.append(start_server("simulated", image, model, tmp_path))
        return started[-1]

    yield launch
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def start(launch: Start) -> Start:
    def start(**behaviour: object) -> RunningServer:
        server = launch(**behaviour)
        server.wait_for_health(200)
        return server

    return start


def ask(prompt: str = "ping", **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": prompt}], **fields}


def events(response: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    found = events(response)
    assert found[-1] == "[DONE]"
    return [json.loads(event) for event in found[:-1]]


def truth(server: RunningServer, rows: int) -> list[dict[str, Any]]:
    """Return the log once it has `rows` rows."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        lines = server.truth.read_text().splitlines() if server.truth.exists() else []
        if len(lines) >= rows:
            return [json.loads(line) for line in lines]
        time.sleep(0.02)
    raise AssertionError(f"the log never had {rows} rows")


def test_chat_stream_is_role_then_tokens_then_reason_then_done(start: Start) -> None:
    server = start(answers={"ping": "pong at last"}, ttft_ms=1, gap_ms=1)
    options = {"include_usage": True}
    with (
        server.client() as client,
        client.stream("POST", CHAT, json=ask(stream=True, stream_options=options)) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        role, *tokens, reason, usage = chunks(response)
    assert role["choices"][0]["delta"] == {"role": "assistant"}
    assert [token["choices"][0]["delta"]["content"] for token in tokens] == ["pong", " at", " last"]
    assert reason["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    assert {chunk["object"] for chunk in (role, *tokens, reason)} == {"chat.completion.chunk"}


def test_role_comes_at_once_and_the_first_token_after_ttft(start: Start) -> None:
    server = start(ttft_ms=300)
    with server.client() as client:
        began_s = time.monotonic()
        with client.stream("POST", CHAT, json=ask(stream=True)) as response:
            lines = response.iter_lines()
            assert '"role"' in next(lines)
            role_s = time.monotonic() - began_s
            next(lines)
            assert '"content":"pong"' in next(lines)
            token_s = time.monotonic() - began_s
    assert role_s < 0.2
    assert 0.3 <= token_s < 0.6


def test_usage_is_left_out_unless_asked_for(start: Start) -> None:
    with start().client() as client:
        response = client.post(CHAT, json=ask(stream=True))
    assert "usage" not in response.text


def test_whole_chat_answer_has_message_reason_and_usage(start: Start) -> None:
    with start().client() as client:
        body = client.post(CHAT, json=ask(model="model")).json()
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "pong"}
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 1


def test_completions_stream_has_texts_and_no_role(start: Start) -> None:
    asked = {"prompt": "ping", "stream": True, "max_tokens": 5, "ignore_eos": True}
    with start(gap_ms=0).client() as client:
        *tokens, reason = chunks(client.post("/v1/completions", json=asked))
    assert len(tokens) == 5
    assert tokens[0]["choices"][0]["text"] == "pong"
    assert reason["choices"][0]["finish_reason"] == "length"


def test_models_names_the_served_model(start: Start) -> None:
    with start().client() as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["model"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"messages": []}', 400),
        (b'{"messages": [{"role": "user", "content": 1}]}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', 400),
        (b'{"model": "other", "messages": [{"role": "user", "content": "x"}]}', 404),
    ],
)
def test_unusable_request_is_refused_with_an_error_object(
    start: Start, body: bytes, status: int
) -> None:
    with start().client() as client:
        response = client.post(CHAT, content=body)
    assert response.status_code == status
    assert response.json()["error"]["code"] == status


def test_unknown_path_and_method_are_refused(start: Start) -> None:
    with start().client() as client:
        assert client.get("/nothing").status_code == 404
        assert client.delete(CHAT).status_code == 405


def test_two_requests_in_one_packet_get_two_answers_in_order(start: Start) -> None:
    server = start(answers={"one": "first", "two": "second"})
    host, port = server.url.removeprefix("http://").split(":")
    packet = b""
    for prompt in ("one", "two"):
        body = json.dumps(ask(prompt)).encode()
        packet += b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body))
        packet += body
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(packet)
        received = b""
        while b"second" not in received:
            received += client.recv(65536)
    assert received.index(b"first") < received.index(b"second")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /health HTTP/1.0\r\n\r\n", b"200"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_connection_is_closed_when_the_client_wants_it_or_talks_nonsense(
    start: Start, request_head: bytes, status: bytes
) -> None:
    host, port = start().url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request_head)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    assert received.split(b" ")[1] == status
    assert b"connection: close" in received


def test_client_that_reads_slowly_gets_the_whole_stream(start: Start) -> None:
    server = start(ttft_ms=0, gap_ms=0)
    small = httpx.HTTPTransport(
        verify=False, socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)]
    )
    body = ask(stream=True, max_tokens=30_000, ignore_eos=True)
    with (
        httpx.Client(base_url=server.url, transport=small, timeout=30) as client,
        client.stream("POST", CHAT, json=body) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        time.sleep(1)
        rest = [line for line in lines if line]
    assert sum('"content"' in line for line in rest) == 30_000
    assert rest[-1] == "data: [DONE]"


def test_errors_come_as_500_just_as_often_as_the_rule_says(start: Start) -> None:
    behaviour = Behaviour(error_rate_percent=30, ttft_ms=0, gap_ms=0, seed=5)
    server = start(error_rate_percent=30, ttft_ms=0, gap_ms=0, seed=5)
    with server.client() as client:
        statuses = [client.post(CHAT, json=ask()).status_code for _ in range(100)]
    expected = [500 if fate(behaviour, n) is Fate.ERROR else 200 for n in range(100)]
    assert statuses == expected
    assert 15 < statuses.count(500) < 45


@pytest.mark.parametrize("stream", [True, False])
def test_truncated_answer_ends_without_done_and_the_client_notices(
    start: Start, stream: bool
) -> None:
    server = start(truncate_rate_percent=100, ttft_ms=0, gap_ms=1)
    with server.client() as client, pytest.raises(httpx.RemoteProtocolError):
        client.post(CHAT, json=ask("tell", stream=stream, max_tokens=16, ignore_eos=True))
    (row,) = truth(server, 1)
    assert row["finished"] == "truncated"
    assert 1 <= row["tokens"] < 16


def test_loading_server_is_unhealthy_and_refuses_until_loaded(launch: Start) -> None:
    server = launch(start_delay_s=1)
    server.wait_for_health(503)
    with server.client() as client:
        assert client.post(CHAT, json=ask()).status_code == 503
        server.wait_for_health(200)
        assert client.post(CHAT, json=ask()).status_code == 200


def test_never_ready_server_stays_unhealthy_and_still_stops(launch: Start) -> None:
    server = launch(never_ready=True)
    server.wait_for_health(503)
    time.sleep(0.2)
    assert server.health() == 503
    assert server.stop() == 0


def test_crash_on_start_ends_with_the_exit_code_stated(launch: Start) -> None:
    assert launch(crash_on_start=42).process.wait(timeout=10) == 42


def test_crash_after_a_while_ends_with_one(start: Start) -> None:
    assert start(crash_after_s=0.5).process.wait(timeout=10) == 1


def test_unknown_key_keeps_it_from_starting_and_is_named(launch: Start, tmp_path: Path) -> None:
    server = launch()
    server.process.kill()
    (tmp_path / "model/simulated.json").write_text('{"tfft_ms": 1}')
    again = start_server("simulated", tmp_path / "image", tmp_path / "model", tmp_path)
    assert again.process.wait(timeout=10) == 2
    assert any("unknown key 'tfft_ms'" in file.read_text() for file in tmp_path.glob("stderr-*"))


def test_wrong_answers_are_wrong(start: Start) -> None:
    with start(wrong_answers=True).client() as client:
        assert "pong" not in client.post(CHAT, json=ask()).text


def test_sigterm_drains_open_streams_and_still_serves_until_idle(start: Start) -> None:
    server = start(ttft_ms=50, gap_ms=25)
    body = ask(stream=True, max_tokens=40, ignore_eos=True)  # one second
    with server.client() as client, client.stream("POST", CHAT, json=body) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.terminate()
        server.wait_for_health(503)
        with server.client() as late:
            answered = late.post(CHAT, json=ask())
        assert answered.status_code == 200
        assert answered.headers["connection"] == "close"
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]
    assert sum('"content"' in line for line in rest) == 40
    assert server.process.wait(timeout=5) == 0


def test_idle_server_ends_soon_after_sigterm(start: Start) -> None:
    server = start()
    began_s = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began_s < 2


def test_metrics_count_what_was_served_under_vllms_names(start: Start) -> None:
    server = start(ttft_ms=10, gap_ms=2)
    with server.client() as client:
        for _ in range(3):
            client.post(CHAT, json=ask(stream=True, max_tokens=4, ignore_eos=True))
        samples = dict(
            line.rsplit(" ", 1)
            for line in client.get("/metrics").text.splitlines()
            if not line.startswith("#")
        )
    labels = 'engine="0",model_name="model"'
    assert samples[f"vllm:generation_tokens_total{{{labels}}}"] == "12"
    assert samples[f"vllm:prompt_tokens_total{{{labels}}}"] == "3"
    assert samples[f"vllm:num_requests_running{{{labels}}}"] == "0"
    assert samples[f'vllm:request_success_total{{{labels},finished_reason="length"}}'] == "3"
    assert samples[f"vllm:time_to_first_token_seconds_count{{{labels}}}"] == "3"
    assert samples[f"vllm:inter_token_latency_seconds_count{{{labels}}}"] == "9"
    assert float(samples[f"vllm:time_to_first_token_seconds_sum{{{labels}}}"]) >= 0.03


def test_ground_truth_agrees_with_what_many_clients_counted(start: Start) -> None:
    server = start(ttft_ms=20, gap_ms=2, jitter_percent=50, truncate_rate_percent=20)

    def one(number: int) -> tuple[str, int, bool, int]:
        headers = {"x-request-id": f"r{number}", "x-slipway-purpose": "test"}
        body = ask("tell", stream=True, max_tokens=8, ignore_eos=True)
        tokens, done, first_ns = 0, False, 0
        try:
            with (
                server.client() as client,
                client.stream("POST", CHAT, json=body, headers=headers) as response,
            ):
                for line in response.iter_lines():
                    if '"content"' in line:
                        first_ns = first_ns or time.monotonic_ns()
                        tokens += 1
                    done = done or line == "data: [DONE]"
        except httpx.RemoteProtocolError:
            pass
        return f"r{number}", tokens, done, first_ns

    with ThreadPoolExecutor(10) as pool:
        seen = list(pool.map(one, range(60)))
    rows = {row["x_request_id"]: row for row in truth(server, 60)}
    assert len(rows) == 60
    for identity, tokens, done, first_ns in seen:
        row = rows[identity]
        assert (row["tokens"], row["finished"] == "done") == (tokens, done)
        assert row["received_ns"] < row["first_ns"] <= row["last_ns"] <= row["ended_ns"]
        assert row["first_ns"] <= first_ns
        assert row["x_slipway_purpose"] == "test"
    assert {row["finished"] for row in rows.values()} == {"done", "truncated"}


def test_client_that_leaves_is_logged_as_gone(start: Start) -> None:
    server = start(gap_ms=50)
    body = ask(stream=True, max_tokens=100, ignore_eos=True)
    with server.client() as client, client.stream("POST", CHAT, json=body) as response:
        next(response.iter_lines())
    (row,) = truth(server, 1)
    assert row["finished"] == "client_gone"
    assert row["tokens"] < 100


def test_request_identity_comes_back(start: Start) -> None:
    with start().client() as client:
        answered = client.post(CHAT, json=ask(), headers={"x-request-id": "abc"})
    assert answered.headers["x-request-id"] == "abc"
