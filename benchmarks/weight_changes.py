"""200 changes of a canary's weight under 1,000 and more streaming requests a second.

Prints failed requests, and how long a change takes to be in force at the gateway: with the
sandbox's debounce of istiod (10 ms) and with Istio's default (100 ms). Run by `make bench`; the
control plane must have been built before (`make demo` does it).

Effect of a change: from the API server's answer to the write until the last request was sent that
the gateway still routed by the old route, by the clock of the process that sent it. A change that
was in force before the answer came counts as 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from _sandbox import installed_service, slipway

from slipway.bootstrap.releases import Ports, connect
from slipway.core.routing import ROUTE_HEADER, Slot, split
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.parts import gateway

SERVICE = "weights"
CHANGES = 200
RATE_PER_S = 1200
WEIGHTS_PERCENT = (1, 5, 25, 50, 75)
GOALS = {"failed": "0", "requests a second": "≥ 1000", "effect p50": "≤ 50 ms"}
DEBOUNCES = ("10ms", "100ms")
"""The sandbox's, and Istio's own default."""

_TICK_S = 0.005
_SETTLE_S = 0.25
_ROUTE = ROUTE_HEADER.encode() + b": "


def main() -> None:
    """Measure each debounce on a sandbox of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=CHANGES)
    parser.add_argument("--load", nargs=2, metavar=("URL", "OUT"), help="be the users, until EOF")
    chosen = parser.parse_args()
    if chosen.load:
        asyncio.run(_be_users(*chosen.load))
        return
    columns = {debounce: _measured(debounce, chosen.changes) for debounce in DEBOUNCES}
    first, default = columns.values()
    print(f"| {chosen.changes} changes | at 10 ms | at 100 ms (default) | ratio | goal at 10 ms |")
    print("|---|---|---|---|---|")
    for what, figure in first.items():
        ratio = f"{default[what] / figure:.1f}" if what.startswith("effect") and figure else ""
        print(f"| {what} | {figure:.0f} | {default[what]:.0f} | {ratio} | {GOALS.get(what, '')} |")


@dataclass(frozen=True)
class Row:
    """One request of the users; times are monotonic ns."""

    sent_ns: int
    ended_ns: int
    revision: str
    ok: bool


@dataclass
class Changes:
    """When each route was asked for."""

    revisions: list[str] = field(default_factory=list)
    written_ns: list[int] = field(default_factory=list)
    confirmed_ms: list[float] = field(default_factory=list)


def _measured(debounce: str, changes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="slipway-weights-") as name:
        home = SandboxHome(Path(name) / "home")
        environment = {
            **os.environ,
            "SLIPWAY_HOME": str(home.root),
            "SLIPWAY_ISTIO_DEBOUNCE": debounce,
        }
        try:
            slipway(environment, "sandbox", "up")
            ports = _two_warm_slots(home, Path(name))
            made, rows = _under_load(ports, gateway.url(home), Path(name), changes)
        finally:
            slipway(environment, "sandbox", "down")
    return _figures(made, rows)


def _two_warm_slots(home: SandboxHome, folder: Path) -> Ports:
    """Release two versions of a fast simulated model, the first kept warm."""
    benchmark = {"requests": 20, "concurrency": 4, "slowdown_max": 50}  # speed is not the subject
    service = installed_service(
        home, folder, SERVICE, bake_s=0, rollback_window_s=86400, benchmark=benchmark
    )
    for seed in (1, 2):
        service.release(service.register(ttft_ms=1, gap_ms=0, seed=seed))
    return connect(SERVICE, service.settings)


def _under_load(ports: Ports, url: str, folder: Path, changes: int) -> tuple[Changes, list[Row]]:
    ledger = folder / "users.jsonl"
    command = (sys.executable, str(Path(__file__)), "--load", url, str(ledger))
    with subprocess.Popen(command, stdin=subprocess.PIPE) as users:
        time.sleep(2)  # users come up to their rate before the first change
        made = _change_weights(ports, changes)
        users.communicate()
    assert users.returncode == 0
    return made, [Row(*json.loads(line)) for line in ledger.read_text().splitlines()]


def _change_weights(ports: Ports, changes: int) -> Changes:
    made, fence = Changes(), ports.releases.lock(SERVICE).fence
    for number in range(changes):
        weight = WEIGHTS_PERCENT[number % len(WEIGHTS_PERCENT)]
        route = split(SERVICE, stable=Slot.GREEN, candidate_percent=weight)
        ports.traffic.apply(route, fence=fence)
        made.written_ns.append(time.monotonic_ns())
        made.revisions.append(route.revision)
        made.confirmed_ms.append(ports.traffic.confirm(route, timeout_s=30).waited_ms)
        assert ports.traffic.read(SERVICE) == route
        time.sleep(_SETTLE_S)  # so that the next change does not hide how long this one took
    return made


def _figures(made: Changes, rows: list[Row]) -> dict[str, float]:
    effects_ms = []
    for number in range(1, len(made.revisions)):
        old, written_ns = made.revisions[number - 1], made.written_ns[number]
        until_ns = [*made.written_ns, time.monotonic_ns()][number + 1]
        late = [
            row.sent_ns - written_ns
            for row in rows
            if row.revision == old and written_ns < row.sent_ns < until_ns
        ]
        effects_ms.append(max(late, default=0) / 1e6)
    span_s = (rows[-1].sent_ns - rows[0].sent_ns) / 1e9
    ranked = sorted(effects_ms)
    return {
        "requests": len(rows),
        "failed": sum(not row.ok for row in rows),
        "requests a second": len(rows) / span_s,
        "effect p50": statistics.median(ranked),
        "effect p95": ranked[int(0.95 * len(ranked))],
        "effect max": ranked[-1],
        "confirmed by 10 answers, p50": statistics.median(made.confirmed_ms),
    }


class _Stream(asyncio.Protocol):
    """A kept-alive connection that asks one streaming request at a time; it never retries."""

    def __init__(self, idle: list[_Stream], rows: list[Row]) -> None:
        self._idle, self._rows = idle, rows
        self._transport: asyncio.Transport | None = None
        self._sent_ns = 0
        self._answer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes) -> None:
        assert self._transport is not None
        self._answer.clear()
        self._sent_ns = time.monotonic_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._answer.endswith(b"\r\n0\r\n\r\n") or b"content-length" in self._answer[:400]:
            ok = self._answer.startswith(b"HTTP/1.1 200") and b"[DONE]" in self._answer
            self._end(ok=ok)
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        if self in self._idle:
            self._idle.remove(self)
        if self._sent_ns:
            self._end(ok=False)

    def _end(self, *, ok: bool) -> None:
        _, _, after = bytes(self._answer).partition(_ROUTE)
        revision = after.partition(b"\r\n")[0].decode()
        self._rows.append(Row(self._sent_ns, time.monotonic_ns(), revision, ok))
        self._sent_ns = 0

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def _be_users(url: str, out: str) -> None:
    """Send requests on a fixed grid until standard input ends; write a line per request."""
    at, loop = urlsplit(url), asyncio.get_running_loop()
    body = json.dumps(
        {
            "model": SERVICE,
            "stream": True,
            "max_tokens": 2,
            "messages": [{"role": "user", "content": "ping"}],
        }
    ).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {SERVICE}.localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    idle: list[_Stream] = []
    rows: list[Row] = []
    ended = loop.run_in_executor(None, sys.stdin.read)
    first_s, sent = loop.time(), 0
    while not ended.done():
        due = int((loop.time() - first_s) * RATE_PER_S)
        for _ in range(due - sent):
            if not idle:
                _, stream = await loop.create_connection(
                    lambda: _Stream(idle, rows), at.hostname, at.port
                )
                idle.append(stream)
            idle.pop().ask(request)
        sent = due
        await asyncio.sleep(_TICK_S)
    await asyncio.sleep(2)  # what was begun ends
    for stream in idle:
        stream.close()
    lines = (json.dumps((r.sent_ns, r.ended_ns, r.revision, r.ok)) + "\n" for r in rows)
    Path(out).write_text("".join(lines))
    assert len(rows) == sent, f"{sent} asked, {len(rows)} ended"


if __name__ == "__main__":
    main()
