"""A store of backups in memory, whose every request can be watched, delayed or the last one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from slipway.core.backup.sums import Sum
from slipway.core.errors import PermanentError
from slipway.ports.backups import Body, Stored

_PAGE = 1_000


class FakeBackupStore:
    """`slipway.ports.BackupStore` over a dict that several of them may share.

    Args:
        objects: by key.
        around: called before and after each request has its effect.
        page: keys that a list gives at once; what is written behind the last one is not seen.
    """

    def __init__(
        self,
        objects: dict[str, bytes] | None = None,
        *,
        around: Callable[[], None] = lambda: None,
        page: int = _PAGE,
    ) -> None:
        self.objects: dict[str, bytes] = {} if objects is None else objects
        self.requests: list[tuple[str, str]] = []
        self._around = around
        self._page = page
        self._one_at_a_time = threading.Lock()

    def put(self, key: str, body: Body, *, checksum: Sum) -> None:
        self._request("put", key)
        held = body if isinstance(body, bytes | memoryview) else body.checked(checksum)
        self._store(key, held, checksum)
        self._around()

    def create(self, key: str, body: bytes | memoryview, *, checksum: Sum) -> bool:
        self._request("create", key)
        with self._one_at_a_time:
            stored = key not in self.objects
            if stored:
                self._store(key, body, checksum)
        self._around()
        return stored

    def get(self, key: str) -> bytes:
        self._request("get", key)
        found = self.objects.get(key)
        self._around()
        if found is None:
            raise PermanentError(f"there is no {key}", code="object-missing", hint="list")
        return found

    def read(self, key: str) -> Iterator[memoryview]:
        yield memoryview(self.get(key))

    def list(self, prefix: str) -> Iterator[Stored]:
        last = ""
        while True:
            self._request("list", prefix)
            under = (key for key in self.objects if key.startswith(prefix) and key > last)
            page = [Stored(key, len(self.objects[key])) for key in sorted(under)[: self._page]]
            self._around()
            yield from page
            if len(page) < self._page:
                return
            last = page[-1].key

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._request("delete", key)
            self.objects.pop(key, None)
            self._around()

    def tidy(self) -> None:
        self._request("tidy", "")

    def _request(self, verb: str, key: str) -> None:
        self._around()
        self.requests.append((verb, key))

    def _store(self, key: str, body: bytes | memoryview, checksum: Sum) -> None:
        stored = bytes(body)
        assert checksum.fits(stored)
        self.objects[key] = stored
