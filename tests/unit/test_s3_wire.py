"""What the signed wire makes of answers that no server in the suite gives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from slipway.adapters.backups.s3_http import SignedHttp
from slipway.adapters.backups.s3_wire import SignedWire
from slipway.core.errors import PermanentError, TransientError
from slipway.ports.backups import Stored

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass
class Answered:
    """A server with one answer to everything; keeps what it was asked."""

    body: bytes
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def answered(self, method: str, path: str, **more: Any) -> Iterator[Any]:
        self.asked.append({"method": method, "path": path, **more})
        yield _Answer(self.status, io.BytesIO(self.body))


@dataclass
class _Answer:
    status: int
    _body: io.BytesIO
    reason: str = "said so"
    headers: dict[str, str] = field(default_factory=dict)

    def read(self) -> bytes:
        return self._body.read()


def wire(server: Answered) -> SignedWire:
    return SignedWire(cast(SignedHttp, server), "models")


def listing(inner: str, truncated: str = "false") -> bytes:
    head = f'<?xml version="1.0"?><ListBucketResult xmlns="{NAMESPACE}">'
    return f"{head}<IsTruncated>{truncated}</IsTruncated>{inner}</ListBucketResult>".encode()


ITEM = "<Contents><Key>a%2Fb%20c</Key><Size>7</Size></Contents>"


def test_list_is_read_with_its_quoting_only_where_the_server_says_that_it_quotes() -> None:
    quoted = wire(Answered(listing(f"<EncodingType>url</EncodingType>{ITEM}")))
    assert quoted.page("a", "") == ([Stored("a/b c", 7)], "")
    plain = wire(Answered(listing(ITEM)))
    assert plain.page("a", "") == ([Stored("a%2Fb%20c", 7)], "")


def test_next_part_of_a_list_is_asked_for_by_its_token() -> None:
    more = "<NextContinuationToken>x=/+</NextContinuationToken>"
    server = Answered(listing(f"{ITEM}{more}", "true"))
    assert wire(server).page("a", "before")[1] == "x=/+"
    assert server.asked[0]["query"]["continuation-token"] == "before"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        listing(ITEM)[:-20],
        listing(ITEM, "true"),
        listing(f"{ITEM}<NextContinuationToken>x</NextContinuationToken>"),
        listing("<Contents><Key>a</Key></Contents>"),
        listing("<Contents><Key>a</Key><Size>many</Size></Contents>"),
        listing("<Contents><Size>1</Size></Contents>"),
    ],
)
def test_answer_that_is_no_whole_list_is_asked_for_again(body: bytes) -> None:
    with pytest.raises(TransientError) as caught:
        wire(Answered(body)).page("a", "")
    assert caught.value.code == "object-store-unreachable"


def test_error_in_an_answer_of_200_is_an_error_and_a_key_of_that_name_is_none() -> None:
    said = b'<?xml version="1.0"?>\n<Error><Code>SlowDown</Code></Error>'
    with pytest.raises(TransientError) as caught:
        wire(Answered(said)).page("a", "")
    assert caught.value.code == "object-store-busy"
    named = listing("<Contents><Key>&lt;Error></Key><Size>1</Size></Contents>")
    assert wire(Answered(named)).page("", "")[0] == [Stored("<Error>", 1)]


def test_objects_are_removed_by_a_list_whose_odd_names_do_no_harm() -> None:
    gone = "<Error><Key>b</Key><Code>NoSuchKey</Code></Error>"
    server = Answered(f"<DeleteResult>{gone}</DeleteResult>".encode())
    wire(server).delete(["a&<", "b"])
    assert b"<Key>a&amp;&lt;</Key>" in server.asked[0]["body"]
    assert server.asked[0]["headers"]["Content-MD5"]


def test_object_that_could_not_be_removed_is_named() -> None:
    error = "<Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    with pytest.raises(PermanentError) as caught:
        wire(Answered(f"<DeleteResult>{error}</DeleteResult>".encode())).delete(["b"])
    assert caught.value.code == "object-store-refused"
    assert "s3://models/b" in caught.value.message
