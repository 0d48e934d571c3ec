"""Users of a service, as a process of its own: short streams at a steady rate, long ones always.

Nobody here retries: what a user would have seen is what stands in the ledger, one row per request
at its end. SIGTERM or the stop file: start nothing new, finish what was begun, exit code 0.

    python -m slipway.bench.users --url … --host … --model … --rate … --long-streams … --out …
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from slipway.bench.connection import Connection, Exchange, connect, without_connection
from slipway.bench.openai import judge_stream, read_stream, request_bytes
from slipway.bench.values import Status, Target
from slipway.core.errors import InputError

_CONNECT_TIMEOUT_S = 60.0
"""Who is refused hears it at once; who is not is patient, so that a slow machine harms nobody."""
_STOP_POLL_S = 0.2
_LONG_PAUSE_S = 0.5
"""After a long stream failed: a dead gateway would be asked thousands of times a second."""
_PROMPTS = ("ping", "Tell me about the sea.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What the users do.

    Args:
        rate_per_s: short requests started per second, evenly; 0 is none.
        tokens: asked of a short request.
        long_streams: how many users always have a long stream open.
        long_tokens: asked of a long stream.
        prompts: of short requests, cycled through.
        timeout_s: longest wait for one whole answer.
        sessions: that short requests belong to, in turns.
    """

    rate_per_s: float
    tokens: int = 16
    long_streams: int = 0
    long_tokens: int = 300
    prompts: tuple[str, ...] = _PROMPTS
    timeout_s: float = 300.0
    sessions: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersSummary:
    """What all users together saw.

    Args:
        started: requests, each counted once; ok + failed + truncated.
    """

    started: int
    ok: int
    failed: int
    truncated: int


def read_summary(ledger: Path) -> UsersSummary:
    """Count a ledger's rows.

    Raises:
        InputError: no such ledger, or a row that is none (the users were killed while writing it).
    """
    try:
        rows = [json.loads(line) for line in ledger.read_text().splitlines()]
        counts = Counter(Status(row["status"]) for row in rows)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"the ledger {ledger} cannot be read: {error}",
            code="ledger-unreadable",
            hint="end the users with SIGTERM, so that they finish what they began",
        ) from error
    return UsersSummary(
        started=len(rows),
        ok=counts[Status.OK],
        failed=counts[Status.ERROR],
        truncated=counts[Status.TRUNCATED],
    )


@dataclass(slots=True)
class Crowd:
    """The users at work.

    Args:
        target: the gateway.
        behaviour: what they do.
        ledger: gets a JSON line per request.
    """

    target: Target
    behaviour: Behaviour
    ledger: TextIO
    _idle: list[Connection] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Start nothing new; `run` returns when everything that was begun has ended."""
        self._stopping.set()

    async def run(self) -> None:
        """Be users until `stop`."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.behaviour.long_streams):
                group.create_task(self._long_user(number))
            await self._short_users(group)
        for connection in self._idle:
            connection.close()

    async def _short_users(self, group: asyncio.TaskGroup) -> None:
        """Start a request at each point of a fixed grid: a slow answer delays nobody else."""
        if self.behaviour.rate_per_s <= 0:
            await self._stopping.wait()
            return
        gap_s = 1 / self.behaviour.rate_per_s
        loop = asyncio.get_running_loop()
        first_s = loop.time()
        number = 0
        while not await self._stopped_within(first_s + number * gap_s - loop.time()):
            prompt = self.behaviour.prompts[number % len(self.behaviour.prompts)]
            group.create_task(
                self._ask(prompt, f"short-{number % self.behaviour.sessions}", is_long=False)
            )
            number += 1

    async def _long_user(self, number: int) -> None:
        # Not all at once: real long streams begin at any time.
        pause_s = number * 0.01
        while not await self._stopped_within(pause_s):
            status = await self._ask("Tell me a long story.", f"long-{number}", is_long=True)
            pause_s = 0.0 if status is Status.OK else _LONG_PAUSE_S

    async def _stopped_within(self, delay_s: float) -> bool:
        if delay_s > 0 and not self._stopping.is_set():
            try:
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
            except TimeoutError:
                return False
        return self._stopping.is_set()

    async def _ask(self, prompt: str, session: str, *, is_long: bool) -> Status:
        behaviour = self.behaviour
        request_id = str(uuid.uuid4())
        data = request_bytes(
            self.target,
            prompt=prompt,
            max_tokens=behaviour.long_tokens if is_long else behaviour.tokens,
            headers=(("x-request-id", request_id), ("x-session-id", session)),
            full_length=is_long,
        )
        started_ns = time.time_ns()
        events: list[tuple[int, bytes]] = []
        exchange = await self._exchange(data, events)
        facts = read_stream(events)
        status, error = judge_stream(exchange, facts)
        row = {
            "request_id": request_id,
            "session_id": session,
            "long": is_long,
            "started_ns": started_ns,
            "status": status,
            "error": error,
            "http_status": exchange.http_status,
            "events": facts.events,
            "ttft_ms": _since_ms(exchange.sent_ns, facts.first_ns),
            "duration_ms": _since_ms(exchange.sent_ns, exchange.ended_ns),
            "slot": exchange.headers.get("x-slipway-slot", ""),
            "route": exchange.headers.get("x-slipway-route", ""),
        }
        self.ledger.write(json.dumps(row) + "\n")
        return status

    async def _exchange(self, data: bytes, events: list[tuple[int, bytes]]) -> Exchange:
        def keep(stamp_ns: int, event: bytes) -> None:
            events.append((stamp_ns, event))

        try:
            connection = await self._connection()
        except OSError as error:
            now_ns = time.monotonic_ns()
            return Exchange(
                sent_ns=now_ns, ended_ns=now_ns, sink=keep, failure=without_connection(error)
            )
        exchange = await connection.request(data, keep, timeout_s=self.behaviour.timeout_s)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return exchange

    async def _connection(self) -> Connection:
        """Return an idle connection, the one used last, else a new one: as browsers do."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return await connect(self.target, timeout_s=_CONNECT_TIMEOUT_S)


def main() -> None:
    """Read the arguments and be users until told to stop."""
    args = _parser().parse_args()
    headers = (("host", args.host),) if args.host else ()
    crowd_of = Target(url=args.url, model=args.model, headers=headers, proxy=args.proxy)
    behaviour = Behaviour(
        rate_per_s=args.rate,
        tokens=args.tokens,
        long_streams=args.long_streams,
        long_tokens=args.long_tokens,
        prompts=tuple(args.prompt or _PROMPTS),
        sessions=args.sessions,
    )
    asyncio.run(_until_told(crowd_of, behaviour, args))
    summary = read_summary(args.out)
    sys.stdout.write(
        f"{summary.started} requests: {summary.ok} ok, {summary.failed} failed, "
        f"{summary.truncated} truncated\n"
    )


async def _until_told(target: Target, behaviour: Behaviour, args: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # Not before: whoever sees the ledger may send SIGTERM. Line by line: whoever looks while it
    # runs sees every request that has ended.
    with args.out.open("w", buffering=1) as ledger:
        crowd = Crowd(target, behaviour, ledger, _stopping=stopping)
        if args.seconds is not None:
            loop.call_later(args.seconds, crowd.stop)
        watch = asyncio.create_task(_watch(crowd, args.stop_file)) if args.stop_file else None
        await crowd.run()
        if watch is not None:
            watch.cancel()


async def _watch(crowd: Crowd, stop_file: Path) -> None:
    while not await asyncio.to_thread(stop_file.exists):
        await asyncio.sleep(_STOP_POLL_S)
    crowd.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m slipway.bench.users", description=__doc__)
    parser.add_argument("--url", required=True, help="base URL of the gateway")
    parser.add_argument("--host", help="Host header, for example simulated.localhost")
    parser.add_argument("--proxy", help="proxy that tunnels (CONNECT)")
    parser.add_argument("--model", required=True, help="name of the model in the requests")
    parser.add_argument("--rate", type=float, default=5.0, help="short requests per second")
    parser.add_argument("--tokens", type=int, default=16, help="asked of a short request")
    parser.add_argument("--long-streams", type=int, default=0, help="long streams always open")
    parser.add_argument("--long-tokens", type=int, default=300, help="asked of a long stream")
    parser.add_argument("--prompt", action="append", help="of short requests; may be repeated")
    parser.add_argument("--sessions", type=int, default=100_000, help="of short requests, in turns")
    parser.add_argument("--out", type=Path, required=True, help="ledger, JSON lines")
    parser.add_argument("--stop-file", type=Path, help="stop when this file exists")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    return parser


def _since_ms(start_ns: int, stamp_ns: int | None) -> float | None:
    return None if stamp_ns is None else (stamp_ns - start_ns) / 1e6


if __name__ == "__main__":
    main()
