"""How far the reported time to first token is from the server's own: our engine against httpx.

Both clients send the same requests to the same simulated server, one after the other, in one run;
the truth is the server's log. Prints medians and the ratio. Run by `make bench`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from slipway.bench.runner import run_benchmark
from slipway.bench.values import BenchmarkPlan, Target

REQUESTS = 400
STREAMS = 50
TOKENS = 20


def main() -> None:
    """Start the server, run both clients, print the comparison."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
        folder, log = Path(name), Path(name) / "truth.jsonl"
        (folder / "simulated.json").write_text(json.dumps({"ttft_ms": 50, "gap_ms": 20}))
        port = _free_port()
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "slipway.sandbox.servers.simulated"),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--model-dir", str(folder), "--model-name", "m"),
            ],
            env={**os.environ, "SLIPWAY_TRUTH_LOG": str(log)},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await(url)
            ours = _ours(url)
            theirs = asyncio.run(_httpx(url))
        finally:
            server.terminate()
            server.wait()
        truth = _truth(log)
    _print({"slipway.bench": ours, "httpx": theirs}, truth)


def _ours(url: str) -> dict[str, float]:
    plan = BenchmarkPlan(requests=REQUESTS, concurrency=STREAMS, max_tokens=TOKENS)
    table = run_benchmark(Target(url=url, model="m"), plan, run_id="ours")
    return {row.request_id: row.ttft_ms for row in table.rows if row.ttft_ms is not None}


async def _httpx(url: str) -> dict[str, float]:
    found: dict[str, float] = {}
    numbers = iter(range(REQUESTS))
    limits = httpx.Limits(max_connections=STREAMS)

    async def stream(client: httpx.AsyncClient) -> None:
        for number in numbers:
            request_id = f"theirs-{number}"
            body = {
                "model": "m",
                "stream": True,
                "max_tokens": TOKENS,
                "messages": [{"role": "user", "content": "Tell me about the sea."}],
            }
            began_ns = time.monotonic_ns()
            async with client.stream(
                "POST",
                f"{url}/v1/chat/completions",
                json=body,
                headers={"x-request-id": request_id},
            ) as answer:
                async for line in answer.aiter_lines():
                    if '"content":"' in line.replace(": ", ":") and request_id not in found:
                        found[request_id] = (time.monotonic_ns() - began_ns) / 1e6

    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
        await asyncio.gather(*(stream(client) for _ in range(STREAMS)))
    return found


def _truth(log: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return {
        row["x_request_id"]: (row["first_ns"] - row["received_ns"]) / 1e6
        for row in rows
        if row.get("first_ns")
    }


def _print(seen_by: dict[str, dict[str, float]], truth: dict[str, float]) -> None:
    medians = {}
    for who, seen in seen_by.items():
        errors = sorted(abs(ms - truth[key]) for key, ms in seen.items())
        medians[who] = statistics.median(errors)
        at99 = errors[int(0.99 * len(errors))]
        print(
            f"{who:<14} {len(seen)} requests, |TTFT error| ms: {medians[who]:.3f}, p99 {at99:.3f}"
        )
    ours, theirs = medians
    ratio = medians[theirs] / medians[ours]
    print(f"{theirs} errs {ratio:.1f} times as much as {ours} (medians, {STREAMS} streams)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(url: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise SystemExit("the simulated server did not start")


if __name__ == "__main__":
    main()
