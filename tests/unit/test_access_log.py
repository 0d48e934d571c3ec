"""What the gateway logs, and how its rows are read and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.adapters.access_log import log_end, read_rows, read_tail
from slipway.core.errors import PermanentError, TransientError
from slipway.core.traffic import AccessRow, AccessTail, failures, of_slot, truncated, user_rows
from slipway.manifests.access_log import COLUMNS, TTFT_LUA, mesh_fields, ttft_filter

EMPTY: dict[str, object] = {column.name: None for column in COLUMNS}

STREAMED: dict[str, object] = EMPTY | {
    "time": "1795378152.309061234",
    "route": "weighted",
    "route_revision": "7",
    "host": "llama3.example",
    "cluster": "outbound|80|green|llama3.serving.svc.cluster.local",
    "slot": "green",
    "pod": "127.100.1.5:8000",
    "status": 200,
    "flags": "-",
    "details": "via_upstream",
    "method": "POST",
    "path": "/v1/chat/completions",
    "content_type": "text/event-stream; charset=utf-8",
    "bytes_received": 120,
    "bytes_sent": 4000,
    "duration_ms": 900,
    "attempts": 1,
    "request_id": "r-1",
    "session_id": "s-1",
    "user_agent": "openai-python",
    "ttft_us": 200_300.0,
    "token_events": 11.0,
    "token_span_us": 500_000.0,
    "done_seen": True,
}


def row(**changes: object) -> AccessRow:
    plain: dict[str, object] = {"started_ns": 1, "status": 200}
    return AccessRow(**(plain | changes))  # type: ignore[arg-type]  # the tests name real fields


def stream(**changes: object) -> AccessRow:
    return row(**({"content_type": "text/event-stream", "done_seen": True} | changes))


def write(path: Path, *rows: dict[str, object], rest: str = "") -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows) + rest)
    return path


def test_mesh_fields_log_every_column_as_json_to_the_file() -> None:
    fields = mesh_fields(Path("/var/log/access.jsonl"))
    assert fields["accessLogFile"] == "/var/log/access.jsonl"
    assert fields["accessLogEncoding"] == "JSON"
    row_format = json.loads(str(fields["accessLogFormat"]))
    assert row_format["status"] == "%RESPONSE_CODE%"
    assert row_format["purpose"] == "%REQ(X-SLIPWAY-PURPOSE)%"
    assert row_format["ttft_us"] == "%DYNAMIC_METADATA(slipway:ttft_us)%"
    assert len(row_format) == len(COLUMNS)


def test_ttft_filter_goes_before_the_router_of_the_labelled_gateways() -> None:
    document = ttft_filter("istio-ingress", {"istio": "ingressgateway"})
    spec = json.loads(json.dumps(document))["spec"]
    assert spec["workloadSelector"] == {"labels": {"istio": "ingressgateway"}}
    patch, ids = spec["configPatches"]
    assert ids["patch"]["value"]["typed_config"]["preserve_external_request_id"] is True
    assert patch["applyTo"] == "HTTP_FILTER"
    assert patch["match"]["context"] == "GATEWAY"
    chain = patch["match"]["listener"]["filterChain"]
    assert chain["filter"]["subFilter"]["name"] == "envoy.filters.http.router"
    assert patch["patch"]["operation"] == "INSERT_BEFORE"
    config = patch["patch"]["value"]["typed_config"]
    assert config["default_source_code"]["inline_string"] == TTFT_LUA


def test_streamed_row_is_read_whole(tmp_path: Path) -> None:
    (found,) = read_rows(write(tmp_path / "log", STREAMED))
    assert found == AccessRow(
        started_ns=1_795_378_152_309_061_234,
        route="weighted",
        route_revision="7",
        host="llama3.example",
        service="llama3.serving.svc.cluster.local",
        subset="green",
        slot="green",
        pod="127.100.1.5:8000",
        status=200,
        details="via_upstream",
        method="POST",
        path="/v1/chat/completions",
        content_type="text/event-stream; charset=utf-8",
        bytes_received=120,
        bytes_sent=4000,
        duration_ms=900,
        attempts=1,
        request_id="r-1",
        session_id="s-1",
        user_agent="openai-python",
        ttft_us=200_300,
        token_events=11,
        token_span_us=500_000,
        done_seen=True,
    )
    assert found.itl_us == 50_000


def test_row_without_an_answer_is_read_with_empty_fields(tmp_path: Path) -> None:
    refused = EMPTY | {"time": "7.5", "status": 503, "flags": "UH,NC", "cluster": "-"}
    (found,) = read_rows(write(tmp_path / "log", refused))
    assert found == AccessRow(started_ns=7_500_000_000, status=503, flags=frozenset({"UH", "NC"}))


def test_slot_with_another_behind_it_is_the_one_that_was_meant(tmp_path: Path) -> None:
    meant = STREAMED | {"cluster": "outbound|80|green-or-blue|llama3.serving.svc.cluster.local"}
    (found,) = read_rows(write(tmp_path / "log", meant))
    assert (found.subset, found.slot) == ("green-or-blue", "green")


def test_slot_comes_from_the_answer_when_the_cluster_has_no_subset(tmp_path: Path) -> None:
    plain = STREAMED | {"cluster": "outbound|80||llama3-green.serving.svc.cluster.local"}
    (found,) = read_rows(write(tmp_path / "log", plain))
    assert (found.service, found.slot) == ("llama3-green.serving.svc.cluster.local", "green")


def test_announced_length_is_read_as_a_number(tmp_path: Path) -> None:
    (found,) = read_rows(write(tmp_path / "log", STREAMED | {"content_length": "42"}))
    assert found.content_length_bytes == 42


def test_pod_address_is_mapped_to_what_the_cluster_shows(tmp_path: Path) -> None:
    path = write(tmp_path / "log", STREAMED, STREAMED | {"pod": None})
    pods = [
        found.pod for found in read_rows(path, pod_address=lambda text: text.replace("127", "100"))
    ]
    assert pods == ["100.100.1.5:8000", ""]


def test_window_keeps_requests_that_started_in_it(tmp_path: Path) -> None:
    path = write(tmp_path / "log", *(STREAMED | {"time": f"{s}.0"} for s in (1, 2, 3, 4)))
    window = read_rows(path, since_ns=2_000_000_000, until_ns=4_000_000_000)
    assert [found.started_ns for found in window] == [2_000_000_000, 3_000_000_000]


def test_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "log", STREAMED, rest=json.dumps(STREAMED)[:-9])
    assert len(list(read_rows(path))) == 1


@pytest.mark.parametrize(
    "broken",
    [
        "{half\n",
        "[]\n",
        "{}\n",
        json.dumps(STREAMED | {"status": "200"}) + "\n",
        json.dumps(STREAMED | {"status": True}) + "\n",
        json.dumps(STREAMED | {"host": 7}) + "\n",
        json.dumps(STREAMED | {"time": "yesterday"}) + "\n",
        json.dumps(STREAMED | {"content_length": "4O"}) + "\n",
        json.dumps("text") + "\n",
    ],
)
def test_broken_line_is_refused_by_file_and_number(tmp_path: Path, broken: str) -> None:
    path = write(tmp_path / "log", STREAMED, rest=broken)
    with pytest.raises(PermanentError, match=r"log, line 2: not a row"):
        list(read_rows(path))


def test_missing_file_may_come_later(tmp_path: Path) -> None:
    with pytest.raises(TransientError) as caught:
        list(read_rows(tmp_path / "log"))
    assert caught.value.code == "access-log-missing"


@pytest.mark.parametrize(
    ("given", "complete", "cut", "failed"),
    [
        (row(), True, False, False),
        (row(content_length_bytes=5, bytes_sent=5), True, False, False),
        (row(content_length_bytes=5, bytes_sent=4), False, True, True),
        (row(content_length_bytes=5, bytes_sent=0, method="HEAD"), True, False, False),
        (row(flags=frozenset({"UPE"})), False, True, True),
        (row(flags=frozenset({"DC"})), False, False, False),
        (row(status=404), True, False, False),
        (row(status=404, flags=frozenset({"NR"})), True, False, True),
        (row(status=429), True, False, False),
        (row(status=503), True, False, True),
        (row(status=0), False, False, True),
        (row(status=0, flags=frozenset({"DC"})), False, False, False),
        (stream(), True, False, False),
        (stream(done_seen=False), False, True, True),
        (stream(done_seen=False, flags=frozenset({"DC"})), False, False, False),
        (stream(error_seen=True), True, False, True),
    ],
)
def test_row_is_judged(given: AccessRow, *, complete: bool, cut: bool, failed: bool) -> None:
    assert (given.complete, given.truncated, given.failed) == (complete, cut, failed)


def test_interval_needs_two_events() -> None:
    assert stream(token_events=1).itl_us is None
    assert stream(token_events=3, token_span_us=50).itl_us == 25


def test_helpers_pick_rows() -> None:
    user, smoke = row(slot="blue"), row(purpose="smoke", slot="green")
    broken, cut = row(status=502), stream(done_seen=False)
    rows = (user, smoke, broken, cut)
    assert user_rows(rows) == (user, broken, cut)
    assert failures(rows) == (broken, cut)
    assert truncated(rows) == (cut,)
    assert of_slot(rows, "green") == (smoke,)


def test_tail_returns_what_was_logged_since_the_end_that_was_noted(tmp_path: Path) -> None:
    log = write(tmp_path / "log", STREAMED, STREAMED, rest='{"half')
    end = log_end(log)
    assert read_tail(log, after=end) == AccessTail(rows=(), end=end)
    whole = write(log, STREAMED, STREAMED, STREAMED | {"request_id": "r-2"})
    found = read_tail(whole, after=end)
    assert [item.request_id for item in found.rows] == ["r-2"]
    assert found.end == log_end(whole)
    assert read_tail(whole, after=found.end).rows == ()


def test_end_of_an_empty_log_and_of_one_longer_than_a_read_are_found(tmp_path: Path) -> None:
    assert log_end(write(tmp_path / "empty")).offset_bytes == 0
    assert log_end(write(tmp_path / "half", rest="x" * 200_000)).offset_bytes == 0
    long = write(tmp_path / "long", STREAMED, rest="x" * 200_000)
    assert log_end(long).offset_bytes == len(json.dumps(STREAMED)) + 1


def test_log_begun_anew_is_read_from_its_begin(tmp_path: Path) -> None:
    log = write(tmp_path / "log", STREAMED, STREAMED)
    end = log_end(log)
    write(log, STREAMED)  # cut to nothing, then written again
    assert len(read_tail(log, after=end).rows) == 1
    write(tmp_path / "other", STREAMED, STREAMED, STREAMED).replace(log)
    assert len(read_tail(log, after=end).rows) == 3


def test_tail_names_the_byte_of_a_line_that_is_no_row(tmp_path: Path) -> None:
    log = write(tmp_path / "log", STREAMED)
    end = log_end(log)
    write(log, STREAMED, rest="no row\n")
    with pytest.raises(PermanentError, match=f"byte {end.offset_bytes}") as caught:
        read_tail(log, after=end)
    assert caught.value.code == "access-log-invalid"
    with pytest.raises(TransientError) as missing:
        read_tail(tmp_path / "none", after=end)
    assert missing.value.code == "access-log-missing"
