"""llama.cpp's server with SmolLM2, from the files that its image carries."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.adapters.service_file import load_service
from slipway.core.service import ServiceSpec
from slipway.sandbox.images import llama_files
from slipway.sandbox.weights import cache_folder, make_variants
from tests.contract.model_servers import RunningServer, start_server

Start = Callable[[int], RunningServer]

CHAT = "/v1/chat/completions"
SERVICE = Path(__file__).parents[2] / "deployments/services/smollm.yaml"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("llama-image")
    for inner, local in llama_files().items():
        target = root / inner.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(local)  # 106 MB that need no copy
    return root


@pytest.fixture
def start(image: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[RunningServer] = []

    def start(version: int) -> RunningServer:
        model = make_variants(cache_folder() / "smollm")[version - 1]
        started.append(start_server("llama", image, model, tmp_path))
        started[-1].wait_for_health(200)
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def service() -> ServiceSpec:
    return load_service(SERVICE)


def ask(prompt: str, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "temperature": 0, **fields}


def right_answers(server: RunningServer, service: ServiceSpec) -> list[bool]:
    quality = service.policy.quality
    with server.client() as client:
        answers = [
            client.post(CHAT, json=ask(golden.prompt, max_tokens=quality.max_tokens)).json()
            for golden in quality.golden
        ]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    return [
        re.search(golden.expect, text, re.IGNORECASE) is not None
        for golden, text in zip(quality.golden, texts, strict=True)
    ]


def test_stream_is_role_then_tokens_then_reason_then_done(start: Start) -> None:
    with start(1).client() as client:
        text = client.post(CHAT, json=ask("Count to three.", stream=True, max_tokens=8)).text
    *events, done = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert done == "[DONE]"
    role, *tokens, reason = [json.loads(event)["choices"][0] for event in events]
    assert role["delta"] == {"role": "assistant", "content": None}
    assert len(tokens) == 8
    assert all(token["delta"]["content"] for token in tokens)
    assert reason["finish_reason"] == "length"


@pytest.mark.parametrize("version", [1, 2])
def test_good_version_knows_every_golden_answer(
    start: Start, service: ServiceSpec, version: int
) -> None:
    assert all(right_answers(start(version), service))


def test_damaged_version_loads_and_knows_none(start: Start, service: ServiceSpec) -> None:
    server = start(3)
    assert server.health() == 200
    assert not any(right_answers(server, service))


def test_same_prompt_gets_the_same_answer_twice(start: Start) -> None:
    with start(1).client() as client:
        first, again = (
            client.post(CHAT, json=ask("Tell me about the sea.", max_tokens=24)).json()
            for _ in range(2)
        )
    assert first["choices"] == again["choices"]


def test_served_model_has_the_name_given(start: Start) -> None:
    with start(1).client() as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "model"


def test_sigterm_lets_an_open_stream_finish(start: Start) -> None:
    server = start(1)
    body = ask("Tell me a story.", stream=True, max_tokens=60)
    with server.client() as client, client.stream("POST", CHAT, json=body) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.terminate()
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert server.process.wait(timeout=10) == 0


def test_idle_server_ends_soon_after_sigterm(start: Start) -> None:
    server = start(1)
    began_s = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began_s < 5


def test_folder_without_a_model_keeps_it_from_starting(image: Path, tmp_path: Path) -> None:
    server = start_server("llama", image, tmp_path, tmp_path)
    assert server.process.wait(timeout=20) == 2
    (log,) = tmp_path.glob("stderr-*")
    assert "exactly one *.gguf" in log.read_text()
