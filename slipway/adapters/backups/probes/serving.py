"""Does a server give back what it has: whole, in parts, in lists, and to nobody else?"""

from __future__ import annotations

import email.utils
import os
from collections.abc import Iterator
from dataclasses import replace

from botocore.credentials import Credentials

from slipway.adapters.backups.probes.door import Answer, Door, offers, refuses
from slipway.adapters.backups.probes.integrity import begun, completed, ended
from slipway.adapters.backups.s3_wire import element
from slipway.core.backup.facts import Finding, Kept

_CHUNK_BYTES = 16 << 20
_NAMES = ("list/a%2Fb/1", "list/a-b", "list/a/b", "list/ä b+c")
_CLOCK_S = 60.0
"""AWS refuses signatures of more than 15 minutes; a clock that is a minute off will get there."""


def serving(door: Door, *, now_s: float) -> Iterator[Finding]:
    """Yield how objects come back, and how they are listed and removed.

    Args:
        door: to probe.
        now_s: this machine's clock, since 1970 UTC.
    """
    body = os.urandom(_CHUNK_BYTES)
    stored = door.put("chunk", body)
    came = door.send("GET", "chunk")
    yield offers(
        "chunk", "takes 16 MiB at once and gives them back", stored, proved=came.body == body
    )
    part = door.send("GET", "chunk", headers={"Range": "bytes=5-9"})
    yield offers("range", "gives parts of an object", part, proved=part.body == body[5:10])
    yield _clock(came, now_s)
    yield _lists(door)
    yield _removes_many(door)
    yield from _parts(door)
    sse = door.put("sse", b"1", x_amz_server_side_encryption="AES256")
    yield offers(
        "sse",
        "encrypts at rest when asked to (SSE-S3)",
        sse,
        proved=sse.headers.get("x-amz-server-side-encryption") == "AES256",
    )
    attributes = door.send(
        "GET",
        "chunk",
        query={"attributes": ""},
        headers={"x-amz-object-attributes": "Checksum"},
    )
    yield offers(
        "attributes",
        "states checksums among an object's attributes",
        attributes,
        proved=bool(element(attributes.body, "ChecksumSHA256")),
    )


def _clock(answer: Answer, now_s: float) -> Finding:
    promise = f"has this machine's time to {_CLOCK_S:.0f} s"
    stated = answer.headers.get("date")
    if stated is None:
        return Finding(probe="clock", promise=promise, kept=Kept.NO, said="it states none")
    ahead_s = email.utils.parsedate_to_datetime(stated).timestamp() - now_s
    kept = Kept.YES if abs(ahead_s) <= _CLOCK_S else Kept.NO
    return Finding(probe="clock", promise=promise, kept=kept, said=f"{ahead_s:+.0f} s")


def _lists(door: Door) -> Finding:
    for name in _NAMES:
        door.put(name, b"1")
    answer = door.send(
        "GET",
        None,
        query={"list-type": "2", "prefix": f"{door.prefix}list/"},
    )
    keys = [
        element(item, "Key").removeprefix(door.prefix)
        for item in answer.body.split(b"<Contents>")[1:]
    ]
    return offers(
        "list",
        "lists what was just written",
        answer,
        proved=sorted(key for key in keys if not key.endswith("/")) == sorted(_NAMES),
    )


def _removes_many(door: Door) -> Finding:
    gone = [door.send("DELETE", name) for name in _NAMES]
    again = door.send("DELETE", _NAMES[0])
    listed = door.send("GET", None, query={"list-type": "2", "prefix": f"{door.prefix}list/"})
    return offers(
        "remove",
        "removes objects, and says nothing of those that are gone already",
        again if not again.is_good else gone[0],
        proved=all(item.is_good for item in gone) and b"<Contents>" not in listed.body,
    )


def _parts(door: Door) -> Iterator[Finding]:
    upload = begun(door, "parts")
    place = {"partNumber": "1", "uploadId": upload}
    tag = door.send("PUT", "parts", b"part", query=place).headers.get("etag", "")
    listed = door.send("GET", "parts", query={"uploadId": upload})
    uploads = door.send("GET", None, query={"uploads": "", "prefix": door.prefix})
    joined = completed(door, "parts", upload, tag)
    ended(door, "parts", upload)
    yield offers(
        "parts",
        "joins parts, and lists those that wait",
        joined,
        proved=upload.encode() in uploads.body
        and tag.strip('"').encode() in listed.body
        and door.send("GET", "parts").body == b"part",
    )
    other = begun(door, "wrong")
    door.send("PUT", "wrong", b"part", query={"partNumber": "1", "uploadId": other})
    yield refuses(
        "wrong-part",
        "refuses to join a part that it does not have",
        completed(door, "wrong", other, '"00000000000000000000000000000000"'),
    )
    ended(door, "wrong", other)


def access(door: Door) -> Iterator[Finding]:
    """Yield whom a server lets in."""
    door.put("secret", b"1")
    own = door.server.credentials.get_frozen_credentials()
    stranger = Credentials(own.access_key, f"{own.secret_key}x", own.token)
    wrong = replace(door, server=replace(door.server, credentials=stranger, _idle=[]))
    yield refuses("wrong-secret", "refuses a wrong secret key", wrong.send("GET", "secret"))
    yield refuses(
        "nobody",
        "refuses requests without a signature",
        door.send("GET", "secret", is_signed=False),
    )
