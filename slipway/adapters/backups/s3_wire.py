"""How a bucket is asked for what a store of backups needs; one request a call, no retries.

`SignedWire` needs little: it hashes each byte once, copies it once, and is loaded in a third of
boto3's time. `s3_boto.BotoWire` does the same by boto3, for what that alone can do.
"""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from slipway.adapters import s3_api
from slipway.adapters.backups.s3_http import UNSIGNED_PAYLOAD, SignedHttp
from slipway.core.backup.sums import Sum, SumKind
from slipway.core.errors import SlipwayError
from slipway.ports.backups import Body, Stored

SLICE_BYTES = 512 << 10
"""What is received, hashed and written at once: it stays in the processor's cache."""


class Wire(Protocol):
    """Requests to one bucket. Every call raises what `s3_api.refused` and `unreachable` return."""

    def put(self, key: str, body: Body, *, checksum: Sum, create: bool) -> None:
        """Store `body`; with `create` only where nothing is.

        Args:
            key: in the bucket.
            body: of the object.
            checksum: of it.
            create: fails with the code `object-exists` where something is.
        """

    def read(self, key: str) -> Iterator[memoryview]:
        """Yield the object's bytes in slices; each is valid until the next is asked for."""

    def look(self, key: str) -> None:
        """Return when the object is there; else `object-missing` is raised."""

    def page(self, prefix: str, token: str) -> tuple[Sequence[Stored], str]:
        """Return a part of what lies under a prefix, and the token of the next; "" is the last.

        Args:
            prefix: of the keys.
            token: "" for the first part.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Remove at most 1,000 objects, of which some may be gone."""


@dataclass(frozen=True)
class SignedWire:
    """`Wire` by signed requests."""

    server: SignedHttp
    bucket: str

    def put(self, key: str, body: Body, *, checksum: Sum, create: bool) -> None:
        """See `Wire`."""
        headers = {
            "Content-Length": str(len(body)),
            **stated(checksum),
            **({"If-None-Match": "*"} if create else {}),
        }
        with (
            self._mapped("write", key),
            self.server.answered(
                "PUT",
                f"{self.bucket}/{key}",
                headers=headers,
                body=body,
                sha256=signed_payload(checksum),
            ) as answer,
        ):
            said = answer.read()
            # A write is answered by headers alone; some servers say 200 before they fail.
            if answer.status >= 300 or b"<Error" in said:
                raise self._refused("write", key, answer, said)

    def read(self, key: str) -> Iterator[memoryview]:
        """See `Wire`."""
        buffer = memoryview(bytearray(SLICE_BYTES))
        with (
            self._mapped("read", key),
            self.server.answered("GET", f"{self.bucket}/{key}") as answer,
        ):
            if answer.status >= 300:
                raise self._refused("read", key, answer, answer.read())
            while count := answer.readinto(buffer):
                yield buffer[:count]
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)

    def look(self, key: str) -> None:
        """See `Wire`."""
        with (
            self._mapped("look for", key),
            self.server.answered("HEAD", f"{self.bucket}/{key}") as answer,
        ):
            if answer.status >= 300:
                raise self._refused("look for", key, answer, b"")

    def page(self, prefix: str, token: str) -> tuple[Sequence[Stored], str]:
        """See `Wire`."""
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        if token:
            query["continuation-token"] = token
        root = self._asked("GET", "list", prefix, query, b"")
        if _tag(root) != "ListBucketResult":
            raise s3_api.unreachable("list", self._name(prefix), f"the answer is a {_tag(root)}")
        said = _fields(root)
        plain = unquote if said.get("EncodingType") == "url" else str
        token = said.get("NextContinuationToken", "")
        if (said.get("IsTruncated") == "true") != bool(token):
            raise s3_api.unreachable("list", self._name(prefix), "the answer does not say its end")
        try:
            items = [_fields(child) for child in root if _tag(child) == "Contents"]
            return [Stored(plain(item["Key"]), int(item["Size"])) for item in items], token
        except (KeyError, ValueError) as error:
            raise s3_api.unreachable("list", self._name(prefix), f"an item: {error}") from error

    def delete(self, keys: Sequence[str]) -> None:
        """See `Wire`."""
        listed = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        body = f"<Delete><Quiet>true</Quiet>{listed}</Delete>".encode()
        root = self._asked("POST", "remove", keys[0], {"delete": ""}, body)
        for error in (child for child in root if _tag(child) == "Error"):
            said = _fields(error)
            stated, message = said.get("Code", ""), said.get("Message", "")
            name = f"s3://{self.bucket}/{said.get('Key', '')}"
            s3_api.raise_unless_gone(name, code=stated, message=message)

    def _asked(
        self, method: str, verb: str, key: str, query: Mapping[str, str], body: bytes
    ) -> ElementTree.Element:
        """Return what a request about the bucket is answered with."""
        headers = {"Content-Length": str(len(body)), **({"Content-MD5": md5(body)} if body else {})}
        with (
            self._mapped(verb, key),
            self.server.answered(
                method,
                self.bucket,
                query=query,
                headers=headers,
                body=body or None,
                sha256=hashlib.sha256(body).hexdigest(),
            ) as answer,
        ):
            said = answer.read()
            if answer.status >= 300 or _stated_error(said):
                raise self._refused(verb, key, answer, said)
        try:
            # Expat bounds what entities may grow to (2.4.1 and later); botocore reads so, too.
            return ElementTree.fromstring(said)  # noqa: S314
        except ElementTree.ParseError as error:
            raise s3_api.unreachable(verb, self._name(key), f"no XML: {error}") from error

    @contextmanager
    def _mapped(self, verb: str, key: str) -> Iterator[None]:
        with s3_api.mapped(verb, self._name(key)):
            try:
                yield
            except (OSError, http.client.HTTPException) as error:
                said = str(error) or type(error).__name__
                raise s3_api.unreachable(verb, self._name(key), said) from error

    def _refused(
        self, verb: str, key: str, answer: http.client.HTTPResponse, said: bytes
    ) -> SlipwayError:
        stated = element(said, "Code")
        return s3_api.refused(
            verb,
            self._name(key),
            code=stated or str(answer.status),
            message=element(said, "Message") or answer.reason,
            status=answer.status if answer.status >= 300 else 500,
            retry_after=answer.headers.get("Retry-After", ""),
        )

    def _name(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"


def stated(checksum: Sum) -> Mapping[str, str]:
    """Return the headers that state a sum of the body, which a good server compares."""
    return {
        "x-amz-sdk-checksum-algorithm": checksum.kind.upper(),
        f"x-amz-checksum-{checksum.kind}": in_base64(checksum.hexdigest),
    }


def signed_payload(checksum: Sum) -> str:
    """Return what the signature says of the body: its sha256, or that it covers the sum alone."""
    return checksum.hexdigest if checksum.kind is SumKind.SHA256 else UNSIGNED_PAYLOAD


def in_base64(digest: str) -> str:
    """Return a hex digest as S3's headers have it."""
    return base64.b64encode(bytes.fromhex(digest)).decode()


def element(said: bytes, tag: str) -> str:
    """Return the text of the first element of a name in an answer of S3; "" when it has none."""
    found = re.search(rf"<{tag}>([^<]*)</{tag}>".encode(), said)
    return html.unescape(found[1].decode(errors="replace")) if found else ""


def md5(body: bytes) -> str:
    """Return the sum that many servers want with a list of objects to remove.

    AWS asked for it until 2024.
    """
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _tag(element_: ElementTree.Element) -> str:
    return element_.tag.rpartition("}")[2]


def _fields(element_: ElementTree.Element) -> Mapping[str, str]:
    return {_tag(child): child.text or "" for child in element_}


def _stated_error(said: bytes) -> bool:
    """Return whether an answer is an error, whatever its status; keys in it may have the word."""
    return re.match(rb"\s*(<\?xml[^>]*>\s*)?<Error[\s>]", said) is not None
