"""Until when a server's certificate is valid, by a TLS handshake: no secret is read.

The certificate is not verified: one that no authority of ours signed expires as others do. The
standard library shows the fields of verified certificates only, so the two times are read from its
DER bytes (RFC 5280, section 4.1: `Certificate`, `TBSCertificate`, `Validity`).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from slipway.core.errors import PermanentError, TransientError
from slipway.core.feasibility.values import Certificate

_TIMEOUT_S = 10.0
_LONG_FORM = 0x80
_VERSION = 0xA0
_GENERALIZED_TIME = 0x18
_HTTPS_PORT = 443


def shown_certificate(url: str, host: str) -> Certificate | None:
    """Return what a server shows to clients that ask for `host`.

    Args:
        url: base URL of the server.
        host: name that the client asks for (SNI).

    Returns:
        None when the URL is not `https`.

    Raises:
        TransientError: `handshake-failed`, no answer, or no certificate for this name.
        PermanentError: `certificate-unreadable`.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.hostname is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    address = (parts.hostname, parts.port or _HTTPS_PORT)
    try:
        with (
            socket.create_connection(address, timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            raw = secure.getpeercert(binary_form=True) or b""
    except OSError as error:
        raise TransientError(
            f"the gateway at {url} shows no certificate for {host}: {error}",
            code="handshake-failed",
            hint="check SLIPWAY_GATEWAY_URL, and that the gateway has a certificate for this host",
        ) from error
    try:
        begins_s, ends_s = validity(raw)
    except (IndexError, ValueError) as error:
        raise PermanentError(
            f"the certificate for {host} at {url} cannot be read: {error}",
            code="certificate-unreadable",
            hint="look at it: openssl s_client -connect HOST:443 -servername HOST",
        ) from error
    return Certificate(host=host, begins_s=begins_s, ends_s=ends_s)


def validity(der: bytes) -> tuple[int, int]:
    """Return the two times between which a certificate is valid, Unix seconds.

    Raises:
        IndexError, ValueError: it is no certificate.
    """
    (certificate,) = _values(der)
    to_be_signed = _values(certificate[1])[0][1]
    fields = [item for item in _values(to_be_signed) if item[0] != _VERSION]
    # serialNumber, signature, issuer, validity
    not_before, not_after = _values(fields[3][1])
    return _time_s(*not_before), _time_s(*not_after)


def _values(der: bytes) -> list[tuple[int, bytes]]:
    """Return the tags and contents of the values that stand one after the other."""
    return list(_each(der))


def _each(der: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & _LONG_FORM:
            size = length & ~_LONG_FORM
            length = int.from_bytes(der[at : at + size])
            at += size
        yield tag, der[at : at + length]
        at += length


def _time_s(tag: int, content: bytes) -> int:
    form = "%Y%m%d%H%M%SZ" if tag == _GENERALIZED_TIME else "%y%m%d%H%M%SZ"
    return int(datetime.strptime(content.decode("ascii"), form).replace(tzinfo=UTC).timestamp())
