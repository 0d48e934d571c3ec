"""What a door promises: nothing without a fault, and with one exactly what was asked for."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipway import cli
from slipway.core.errors import ConflictError, InputError, TransientError
from slipway.sandbox.faults.client import active_faults, add_fault, list_faults
from slipway.sandbox.faults.model import Fault, Kind, Target, parse_target
from tests.contract.fault_toys import Faulty, faulty, pattern, read_to_end, toy_server
from tests.contract.network_toys import free_port

MB = 1 << 20
GET = b"GET /%d HTTP/1.1\r\nHost: toy\r\n\r\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """One process for the tests of this module; its doors lead to one toy server."""
    folder = tmp_path_factory.mktemp("faults")
    with toy_server() as server:
        inner = dict.fromkeys(("s3", "registry", "mlflow"), server.server_port)
        with faulty(folder, inner) as made:
            yield made


@pytest.fixture
def doors(shared: Faulty) -> Iterator[Faulty]:
    """The process without any fault, before and after."""
    assert active_faults(shared.run) == ()
    yield shared
    shared.mend()


# -- without a fault ------------------------------------------------------------------------------


def test_without_a_fault_large_bodies_pass_unchanged_both_ways(doors: Faulty) -> None:
    body = pattern(40 * MB + 17)
    with contextlib.closing(doors.http("s3")) as client:
        client.request("GET", f"/{len(body)}")
        assert client.getresponse().read() == body
        client.request("PUT", "/x", body=body)
        assert client.getresponse().read().decode() == hashlib.sha256(body).hexdigest()


def test_hundred_clients_at_once_are_served_on_kept_connections(doors: Faulty) -> None:
    begin = threading.Barrier(100)

    def client(number: int) -> bool:
        with contextlib.closing(doors.http("s3")) as connection:
            connection.connect()
            own = connection.sock
            begin.wait(60)
            for turn in range(5):
                size = 1000 * number + turn
                connection.request("GET", f"/{size}")
                if connection.getresponse().read() != pattern(size):
                    return False
            return connection.sock is own

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(client, range(100)))


def test_half_closed_connection_still_gets_its_answer(doors: Faulty) -> None:
    """A sender that has said all, and waits: TCP's half-close must pass the door."""
    with doors.connect("s3") as connection:
        connection.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % (3 * MB))
        connection.shutdown(socket.SHUT_WR)
        answer, was_reset = read_to_end(connection)
    assert answer.partition(b"\r\n\r\n")[2] == pattern(3 * MB)
    assert not was_reset


def test_server_that_is_gone_is_seen_as_a_broken_connection(tmp_path: Path) -> None:
    with (
        faulty(tmp_path, {"s3": free_port()}) as made,
        contextlib.closing(made.connect("s3")) as connection,
    ):
        assert read_to_end(connection) == (b"", True)


# -- latency --------------------------------------------------------------------------------------


def test_latency_is_added_to_every_request_and_ends_when_removed(doors: Faulty) -> None:
    with contextlib.closing(doors.http("s3")) as client:  # open before, and kept all the time
        client.connect()

        def took_s() -> float:
            began_s = time.monotonic()
            client.request("GET", "/10")
            assert client.getresponse().read() == pattern(10)
            return time.monotonic() - began_s

        took_s()
        fault = doors.add("s3", Kind.LATENCY, latency_ms=150, jitter_ms=50)
        slow = [took_s() for _ in range(5)]
        doors.mend(fault)
        fast = min(took_s() for _ in range(5))
    assert min(slow) >= 0.150
    assert fast < 0.150


def test_latency_of_one_server_leaves_the_others_alone(doors: Faulty) -> None:
    doors.add("registry", Kind.LATENCY, latency_ms=5000)
    began_s = time.monotonic()
    assert doors.get("s3") == 200
    assert time.monotonic() - began_s < 4


# -- errors ---------------------------------------------------------------------------------------


def statuses(doors: Faulty, count: int) -> list[int]:
    return [doors.get("s3") for _ in range(count)]


def test_share_of_errors_is_what_was_asked_and_the_same_for_the_same_seed(doors: Faulty) -> None:
    fault = doors.add("s3", Kind.ERROR, share=0.3, seed=7)
    first = statuses(doors, 200)
    doors.mend(fault)
    assert set(statuses(doors, 20)) == {200}
    doors.add("s3", Kind.ERROR, share=0.3, seed=7)
    assert statuses(doors, 200) == first
    assert list(list_faults(doors.run).hits.values()) == [first.count(503)]
    assert 35 <= first.count(503) <= 85  # 60 expected, ± 4 standard deviations
    assert set(first) == {200, 503}


def test_error_takes_hold_of_a_connection_that_was_open_before(doors: Faulty) -> None:
    with contextlib.closing(doors.http("s3")) as client:
        client.request("GET", "/10")
        client.getresponse().read()
        doors.add("s3", Kind.ERROR, status=500)
        client.request("GET", "/10")
        answer = client.getresponse()
        assert answer.status == 500
        assert b"<Code>InternalError</Code>" in answer.read()


def test_bytes_that_begin_no_request_are_passed_on(doors: Faulty) -> None:
    """Bytes of an upload that goes on are no request, whatever they look like."""
    doors.add("s3", Kind.ERROR)
    with doors.connect("s3") as connection:
        connection.sendall(b"GETTING nowhere\r\n\r\n")
        got, _ = read_to_end(connection)
    assert b"503" not in got
    assert list(list_faults(doors.run).hits.values()) == [0]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("s3", b"<Code>SlowDown</Code>"),
        ("registry", b'"code": "UNKNOWN"'),
        ("mlflow", b'"error_code": "TEMPORARILY_UNAVAILABLE"'),
    ],
)
def test_error_speaks_as_its_server_does(doors: Faulty, name: str, wanted: bytes) -> None:
    doors.add(name, Kind.ERROR)
    with contextlib.closing(doors.http(name)) as client:
        client.request("GET", "/1")
        answer = client.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.headers["X-Slipway-Fault"].startswith("f")
        assert wanted in answer.read()


def test_error_on_a_large_upload_is_read_by_its_sender(doors: Faulty) -> None:
    """A server that closes on unread bytes sends RST, and the answer is lost."""
    doors.add("s3", Kind.ERROR)
    with contextlib.closing(doors.http("s3")) as client:
        client.request("PUT", "/x", body=pattern(20 * MB))
        assert client.getresponse().status == 503


# -- resets and cuts ------------------------------------------------------------------------------


def answered(doors: Faulty, size: int) -> tuple[bytes, bool]:
    with doors.connect("s3") as connection:
        connection.sendall(GET % size)
        return read_to_end(connection)


def test_reset_is_a_tcp_reset_before_any_answer(doors: Faulty) -> None:
    doors.add("s3", Kind.RESET)
    assert answered(doors, 1000) == (b"", True)


def test_reset_after_some_bytes_comes_in_the_middle_of_the_answer(doors: Faulty) -> None:
    doors.add("s3", Kind.RESET, after_bytes=100_000)
    got, was_reset = answered(doors, 5 * MB)
    assert was_reset
    assert len(got) <= 100_000


def test_cut_answer_has_so_many_bytes_and_then_ends(doors: Faulty) -> None:
    doors.add("s3", Kind.CUT, after_bytes=100_000)
    got, was_reset = answered(doors, 5 * MB)
    assert (len(got), was_reset) == (100_000, False)
    body = got.partition(b"\r\n\r\n")[2]
    assert body == pattern(len(body))


def test_answer_shorter_than_the_cut_is_whole(doors: Faulty) -> None:
    doors.add("s3", Kind.CUT, after_bytes=100_000)
    with contextlib.closing(doors.http("s3")) as client:
        for _ in range(5):  # the count begins anew with each request
            client.request("GET", "/40000")
            assert client.getresponse().read() == pattern(40_000)


def test_share_of_resets_is_what_was_asked(doors: Faulty) -> None:
    doors.add("s3", Kind.RESET, share=0.2, seed=1)
    results = []
    for _ in range(150):
        try:
            results.append(doors.get("s3"))
        except (ConnectionResetError, http.client.RemoteDisconnected):
            results.append(0)
    assert 10 <= results.count(0) <= 50  # 30 expected, ± 4 standard deviations
    assert set(results) == {0, 200}


# -- away -----------------------------------------------------------------------------------------


def test_server_that_is_away_refuses_breaks_what_was_open_and_comes_back(doors: Faulty) -> None:
    with doors.connect("s3") as open_before:
        open_before.sendall(GET % 10)
        assert open_before.recv(1)
        doors.add("s3", Kind.AWAY, lasts_s=1.5)
        assert read_to_end(open_before)[1]
    with pytest.raises(ConnectionRefusedError):
        doors.connect("s3")
    deadline_s = time.monotonic() + 20
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            assert doors.get("s3") == 200
            break
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert active_faults(doors.run) == ()


# -- adding and removing --------------------------------------------------------------------------


def test_faults_that_come_and_go_fail_no_request(doors: Faulty) -> None:
    stop = threading.Event()

    def client(_: int) -> int:
        served = 0
        with contextlib.closing(doors.http("s3")) as connection:
            while not stop.is_set():
                connection.request("GET", "/70000")
                if connection.getresponse().read() == pattern(70_000):
                    served += 1
        return served

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(client, number) for number in range(4)]
        for _ in range(20):
            fault = doors.add("s3", Kind.LATENCY, latency_ms=2)
            doors.mend(fault)
        stop.set()
        assert all(done.result() > 0 for done in running)


def test_killed_process_comes_back_with_its_faults(doors: Faulty) -> None:
    doors.add("s3", Kind.ERROR)
    last = doors.add("registry", Kind.AWAY, lasts_s=0.2)
    doors.kill()
    time.sleep(0.3)
    doors.start()
    assert doors.get("s3") == 503
    assert doors.get("registry") == 200
    assert doors.add("s3", Kind.LATENCY, latency_ms=1) == f"f{int(last[1:]) + 1}"


def test_what_makes_no_sense_is_refused_and_changes_nothing(doors: Faulty) -> None:
    with pytest.raises(InputError, match="share 2"):
        doors.add("s3", Kind.ERROR, share=2)
    with pytest.raises(InputError, match="no disk"):
        doors.add("registry", Kind.DISK_FULL)
    with pytest.raises(InputError, match="no fault f999"):
        doors.mend("f999")
    assert active_faults(doors.run) == ()


def test_more_faults_than_anybody_needs_are_refused(doors: Faulty) -> None:
    for _ in range(20):
        doors.add("s3", Kind.LATENCY, latency_ms=1)
    with pytest.raises(ConflictError):
        doors.add("s3", Kind.LATENCY, latency_ms=1)


def test_sandbox_that_does_not_run_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    fault = Fault(id="", target=parse_target("s3"), kind=Kind.ERROR)
    with pytest.raises(TransientError, match="no sandbox runs") as caught:
        add_fault(tmp_path_factory.mktemp("nobody"), fault)
    assert "sandbox up" in caught.value.hint


def test_pods_cannot_be_faulted_while_the_cluster_is_silent(doors: Faulty) -> None:
    with pytest.raises(TransientError, match="kubeconfig"):
        doors.add("service/llama3", Kind.ERROR)
    assert active_faults(doors.run) == ()


def test_full_disk_of_a_node_is_a_file_that_its_runtime_sees(doors: Faulty) -> None:
    fault = doors.add("node/node-a", Kind.DISK_FULL)
    assert (doors.run / "disk-full-node-a").exists()
    doors.mend(fault)
    assert not (doors.run / "disk-full-node-a").exists()


def test_targets_are_written_as_they_are_read() -> None:
    for text in ("s3", "node/node-a", "service/llama3", "pod/llama3-blue-0/other"):
        assert str(parse_target(text)) == text
    assert isinstance(parse_target("apiserver"), Target)
    with pytest.raises(InputError):
        parse_target("etcd")


def test_store_is_readable_json_of_this_user_only(doors: Faulty) -> None:
    doors.add("s3", Kind.ERROR)
    found = json.loads((doors.run / "faults.json").read_text())
    assert [item["kind"] for item in found["active"]] == ["error"]
    assert (doors.run / "faults.sock").stat().st_mode & 0o077 == 0


def test_fault_of_a_named_sandbox_that_is_down_says_how_that_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLIPWAY_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["slipway", "sandbox", "fault", "list", "--name", "second"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().err
    assert caught.value.code not in {0, 2}
    assert f"no sandbox runs in {tmp_path}/slipway-second" in said
    assert "start it: slipway sandbox up --name second" in said
