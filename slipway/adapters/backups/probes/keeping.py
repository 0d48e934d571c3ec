"""Does a server keep versions and locks? Probed in a bucket that is made for it."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterator

from slipway.adapters.backups.probes.door import Answer, Door, offers, refuses
from slipway.adapters.backups.s3_wire import element
from slipway.core.backup.facts import Finding

_LOCK_S = 20.0
"""How long an object is locked that must be removed in the end."""

_VERSIONED = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
_EXPIRES = (
    "<LifecycleConfiguration><Rule><ID>probe</ID><Status>Enabled</Status>"
    "<Filter><Prefix>expires/</Prefix></Filter><Expiration><Days>1</Days></Expiration>"
    "</Rule></LifecycleConfiguration>"
)


def in_own_bucket(door: Door, sleep: Callable[[float], None]) -> Iterator[Finding]:
    """Yield what a server offers against removal; make a bucket for it, and remove it at the end.

    Args:
        door: to a bucket that is not there yet.
        sleep: waits until what was locked may be removed.
    """
    made = door.send("PUT", None, headers={"x-amz-bucket-object-lock-enabled": "true"})
    if not made.is_good:
        door.send("PUT", None)
    try:
        yield _versions(door)
        yield _lifecycle(door)
        for mode in ("COMPLIANCE", "GOVERNANCE"):
            yield from _lock(door, mode)
        yield _legal_hold(door)
    finally:
        _remove(door, sleep)


def _remove(door: Door, sleep: Callable[[float], None]) -> None:
    if not _emptied(door):
        sleep(_LOCK_S)
        _emptied(door)
    door.send("DELETE", None)


def _emptied(door: Door) -> bool:
    """Remove every version of every object; return whether all went."""
    versions = door.send("GET", None, query={"versions": ""})
    plain = door.send("GET", None, query={"list-type": "2"})
    found = re.findall(rb"<(?:Version|DeleteMarker)>.*?</(?:Version|DeleteMarker)>", versions.body)
    removed = [
        door.send("DELETE", element(item, "Key"), query={"versionId": element(item, "VersionId")})
        for item in found
    ]
    if not found:
        removed = [
            door.send("DELETE", element(item, "Key"))
            for item in plain.body.split(b"<Contents>")[1:]
        ]
    return all(answer.is_good for answer in removed)


def _versions(door: Door) -> Finding:
    answer = _configure(door, "versioning", _VERSIONED)
    first = door.put("versions", b"1").headers.get("x-amz-version-id", "")
    door.put("versions", b"2")
    old = door.send("GET", "versions", query={"versionId": first}) if first else None
    return offers(
        "versions",
        "keeps what is written over (versioning)",
        answer,
        proved=old is not None and old.body == b"1",
    )


def _lifecycle(door: Door) -> Finding:
    answer = _configure(door, "lifecycle", _EXPIRES)
    found = door.send("GET", None, query={"lifecycle": ""})
    return offers(
        "lifecycle",
        "removes by age when it is told to",
        answer,
        proved=element(found.body, "Days") == "1",
    )


def _lock(door: Door, mode: str) -> Iterator[Finding]:
    name = mode.lower()
    until = _stamp(time.time() + _LOCK_S)
    headers = {"x-amz-object-lock-mode": mode, "x-amz-object-lock-retain-until-date": until}
    locked = door.put(name, b"1", **headers)
    version = {"versionId": locked.headers.get("x-amz-version-id", "null")}
    yield _only_if(
        locked,
        refuses(
            f"lock-{name}",
            f"removes no object that is locked ({mode})",
            door.send("DELETE", name, query=version),
        ),
    )
    earlier = (
        f"<Retention><Mode>{mode}</Mode>"
        f"<RetainUntilDate>{_stamp(time.time() + 5)}</RetainUntilDate></Retention>"
    )
    yield _only_if(
        locked,
        refuses(
            f"lock-{name}-shortened",
            f"shortens no lock ({mode})",
            door.send(
                "PUT",
                name,
                earlier.encode(),
                query={"retention": "", **version},
                headers={"Content-MD5": _md5(earlier)},
            ),
        ),
    )


def _legal_hold(door: Door) -> Finding:
    held = door.put("hold", b"1", **{"x-amz-object-lock-legal-hold": "ON"})
    version = {"versionId": held.headers.get("x-amz-version-id", "null")}
    finding = _only_if(
        held,
        refuses(
            "legal-hold",
            "removes no object under a legal hold",
            door.send("DELETE", "hold", query=version),
        ),
    )
    _configure(
        door, "legal-hold", "<LegalHold><Status>OFF</Status></LegalHold>", key="hold", **version
    )
    return finding


def _only_if(locked: Answer, finding: Finding) -> Finding:
    """A lock that could not be set, or that was ignored, is not offered."""
    if locked.is_good and locked.headers.get("x-amz-version-id"):
        return finding
    return offers(finding.probe, finding.promise, _failed(locked))


def _failed(answer: Answer) -> Answer:
    return Answer(status=answer.status if answer.status >= 300 else 501, headers={}, body=b"")


def _configure(door: Door, what: str, body: str, *, key: str | None = None, **query: str) -> Answer:
    return door.send(
        "PUT",
        key,
        body.encode(),
        query={what: "", **query},
        headers={"Content-MD5": _md5(body)},
    )


def _md5(body: str) -> str:
    return base64.b64encode(hashlib.md5(body.encode(), usedforsecurity=False).digest()).decode()


def _stamp(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
