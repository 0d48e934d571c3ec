"""Say that a backup is being read, so that a removal waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from slipway.backup.repository import Repository
from slipway.backup.taking import DAY_S, Surroundings
from slipway.core.backup.collection import Run, RunKind
from slipway.core.backup.names import ManifestName
from slipway.core.backup.ulid import ulid
from slipway.core.errors import PermanentError


@contextmanager
def reading(repository: Repository, name: ManifestName, around: Surroundings) -> Iterator[bool]:
    """Keep removals of a backup waiting meanwhile.

    Gives False where this process may not write to the repository: who may only read can restore
    all the same, and a removal will not wait for it.
    """
    begun_ns = around.now_ns()
    run = Run(
        writer=ulid(begun_ns, around.random_bits()),
        kind=RunKind.READS,
        manifest=name.key,
        lifetime_s=DAY_S,
    )
    with ExitStack() as stack:
        is_known = True
        try:
            stack.enter_context(repository.registered(run, now_ns=begun_ns))
        except PermanentError as error:
            if error.code != "object-store-refused":
                raise
            is_known = False
        yield is_known
