"""Many schedules, on every processor."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from tests.simulation.schedule import Result, Simulation, simulation

_AT_ONCE = 25

_own: list[tuple[AbstractContextManager[Simulation], Simulation]] = []


def run_seeds(seeds: Iterable[int]) -> Iterator[Result]:
    """Yield how the schedules of these seeds went, in their order."""
    # Forked children would share the locks of whatever threads the test runner has.
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="slipway-crowd-") as folder,
        context.Pool(os.cpu_count(), initializer=_begin, initargs=(folder,)) as pool,
    ):
        yield from pool.imap(_run, seeds, chunksize=_AT_ONCE)


def _begin(folder: str) -> None:
    # What is left here, for nobody closes what is opened below, goes with the folder.
    tempfile.tempdir = folder
    # Left open, and kept, on purpose: this process does nothing else until its end.
    opened = simulation()
    _own.append((opened, opened.__enter__()))
    gc.freeze()  # what is loaded by now stays: no collection has to look at it again


def _run(seed: int) -> Result:
    return _own[0][1].run(seed)
