"""`python -m benchmarks.backup`: Slipway's backups beside those of its peers, in the same run.

Tools take turns in each round, in an order of its own, so that all see the same machine. Medians
are printed, and ratios to Slipway. The floor is the same bytes by plain signed PUTs of 16 MiB.

    --gb 4        size of the model
    --rounds 5
    --peers DIR   `bin` of a virtual environment with awscli, s5cmd and obstore
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from benchmarks.backup import models
from benchmarks.backup.tools import Cost, Tool, limits, run, tools
from slipway.adapters.backups.s3 import S3BackupStore
from slipway.sandbox.parts import s3
from tests.contract.running_parts import object_store

BUCKET = "benchmark"
_CHUNK_BYTES = 16 << 20


@dataclass
class Bench:
    """One run: a server, a model, and what was measured.

    Args:
        seen: tool and step → costs, by round.
        sent: tool and step → bytes that were written to the bucket, by round.
        wrong: tools and steps whose outcome was not right.
    """

    folder: Path
    environment: Mapping[str, str]
    gigabytes: float
    seen: dict[tuple[str, str], list[Cost]] = field(default_factory=lambda: defaultdict(list))
    sent: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    wrong: set[tuple[str, str]] = field(default_factory=set)

    def round(self, number: int, candidates: list[Tool]) -> None:
        """Let every tool do every step once."""
        random.Random(number).shuffle(candidates)
        base = models.tensors(self.gigabytes, seed=number)
        source = self.folder / "source"
        places = {
            tool.name: f"{tool.name.replace(' ', '-')}-{uuid.uuid4().hex[:6]}"
            for tool in candidates
        }
        for tool in candidates:
            if tool.prepare:
                self._run(tool, tool.prepare, place=places[tool.name])
        versions = (
            ("full", base, 4),
            ("unchanged", None, 4),
            ("5 % tuned", models.tuned(base), 4),
            ("inserted", models.inserted(base), 4),
            ("2 shards", base, 2),
        )
        for step, content, shards in versions:
            if content is not None:
                models.write(source, content, shards)
            for tool in candidates:
                before = _stored(self.environment)
                cost = self._run(tool, tool.up, folder=str(source), place=places[tool.name])
                self.seen[tool.name, step].append(cost)
                self.sent[tool.name, step].append(_written(before, _stored(self.environment)))
            if step == "full":
                self._floor(source)
                self._restores(candidates, places, source)
        _empty(self.environment)

    def _restores(self, candidates: list[Tool], places: Mapping[str, str], source: Path) -> None:
        for tool in candidates:
            target = self.folder / "target"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            cost = self._run(
                tool, tool.down, folder=str(source), place=places[tool.name], target=str(target)
            )
            self.seen[tool.name, "restore"].append(cost)
            found = target / str(source).lstrip("/") if tool.name == "restic" else target
            if not models.same(source, found):
                self.wrong.add((tool.name, "restore"))

    def _floor(self, source: Path) -> None:
        """Send the same bytes with nothing between: what the server can take at this minute."""
        store = S3BackupStore(
            bucket=BUCKET, endpoint=self.environment["AWS_ENDPOINT_URL"], prefix="floor"
        )
        pieces = [
            (path, at)
            for path in sorted(source.rglob("*"))
            if path.is_file()
            for at in range(0, path.stat().st_size, _CHUNK_BYTES)
        ]

        def put(piece: tuple[Path, int]) -> None:
            path, at = piece
            with path.open("rb") as file:
                body = os.pread(file.fileno(), _CHUNK_BYTES, at)
            store.put(f"{path.name}-{at}", body, sha256=hashlib.sha256(body).hexdigest())

        begun_s, begun_cpu = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(put, pieces))
        self.seen["raw PUT", "full"].append(
            Cost(
                wall_s=time.monotonic() - begun_s,
                cpu_s=time.process_time() - begun_cpu,
                rss_mb=0.0,
                exit_code=0,
            )
        )

    def _run(self, tool: Tool, which: tuple[str, ...], **places: str) -> Cost:
        environment = {**self.environment, **dict(tool.environment)}
        cost = run(tool.command(which, bucket=BUCKET, **places), environment)
        if cost.exit_code:
            self.wrong.add((tool.name, which[-1]))
        return cost


def _client(environment: Mapping[str, str]) -> Any:
    return boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])


def _stored(environment: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    pages = _client(environment).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {
        item["Key"]: (f"{item['LastModified']} {item['ETag']}", item["Size"])
        for page in pages
        for item in page.get("Contents", ())
    }


def _written(before: Mapping[str, tuple[str, int]], after: Mapping[str, tuple[str, int]]) -> int:
    return sum(size for key, (mark, size) in after.items() if before.get(key, ("", 0))[0] != mark)


def _empty(environment: Mapping[str, str]) -> None:
    client = _client(environment)
    for key in _stored(environment):
        client.delete_object(Bucket=BUCKET, Key=key)


def _print(bench: Bench, rounds: int) -> None:
    names = list(dict.fromkeys(name for name, _ in bench.seen))
    steps = list(dict.fromkeys(step for _, step in bench.seen))
    size = bench.gigabytes
    print(f"\n{size:g} GB, {rounds} rounds, medians; CPU of the client alone")
    print(
        f"{'step':12}{'tool':18}{'wall s':>9}{'CPU s/GB':>10}{'RSS MB':>8}{'MB sent':>10}"
        f"{'wall ×':>8}{'CPU ×':>7}"
    )
    for step in steps:
        own = bench.seen.get(("slipway", step))
        for name in names:
            costs = bench.seen.get((name, step))
            if not costs:
                continue
            wall, cpu = _median(costs, "wall_s"), _median(costs, "cpu_s")
            sent = bench.sent.get((name, step))
            mine = (_median(own, "wall_s"), _median(own, "cpu_s")) if own else (wall, cpu)
            wrong = "  WRONG" if (name, step) in bench.wrong else ""
            print(
                f"{step:12}{name:18}{wall:9.2f}{cpu / size:10.2f}{_median(costs, 'rss_mb'):8.0f}"
                f"{statistics.median(sent) / 1e6 if sent else 0:10.1f}"
                f"{wall / mine[0]:8.2f}{cpu / mine[1]:7.2f}{wrong}"
            )
    for name, step in sorted(bench.wrong):
        print(f"not right: {name}, {step}")


def _median(costs: list[Cost], name: str) -> float:
    return statistics.median(getattr(cost, name) for cost in costs)


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path)
    chosen = parser.parse_args()
    limits()
    with (
        tempfile.TemporaryDirectory(prefix="slipway-bench-") as name,
        object_store(Path(name) / "s3") as home,
    ):
        own = {
            "AWS_ENDPOINT_URL": s3.endpoint(home),
            "S3_ENDPOINT_URL": s3.endpoint(home),  # of s5cmd
            "AWS_ACCESS_KEY_ID": s3.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": home.secret("s3-secret-key"),
            "AWS_DEFAULT_REGION": s3.REGION,
            "AWS_REGION": s3.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        os.environ.update(own)
        boto3.client("s3", endpoint_url=own["AWS_ENDPOINT_URL"]).create_bucket(Bucket=BUCKET)
        environment = {**own, "PATH": os.environ["PATH"], "HOME": name}
        bench = Bench(folder=Path(name), environment=environment, gigabytes=chosen.gb)
        candidates = tools(chosen.peers, own["AWS_ENDPOINT_URL"])
        for number in range(1, chosen.rounds + 1):
            print(f"round {number}: {', '.join(tool.name for tool in candidates)}", flush=True)
            bench.round(number, candidates)
        _print(bench, chosen.rounds)
        return 1 if any(name == "slipway" for name, _ in bench.wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
