"""The load generator against real sockets: counts, clocks, and every way a stream can go wrong."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.bench.engine import drive
from slipway.bench.runner import run_benchmark
from slipway.bench.users import read_summary
from slipway.bench.validation import TableReport, validate
from slipway.bench.values import BenchmarkPlan, RequestRow, RequestTable, Status, Target
from slipway.core.errors import InputError, TransientError
from tests.contract.streaming_server import GAP_S, StreamingServer, streaming_server

CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def server() -> Iterator[StreamingServer]:
    with streaming_server() as server:
        yield server


def ask(server: StreamingServer, prompt: str, *, timeout_s: float = 5.0) -> RequestRow:
    plan = BenchmarkPlan(
        requests=1, concurrency=1, max_tokens=4, prompts=(prompt,), timeout_s=timeout_s
    )
    return asyncio.run(drive(Target(url=server.url, model="m"), plan, run_id="r")).rows[0]


def test_a_benchmark_in_its_own_process_counts_right_and_keeps_its_streams(
    server: StreamingServer,
) -> None:
    plan = BenchmarkPlan(requests=30, concurrency=6, warmup_requests=7, max_tokens=5)
    target = Target(url=server.url, model="m", headers=(("host", "simulated.localhost"),))
    table = run_benchmark(target, plan, run_id="run1")
    assert [row.status for row in table.rows] == [Status.OK] * 30
    assert {row.output_tokens for row in table.rows} == {5}
    assert {row.input_tokens for row in table.rows} == {3}
    assert server.most_open == 6
    assert server.connections == 12  # six for the warm-up, six for the run, all kept alive
    assert len(server.ids) == 37
    assert {row.request_id for row in table.rows} == {
        name for name in server.ids if "warmup" not in name
    }
    assert all("host: simulated.localhost" in head for head in server.heads)
    assert all("x-slipway-purpose: benchmark" in head for head in server.heads)
    assert table.window_s > 5 * 5 * GAP_S
    assert validate(table, plan).valid


def test_two_targets_are_asked_in_turns_one_request_at_a_time(server: StreamingServer) -> None:
    plan = BenchmarkPlan(requests=4, concurrency=1, warmup_requests=1, max_tokens=5)
    arms = [
        Target(url=server.url, model="m", headers=(("host", f"{name}.localhost"),))
        for name in ("candidate", "stable")
    ]
    table = run_benchmark(arms[0], plan, run_id="run1", stable=arms[1])
    assert [row.scenario for row in table.rows] == [
        *("stable", "candidate", "candidate", "stable"),
        *("stable", "candidate", "candidate", "stable"),
    ]
    assert {row.status for row in table.rows} == {Status.OK}
    assert server.most_open == 1
    hosts = [
        "candidate" if "host: candidate.localhost" in head else "stable" for head in server.heads
    ]
    assert hosts[2:] == [row.scenario for row in table.rows]
    assert all("x-slipway-purpose: benchmark" in head for head in server.heads)
    ids = {row.request_id for row in table.rows}
    assert len(ids) == 8
    assert len(set(server.ids) - ids) == 2  # the warm-up


def test_the_first_token_is_stamped_when_it_comes_not_when_the_role_does(
    server: StreamingServer,
) -> None:
    plan = BenchmarkPlan(requests=5, concurrency=1, max_tokens=4)
    table = asyncio.run(drive(Target(url=server.url, model="m"), plan, run_id="r"))
    late_ms = [
        row.ttft_ms - (server.first_token_ns[row.request_id] - row.start_ns) / 1e6
        for row in table.rows
        if row.ttft_ms is not None
    ]
    assert len(late_ms) == 5
    assert all(row.ttft_ms and row.ttft_ms >= GAP_S * 1000 for row in table.rows)
    # Both clocks are this machine's: the stamp comes after the event, and on a busy machine soon.
    assert 0 <= min(late_ms) < 10
    for row in table.rows:
        assert row.latency_ms is not None
        assert row.ttft_ms is not None
        assert row.itl_ms == pytest.approx((row.latency_ms - row.ttft_ms) / 3)


@pytest.mark.parametrize(
    ("prompt", "status", "said"),
    [
        ("plain", Status.OK, ""),
        ("crlf", Status.OK, ""),
        ("close", Status.OK, ""),
        ("error-event", Status.ERROR, "out of memory"),
        ("http-500", Status.ERROR, "HTTP 500: no luck"),
        ("not-http", Status.ERROR, "not HTTP"),
        ("empty", Status.ERROR, "no content"),
        ("reset", Status.TRUNCATED, "after 2 events"),
        ("truncated", Status.TRUNCATED, "without [DONE] after 4 events"),
    ],
)
def test_each_end_of_a_stream_is_told_apart(
    server: StreamingServer, prompt: str, status: Status, said: str
) -> None:
    row = ask(server, prompt)
    assert (row.status, said in row.error) == (status, True), row.error
    assert (row.itl_ms is not None) == (status is Status.OK)


def test_a_server_that_never_answers_ends_with_the_time_limit(server: StreamingServer) -> None:
    row = ask(server, "hang", timeout_s=0.2)
    assert row.status is Status.ERROR
    assert "0.2 s" in row.error


def test_a_connection_the_server_will_close_is_not_used_again(server: StreamingServer) -> None:
    plan = BenchmarkPlan(requests=5, concurrency=1, max_tokens=1, prompts=("close",))
    table = asyncio.run(drive(Target(url=server.url, model="m"), plan, run_id="r"))
    assert [row.status for row in table.rows] == [Status.OK] * 5
    assert server.connections == 5


def test_a_failure_costs_one_request_and_the_stream_goes_on(server: StreamingServer) -> None:
    plan = BenchmarkPlan(
        requests=40,
        concurrency=4,
        max_tokens=4,
        prompts=("plain", "reset", "http-500", "error-event", "truncated"),
    )
    table = asyncio.run(drive(Target(url=server.url, model="m"), plan, run_id="r"))
    assert Counter(row.status for row in table.rows) == {
        Status.OK: 8,
        Status.ERROR: 16,
        Status.TRUNCATED: 16,
    }
    assert validate(table, plan) == TableReport(valid=True, problems=(), rules=13)


def test_a_target_behind_a_proxy_is_reached_through_its_tunnel(server: StreamingServer) -> None:
    target = Target(url="http://100.100.1.7:8000", model="m", proxy=server.url)
    plan = BenchmarkPlan(requests=4, concurrency=2, max_tokens=2)
    table = run_benchmark(target, plan, run_id="r")
    assert [row.status for row in table.rows] == [Status.OK] * 4
    assert set(server.tunnels) == {"100.100.1.7:8000"}
    assert all("host: 100.100.1.7:8000" in head for head in server.heads)


@pytest.mark.parametrize("what", ["server", "proxy", "refused"])
def test_a_target_nobody_reaches_says_nothing_of_the_model(
    server: StreamingServer, what: str
) -> None:
    url = {"server": CLOSED, "proxy": "http://100.100.1.7:8000", "refused": "http://refused:1"}
    proxy = {"server": None, "proxy": CLOSED, "refused": server.url}
    target = Target(url=url[what], model="m", proxy=proxy[what])
    with pytest.raises(TransientError) as caught:
        run_benchmark(target, BenchmarkPlan(requests=2, concurrency=1), run_id="r")
    assert caught.value.code == "benchmark-unreachable"


def test_users_stop_when_told_and_finish_what_they_began(
    server: StreamingServer, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    users = start_users(server.url, ledger, "--rate", "40", "--long-streams", "5")
    wait_for_rows(ledger, 20)
    users.send_signal(signal.SIGTERM)
    assert users.wait(timeout=20) == 0
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    summary = read_summary(ledger)
    assert (summary.started, summary.ok, summary.failed, summary.truncated) == (
        len(rows),
        len(rows),
        0,
        0,
    )
    assert Counter(row["request_id"] for row in rows) == Counter(server.ids)
    assert sum(row["long"] for row in rows) >= 5
    assert all(row["events"] == (60 if row["long"] else 4) for row in rows)
    assert {row["slot"] for row in rows} == {"blue"}


def test_users_whose_ledger_is_there_can_be_stopped(
    server: StreamingServer, tmp_path: Path
) -> None:
    for number in range(4):
        ledger = tmp_path / f"ledger-{number}.jsonl"
        users = start_users(server.url, ledger, "--rate", "40")
        while not ledger.exists() and users.poll() is None:
            pass  # at once: between the ledger and the handler there was a moment
        users.send_signal(signal.SIGTERM)
        assert users.wait(timeout=20) == 0


def test_users_count_what_went_wrong_and_never_try_again(
    server: StreamingServer, tmp_path: Path
) -> None:
    ledger, stop = tmp_path / "ledger.jsonl", tmp_path / "stop"
    prompts = ("--prompt", "plain", "--prompt", "http-500", "--prompt", "reset")
    users = start_users(server.url, ledger, "--rate", "60", "--stop-file", str(stop), *prompts)
    wait_for_rows(ledger, 30)
    stop.touch()
    assert users.wait(timeout=20) == 0
    summary = read_summary(ledger)
    assert summary.started == len(server.ids) == summary.ok + summary.failed + summary.truncated
    assert min(summary.ok, summary.failed, summary.truncated) >= summary.started // 3 - 1
    assert len(set(server.ids)) == len(server.ids)


def test_users_of_a_gateway_that_is_away_fail_and_go_on_asking(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    users = start_users(CLOSED, ledger, "--rate", "20", "--long-streams", "2", "--seconds", "1")
    assert users.wait(timeout=20) == 0
    summary = read_summary(ledger)
    assert summary.failed == summary.started > 10
    assert summary.started < 40  # the long users pause after a failure


def test_a_ledger_that_breaks_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text('{"status": "ok"}\n{"sta')
    for path in ("ledger", "none"):
        with pytest.raises(InputError) as caught:
            read_summary(tmp_path / path)
        assert caught.value.code == "ledger-unreadable"


PLAN = BenchmarkPlan(requests=20, concurrency=2, max_tokens=8)


def good_rows() -> list[RequestRow]:
    return [
        RequestRow(
            request_id=f"r{number}",
            scenario="benchmark",
            start_ns=1000 + number,
            ttft_ms=5.0,
            latency_ms=12.0,
            itl_ms=1.0,
            input_tokens=None,
            output_tokens=8,
            status=Status.OK,
        )
        for number in range(20)
    ]


def check(rows: list[RequestRow]) -> TableReport:
    table = RequestTable(
        rows=tuple(rows), started_ns=1000, window_s=2.0, ended_at_ns=0, client_cpu_percent=1
    )
    return validate(table, PLAN)


def test_a_sound_table_is_valid_and_failed_requests_do_not_spoil_it() -> None:
    rows = good_rows()
    rows[3] = replace(
        rows[3],
        status=Status.ERROR,
        error="HTTP 500",
        ttft_ms=None,
        latency_ms=None,
        itl_ms=None,
        output_tokens=0,
    )
    report = check(rows)
    assert report == TableReport(valid=True, problems=(), rules=13)
    report.require_valid()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"request_id": "r1"}, "request_id"),
        ({"scenario": "other"}, "scenario"),
        ({"start_ns": 1}, "start_ns"),
        ({"start_ns": 10**13}, "start_ns"),
        ({"ttft_ms": None}, "ttft_ms"),
        ({"ttft_ms": math.inf}, "ttft_ms"),
        ({"ttft_ms": -1.0}, "ttft_ms"),
        ({"ttft_ms": 0.0}, "ttft_ms"),
        ({"latency_ms": 4.0}, "latency_ms"),
        ({"latency_ms": None}, "latency_ms"),
        ({"latency_ms": 1e9}, "latency_ms"),
        ({"itl_ms": -0.1}, "itl_ms"),
        ({"output_tokens": 0}, "output_tokens"),
        ({"output_tokens": 9}, "output_tokens"),
    ],
)
def test_a_row_that_cannot_be_makes_the_benchmark_invalid(
    changes: dict[str, object], said: str
) -> None:
    rows = good_rows()
    rows[0] = replace(rows[0], **changes)  # type: ignore[arg-type]  # fields that exist
    report = check(rows)
    assert not report.valid
    assert any(problem.startswith(said) for problem in report.problems), report.problems
    with pytest.raises(TransientError) as caught:
        report.require_valid()
    assert caught.value.code == "benchmark-invalid"


@pytest.mark.parametrize("count", [0, 19])
def test_missing_rows_make_the_benchmark_invalid(count: int) -> None:
    report = check(good_rows()[:count])
    assert not report.valid
    assert f"found {count}, 20 is right" in report.problems[0]


def start_users(url: str, ledger: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        (
            *(sys.executable, "-m", "slipway.bench.users", "--url", url, "--model", "m"),
            *("--tokens", "4", "--long-tokens", "60", "--out", str(ledger), *more),
        )
    )


def wait_for_rows(ledger: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while not ledger.exists() or len(ledger.read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
