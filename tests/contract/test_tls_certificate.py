"""Until when a gateway's certificate is valid, by real handshakes and real certificates."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from slipway.adapters.tls_certificate import shown_certificate, validity
from slipway.core.errors import PermanentError, TransientError
from tests.contract.tls_toys import certificate, tls_gateway

BEGINS = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
ENDS = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)


def test_certificate_is_shown_with_its_two_times_though_nobody_vouches_for_it(
    tmp_path: Path,
) -> None:
    with tls_gateway(tmp_path, "chat.example.com", BEGINS, ENDS) as url:
        found = shown_certificate(url, "chat.example.com")
    assert found is not None
    assert found.host == "chat.example.com"
    assert (found.begins_s, found.ends_s) == (BEGINS.timestamp(), ENDS.timestamp())


def test_time_after_2049_is_read_too() -> None:
    far = datetime.datetime(2051, 1, 1, tzinfo=datetime.UTC)
    made, _ = certificate("h", BEGINS, far)
    assert validity(made.public_bytes(Encoding.DER)) == (BEGINS.timestamp(), far.timestamp())


def test_gateway_without_tls_shows_none() -> None:
    assert shown_certificate("http://127.0.0.1:1", "chat.example.com") is None


def test_gateway_that_does_not_answer_may_do_so_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TransientError) as caught:
        shown_certificate(f"https://127.0.0.1:{port}", "chat.example.com")
    assert caught.value.code == "handshake-failed"


@pytest.mark.parametrize("raw", [b"", b"\x30\x03\x02\x01\x05", b"\x30"])
def test_bytes_that_are_no_certificate_are_refused(
    raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssl.SSLSocket.getpeercert", lambda *_, **__: raw)
    with (
        tls_gateway(tmp_path, "chat.example.com", BEGINS, ENDS) as url,
        pytest.raises(PermanentError) as caught,
    ):
        shown_certificate(url, "chat.example.com")
    assert caught.value.code == "certificate-unreadable"
