from __future__ import annotations

from http import HTTPStatus

import pytest

from slipway.sandbox.servers.http1 import MalformedRequestError, Request, RequestParser

_SIZED = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
_CHUNKED = (
    b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;note=1\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n"
)


def _feed_bytewise(data: bytes) -> list[tuple[Request, bool]]:
    parser, found = RequestParser(), []
    for position in range(len(data)):
        parser.feed(data[position : position + 1])
        while (request := parser.next_request()) is not None:
            found.append(request)
    return found


@pytest.mark.parametrize("data", [_SIZED, _CHUNKED])
def test_request_in_single_bytes_is_read_once(data: bytes) -> None:
    ((request, keep_alive),) = _feed_bytewise(data)
    assert (request.method, request.path, request.body) == ("POST", "/v1/x", b"hello")
    assert keep_alive


def test_pipelined_requests_come_out_one_by_one() -> None:
    assert [request.body for request, _ in _feed_bytewise(_SIZED + _CHUNKED + _SIZED)] == [
        b"hello"
    ] * 3


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_connection_is_kept_as_the_client_says(head: bytes, expected: bool) -> None:
    ((_, keep_alive),) = _feed_bytewise(head)
    assert keep_alive is expected


def test_header_names_are_lower_case_and_values_trimmed() -> None:
    ((request, _),) = _feed_bytewise(b"GET / HTTP/1.1\r\nX-Request-Id:  a b \r\n\r\n")
    assert request.headers == {"x-request-id": "a b"}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/2\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            HTTPStatus.BAD_REQUEST,
        ),
        (
            b"GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5f5e0ff\r\n",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ),
        (b"x" * 70_000, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    ],
)
def test_unreadable_request_is_refused(data: bytes, status: HTTPStatus) -> None:
    parser = RequestParser()
    parser.feed(data)
    with pytest.raises(MalformedRequestError) as caught:
        parser.next_request()
    assert caught.value.status is status
