"""Slices of 127.100.0.0/16: each node of each sandbox on this machine has one of its own.

Slice N is the network 127.100.N.0/24. Who has bound the abstract Unix socket `slipway-slice-N`
holds it: binding is atomic, works across users, and has the scope that loopback addresses have, the
network namespace (unix(7), network_namespaces(7)). No file is left behind.

The bound descriptor is inherited: from `up` to the supervisor, to each of its parts, to the keeper
of each container and to the container itself. So the kernel frees a slice when the last of them has
ended, and nobody gets addresses on which the pods of a killed supervisor still listen. Not all hold
it: flow runs of the Prefect worker and helpers that a part starts with `close_fds` do not, nor a
container's program that closes what it does not know. None of them listens on an address of the
slice but the last, and its keeper, with which the kernel ends it, holds the slice for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence

from slipway.core.errors import TransientError
from slipway.sandbox.home import SandboxHome

SLICES = range(1, 255)

_NAME = "\0slipway-slice-"


@contextlib.contextmanager
def taken(home: SandboxHome, nodes: Sequence[str]) -> Iterator[None]:
    """Hold a slice for each node while the block runs, and remember them in the home.

    The ones that are remembered already are preferred, then the lowest free one. Processes that
    the block starts with `pass_fds=held()` hold them further.

    Args:
        home: the sandbox, its folder created.
        nodes: names of its nodes.

    Raises:
        TransientError: every slice is held.
    """
    with contextlib.ExitStack() as stack:
        numbers: dict[str, int] = {}
        for node in nodes:
            before = home.remembered_slice(node)
            lock = _bound(before) if before else None
            if before and lock:
                numbers[node] = before
                stack.enter_context(lock)
        for node in nodes:
            if node not in numbers:
                numbers[node], lock = _first_free(SLICES)
                stack.enter_context(lock)
        home.remember_slices(numbers)
        yield


@contextlib.contextmanager
def one_taken() -> Iterator[int]:
    """Hold the highest free slice while the block runs, beside sandboxes, which grow from below.

    Raises:
        TransientError: every slice is held.
    """
    number, lock = _first_free(reversed(SLICES))
    with lock:
        yield number


def held() -> tuple[int, ...]:
    """Return the descriptors of this process that hold slices, its own and inherited ones."""
    return tuple(sorted(found for found in _descriptors() if _number_of(found) is not None))


def held_numbers() -> tuple[int, ...]:
    """Return the numbers of the slices that this process holds."""
    numbers = (_number_of(descriptor) for descriptor in _descriptors())
    return tuple(sorted({number for number in numbers if number is not None}))


def is_free(number: int) -> bool:
    """Return whether nobody holds a slice at this moment."""
    lock = _bound(number)
    if lock is not None:
        lock.close()
    return lock is not None


def _first_free(numbers: Iterator[int] | Sequence[int]) -> tuple[int, socket.socket]:
    for number in numbers:
        lock = _bound(number)
        if lock is not None:
            return number, lock
    raise TransientError(
        f"all {len(SLICES)} slices of 127.100.0.0/16 are held by sandboxes of this machine",
        code="slices-exhausted",
        hint="stop one that nobody needs; `ss -xa | grep slipway-slice` shows what is held",
    )


def _bound(number: int) -> socket.socket | None:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"{_NAME}{number}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return lock


def _descriptors() -> tuple[int, ...]:
    return tuple(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # names only


def _number_of(descriptor: int) -> int | None:
    """Return the slice that a descriptor holds; it may belong to another thread and vanish."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            name = copy.getsockname()
    except OSError:
        return None
    if not isinstance(name, bytes) or not name.startswith(_NAME.encode()):
        return None
    return int(name.removeprefix(_NAME.encode()))
