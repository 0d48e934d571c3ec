"""Give whole files their names, each behind the work on the next: the disk is waited for beside."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from slipway.core.errors import PermanentError
from slipway.files import sync_folder

_WAITING = 4
"""Files that may be written and not yet synced: each holds a descriptor."""


@dataclass(frozen=True, kw_only=True)
class WholeFile:
    """A file with all its bytes, which does not have its name yet.

    Args:
        descriptor: of it; closed when it is settled.
        part: where it lies.
        target: the name it gets.
        mode: of the file.
        mtime_ns: of the file.
    """

    descriptor: int
    part: Path
    target: Path
    mode: int
    mtime_ns: int

    def settle(self) -> None:
        """Have the disk keep it, and only then give it its name; raises what `written` raises."""
        with written(self.target):
            try:
                os.fchmod(self.descriptor, self.mode)
                os.utime(self.descriptor, ns=(self.mtime_ns, self.mtime_ns))
                os.fsync(self.descriptor)
            finally:
                os.close(self.descriptor)
            self.part.replace(self.target)
            sync_folder(self.target.parent)


@dataclass(frozen=True)
class Settling:
    """Settles files in the order in which they come, beside what its caller does."""

    pool: ThreadPoolExecutor
    waiting: deque[Future[None]] = field(default_factory=deque)

    def add(self, file: WholeFile) -> None:
        """Take a file; waits when there are many already, and raises what is wrong with those."""
        self.waiting.append(self.pool.submit(file.settle))
        if len(self.waiting) > _WAITING:
            self.waiting.popleft().result()


@contextmanager
def settling() -> Iterator[Settling]:
    """Give what settles files; at the end all are settled, or what is wrong with one is raised.

    What is whole gets its name even when the block fails.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="settle") as pool:
        work = Settling(pool)
        yield work
        for future in work.waiting:
            future.result()


@contextmanager
def written(target: Path) -> Iterator[None]:
    """Turn what the target's file system refuses into an error with a name.

    Raises:
        PermanentError: `target-full` or `target-refused`.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        raise PermanentError(
            f"cannot write {target}: {error.strerror}",
            code="target-full" if full else "target-refused",
            hint="make room and restore again: what is there is kept"
            if full
            else "check the folder and its rights, and restore again",
        ) from error
