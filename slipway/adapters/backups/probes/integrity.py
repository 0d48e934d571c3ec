"""Does a server notice that other bytes arrived than were sent, and does it write only once?"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from slipway.adapters.backups.probes.door import Answer, Door, offers, refuses
from slipway.adapters.backups.s3_wire import element, in_base64, signed_payload, stated
from slipway.core.backup import facts
from slipway.core.backup.facts import Finding, Kept
from slipway.core.backup.sums import sha256_sum, sum_of

_SENT, _MEANT = b"what arrived", b"what was meant"
_SIZES = {"sha256": 32, "sha1": 20, "crc32": 4, "crc32c": 4, "crc64nvme": 8}
"""Checksums of S3 with their lengths in bytes."""

_WRITERS = 4
_RACES = 8
"""At once: SeaweedFS lets each loser of a race wait a second more than the one before."""


def integrity(door: Door) -> Iterator[Finding]:
    """Yield what a server does with bytes that are not those that were stated."""
    for probe, kind in facts.SUM_PROBES.items():
        meant = sum_of(kind, _MEANT)
        yield refuses(
            probe,
            facts.PROMISES[probe],
            door.send("PUT", probe, _SENT, headers=stated(meant), payload=signed_payload(meant)),
        )
    yield refuses(
        "wrong-md5",
        "refuses another Content-MD5",
        door.send("PUT", "md5", _SENT, headers={"Content-MD5": _md5(_MEANT)}),
    )
    yield refuses(
        "wrong-payload",
        "refuses another x-amz-content-sha256",
        door.send("PUT", "payload", _SENT, payload=sha256_sum(_MEANT).hexdigest),
    )
    for name, size in _SIZES.items():
        yield refuses(
            f"wrong-{name}",
            f"refuses another x-amz-checksum-{name}",
            door.send("PUT", name, _SENT, headers={f"x-amz-checksum-{name}": _wrong(size)}),
        )
    yield _wrong_part(door)
    yield _wrong_whole(door)
    door.put("right", _SENT)
    head = door.send("HEAD", "right", headers={"x-amz-checksum-mode": "ENABLED"})
    given = head.headers.get("x-amz-checksum-sha256")
    yield offers(
        "checksum-given-back",
        "keeps the checksum and states it (HEAD)",
        head,
        proved=given == _sha256(_SENT),
    )


def _wrong_part(door: Door) -> Finding:
    upload = begun(door, "part")
    answer = door.send(
        "PUT",
        "part",
        _SENT,
        query={"partNumber": "1", "uploadId": upload},
        headers={"x-amz-checksum-sha256": _sha256(_MEANT)},
    )
    ended(door, "part", upload)
    return refuses("wrong-sha256-of-part", "refuses a part with another checksum", answer)


def _wrong_whole(door: Door) -> Finding:
    upload = begun(
        door,
        "whole",
        **{"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "FULL_OBJECT"},
    )
    tag = door.send(
        "PUT", "whole", _SENT, query={"partNumber": "1", "uploadId": upload}
    ).headers.get("etag", "")
    answer = completed(
        door,
        "whole",
        upload,
        tag,
        **{
            "x-amz-checksum-crc64nvme": _wrong(_SIZES["crc64nvme"]),
            "x-amz-checksum-type": "FULL_OBJECT",
        },
    )
    ended(door, "whole", upload)
    return refuses("wrong-whole", "refuses parts whose whole has another checksum", answer)


def conditions(door: Door) -> Iterator[Finding]:
    """Yield whether a server writes under conditions."""
    promise = "writes a key only once when asked to (If-None-Match)"
    first = door.put("once", b"1", if_none_match="*")
    second = door.put("once", b"2", if_none_match="*")
    if first.is_good:
        yield refuses(facts.CREATE_ONCE, promise, second)
    else:
        yield Finding(
            probe=facts.CREATE_ONCE, promise=promise, kept=Kept.NOT_OFFERED, said=first.said
        )
    yield _one_winner(door)
    upload = begun(door, "once")
    tag = door.send("PUT", "once", b"3", query={"partNumber": "1", "uploadId": upload}).headers.get(
        "etag", ""
    )
    answer = completed(door, "once", upload, tag, **{"If-None-Match": "*"})
    ended(door, "once", upload)
    yield refuses("create-once-of-parts", "… and so for an object of parts", answer)
    door.put("match", b"1")
    other = f'"{hashlib.md5(b"other", usedforsecurity=False).hexdigest()}"'
    yield refuses(
        "if-match",
        "replaces only the object that was meant (If-Match)",
        door.put("match", b"2", if_match=other),
    )
    yield refuses(
        "if-match-delete",
        "removes only the object that was meant (If-Match)",
        door.send("DELETE", "match", headers={"If-Match": other}),
    )


def _one_winner(door: Door) -> Finding:
    """Race: of writers of one key that nobody has written yet, exactly one may win."""

    def creates(place: tuple[int, int]) -> bool:
        race, writer = place
        return door.put(f"race-{race}", b"%d" % writer, if_none_match="*").is_good

    places = [(race, writer) for race in range(_RACES) for writer in range(_WRITERS)]
    with ThreadPoolExecutor(len(places)) as pool:
        won = list(pool.map(creates, places))
    winners = [sum(won[start : start + _WRITERS]) for start in range(0, len(won), _WRITERS)]
    return Finding(
        probe=facts.ONE_WINNER,
        promise=f"lets one of {_WRITERS} writers of a new key win, {_RACES} times",
        kept=Kept.YES if set(winners) == {1} else Kept.NO,
        said=f"winners: {min(winners)} to {max(winners)}",
    )


def begun(door: Door, key: str, **headers: str) -> str:
    """Begin an upload in parts; return its id, "" when the server has none."""
    answer = door.send("POST", key, query={"uploads": ""}, headers=headers)
    return element(answer.body, "UploadId")


def completed(door: Door, key: str, upload: str, tag: str, **headers: str) -> Answer:
    """Say that an upload of one part is whole."""
    body = (
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
        f"<ETag>{tag}</ETag></Part></CompleteMultipartUpload>"
    )
    return door.send("POST", key, body.encode(), query={"uploadId": upload}, headers=headers)


def ended(door: Door, key: str, upload: str) -> None:
    """Give up an upload in parts; one that is complete is none any more."""
    door.send("DELETE", key, query={"uploadId": upload})


def _sha256(body: bytes) -> str:
    return in_base64(hashlib.sha256(body).hexdigest())


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _wrong(size: int) -> str:
    return base64.b64encode(b"\x01" * size).decode()
