"""Carries out one benchmark in this process: order on standard input, table on standard output."""

from __future__ import annotations

import asyncio
import gc
import sys

from slipway.bench.engine import alternate, drive
from slipway.bench.table import order_from_json, to_json


def main() -> None:
    """Read the order, drive the load, write the table."""
    target, plan, run_id, stable = order_from_json(sys.stdin.read())
    # A full collection would stand in the middle of somebody's time to first token.
    gc.collect()
    gc.freeze()
    gc.disable()
    load = (
        drive(target, plan, run_id=run_id)
        if stable is None
        else alternate(target, stable, plan, run_id=run_id)
    )
    sys.stdout.write(to_json(asyncio.run(load)))


if __name__ == "__main__":
    main()
