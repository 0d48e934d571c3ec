"""How fast work may go: bytes each second, and chunks at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def several(threads: int, name: str) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give a `map` that works on several items at once; with one thread in this one."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        yield pool.map


def limited(
    bytes_per_s: float,
    *,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Callable[[int], None]:
    """Return what waits until so many bytes may travel; for any number of threads.

    Nothing is saved up: who did not send for a while may not send faster afterwards.

    Args:
        bytes_per_s: above 0.
        now_s: a clock that never goes back.
        sleep: waits.
    """
    lock = threading.Lock()
    free_at_s = now_s()

    def wait(size_bytes: int) -> None:
        nonlocal free_at_s
        with lock:
            begins_s = max(free_at_s, now_s())
            free_at_s = begins_s + size_bytes / bytes_per_s
            wait_s = begins_s - now_s()
        if wait_s > 0:
            sleep(wait_s)

    return wait
