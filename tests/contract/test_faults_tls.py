"""The API server's door: closed TLS passes; only while errors are on is it looked into."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from slipway.sandbox.faults.model import Kind
from tests.contract.fault_toys import Faulty, faulty, pattern, toy_server
from tests.contract.tls_toys import write_certificates


@dataclass(frozen=True)
class Api:
    """A toy API server behind its door."""

    doors: Faulty
    trust: ssl.SSLContext

    def client(self) -> http.client.HTTPSConnection:
        port = self.doors.ports["apiserver"]
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=self.trust)

    def ask(self, path: str = "/10") -> tuple[int, bytes, str]:
        with contextlib.closing(self.client()) as client:
            return ask(client, path)


def ask(client: http.client.HTTPSConnection, path: str = "/10") -> tuple[int, bytes, str]:
    """Return status, body and the token that the server saw."""
    client.request("GET", path, headers={"Authorization": "Bearer abc"})
    answer = client.getresponse()
    return answer.status, answer.read(), answer.headers.get("X-Token", "")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    write_certificates(folder)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "apiserver.crt", folder / "apiserver.key")
    trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    with toy_server() as server:
        server.tls = serving
        with faulty(folder, {"apiserver": server.server_port}, folder) as doors:
            yield Api(doors, trust)


@pytest.fixture
def api(running: Api) -> Iterator[Api]:
    yield running
    running.doors.mend()


def test_without_an_error_the_servers_own_tls_reaches_the_client(api: Api) -> None:
    api.doors.add("apiserver", Kind.LATENCY, latency_ms=1)
    assert api.ask("/300000") == (200, pattern(300_000), "Bearer abc")


def test_error_is_a_status_object_and_the_rest_passes_with_its_token(api: Api) -> None:
    api.doors.add("apiserver", Kind.ERROR, share=0.5, seed=3)
    answers = [api.ask() for _ in range(20)]
    bad = [body for status, body, _ in answers if status == 503]
    good = [answer for answer in answers if answer[0] == 200]
    assert good == [(200, pattern(10), "Bearer abc")] * len(good)
    assert 3 <= len(bad) <= 17
    assert json.loads(bad[0])["kind"] == "Status"
    assert json.loads(bad[0])["reason"] == "ServiceUnavailable"


def test_too_many_requests_says_when_to_ask_again(api: Api) -> None:
    api.doors.add("apiserver", Kind.ERROR, status=429)
    with contextlib.closing(api.client()) as client:
        client.request("GET", "/1")
        answer = client.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        assert json.loads(answer.read())["reason"] == "TooManyRequests"


def test_large_answers_pass_while_tls_is_looked_into(api: Api) -> None:
    api.doors.add("apiserver", Kind.ERROR, share=0.000001)
    assert api.ask("/5000000")[1] == pattern(5_000_000)


def test_connection_that_was_open_before_is_ended_between_two_requests(api: Api) -> None:
    with contextlib.closing(api.client()) as client:
        assert ask(client)[0] == 200
        old = client.sock
        api.doors.add("apiserver", Kind.ERROR)
        assert old.recv(1) == b""  # an orderly end: a client of Go or urllib3 dials anew
        client.close()
        assert ask(client)[0] == 503


def test_latency_of_closed_tls_counts_for_every_turn(api: Api) -> None:
    with contextlib.closing(api.client()) as client:
        ask(client)
        api.doors.add("apiserver", Kind.LATENCY, latency_ms=200)
        began_s = time.monotonic()
        assert ask(client)[0] == 200
        assert time.monotonic() - began_s >= 0.2


def test_reset_of_closed_tls_breaks_the_handshake(api: Api) -> None:
    api.doors.add("apiserver", Kind.RESET)
    with pytest.raises(ConnectionResetError):
        api.ask()
