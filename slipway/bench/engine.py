"""The load loop: a closed loop of streams against one target, or two in turns, in this process."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from slipway.bench.connection import Connection, Exchange, connect, without_connection
from slipway.bench.openai import request_bytes, to_row
from slipway.bench.values import (
    CANDIDATE,
    STABLE,
    BenchmarkPlan,
    RequestRow,
    RequestTable,
    Target,
)

_CONNECT_TIMEOUT_S = 10.0


async def drive(target: Target, plan: BenchmarkPlan, *, run_id: str) -> RequestTable:
    """Send the warm-up, then the recorded requests, and return the table.

    Args:
        target: who is asked.
        plan: what is asked.
        run_id: begins every request id, so that ledgers of several runs can be told apart.
    """
    await _streams(target, plan, _ids(f"{run_id}-warmup", plan.warmup_requests))
    return await _recorded(lambda: _streams(target, plan, _ids(run_id, plan.requests)))


async def alternate(
    candidate: Target, stable: Target, plan: BenchmarkPlan, *, run_id: str
) -> RequestTable:
    """Send `plan.requests` to each of two targets, in turns and one at a time.

    The one that goes first changes from pair to pair. One request at a time is all that a slot with
    users on it is asked for.

    Args:
        candidate: its rows have the scenario `CANDIDATE`.
        stable: its rows have the scenario `STABLE`.
        plan: what is asked; its concurrency and its scenario do not count.
        run_id: begins every request id.
    """
    arms = [
        (target, replace(plan, concurrency=1, scenario=arm))
        for target, arm in ((candidate, CANDIDATE), (stable, STABLE))
    ]

    async def pair(prefix: str, number: int) -> list[RequestRow]:
        rows: list[RequestRow] = []
        for target, arm in arms if number % 2 else reversed(arms):
            request_id = f"{run_id}-{prefix}{arm.scenario}-{number:06}"
            rows += await _streams(target, arm, iter([(number, request_id)]))
        return rows

    async def pairs() -> list[RequestRow]:
        return [row for number in range(plan.requests) for row in await pair("", number)]

    for number in range(plan.warmup_requests):
        await pair("warmup-", number)
    return await _recorded(pairs)


async def _recorded(load: Callable[[], Awaitable[list[RequestRow]]]) -> RequestTable:
    started_ns, cpu_before_ns = time.monotonic_ns(), time.process_time_ns()
    rows = await load()
    ended_ns, ended_at_ns = time.monotonic_ns(), time.time_ns()
    span_ns = max(1, ended_ns - started_ns)
    return RequestTable(
        rows=tuple(sorted(rows, key=lambda row: row.start_ns)),
        started_ns=started_ns,
        window_s=span_ns / 1e9,
        ended_at_ns=ended_at_ns,
        client_cpu_percent=100 * (time.process_time_ns() - cpu_before_ns) / span_ns,
    )


def _ids(prefix: str, count: int) -> Iterator[tuple[int, str]]:
    return ((number, f"{prefix}-{number:06}") for number in range(count))


async def _streams(
    target: Target, plan: BenchmarkPlan, ids: Iterator[tuple[int, str]]
) -> list[RequestRow]:
    rows: list[RequestRow] = []
    async with asyncio.TaskGroup() as group:
        for _ in itertools.repeat(None, plan.concurrency):
            group.create_task(_stream(target, plan, ids, rows))
    return rows


async def _stream(
    target: Target,
    plan: BenchmarkPlan,
    ids: Iterator[tuple[int, str]],
    rows: list[RequestRow],
) -> None:
    """Send requests one after the other over one connection until there are no more."""
    connection: Connection | None = None
    try:
        for number, request_id in ids:
            data = request_bytes(
                target,
                prompt=plan.prompts[number % len(plan.prompts)],
                max_tokens=plan.max_tokens,
                headers=(("x-request-id", request_id), ("x-slipway-purpose", "benchmark")),
            )
            if connection is None or not connection.reusable:
                connection, failed = await _open(target)
                if connection is None:
                    rows.append(to_row(request_id, plan.scenario, failed, ()))
                    continue
            events: list[tuple[int, bytes]] = []

            def keep(stamp_ns: int, event: bytes, events: list[tuple[int, bytes]] = events) -> None:
                events.append((stamp_ns, event))

            exchange = await connection.request(data, keep, timeout_s=plan.timeout_s)
            rows.append(to_row(request_id, plan.scenario, exchange, events))
    finally:
        if connection is not None:
            connection.close()


async def _open(target: Target) -> tuple[Connection | None, Exchange]:
    """Open a connection; the exchange says why there is none."""
    failed = Exchange(sent_ns=time.monotonic_ns(), sink=lambda _stamp_ns, _event: None)
    try:
        return await connect(target, timeout_s=_CONNECT_TIMEOUT_S), failed
    except OSError as error:
        failed.failure = without_connection(error)
        return None, failed
