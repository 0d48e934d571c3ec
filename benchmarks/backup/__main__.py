"""`python -m benchmarks.backup`: Slipway's backups beside those of its peers, in the same run.

Tools take turns in each round, in an order of its own, so that all see the same machine: one does
all its steps, and its data are gone before the next begins, or the last would find them on the
disk while the first had them in memory. Medians are printed, and ratios to Slipway. The floor is
the same bytes by plain signed PUTs of 16 MiB. `sync s` is how long the disk went on after a
restore: Slipway's files are on it already. `best` is the least of all rounds: on a machine that
others use, too, what a step takes at least.

    --gb 4        size of the model
    --rounds 5
    --peers DIR   `bin` of a virtual environment with awscli, s5cmd and obstore
    --tools LIST  names, with commas; all that are here when left out
    --in DIR      where source, server and target are; needs about 8 times the model
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from benchmarks.backup import models
from benchmarks.backup.tools import Cost, Tool, limits, run, tools
from slipway.adapters.backups.s3 import S3BackupStore
from slipway.core.backup.sums import sha256_sum
from slipway.sandbox.parts import s3
from tests.contract.running_parts import object_store

_CHUNK_BYTES = 16 << 20
_CHANGED = frozenset({"full", "5 % tuned", "inserted", "2 shards"})


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

    def prepare(self) -> None:
        """Write every version once, each into a folder of its own."""
        base = models.tensors(self.gigabytes)
        models.write(self.version("base"), base)
        models.write(self.version("tuned"), models.tuned(base))
        models.write(self.version("inserted"), models.inserted(base))
        models.write(self.version("2 shards"), base, 2)

    def version(self, name: str) -> Path:
        """Return the folder of a version that is backed up."""
        return self.folder / "versions" / name.replace(" ", "-")

    def round(self, number: int, candidates: list[Tool]) -> None:
        """Let every tool do every step once.

        Those that send whole files again do it in the first round alone: it is always the same.
        """
        base = self.version("base")
        random.Random(number).shuffle(candidates)
        for tool in candidates:
            _read(base)
            if tool.name == "slipway":
                self._floor(base)
            self._new_bucket(tool)
            self._whole(tool, base)
            if tool.deduplicates or number == 1:
                self._changed(tool)
            drop_bucket(self.environment, _bucket(tool.name))

    def _whole(self, tool: Tool, base: Path) -> None:
        self._up(tool, "full", tool.up, base)
        self._down(tool, "restore", tool.down, base)
        self._up(tool, "unchanged", tool.up, base)
        if tool.recheck:
            self._up(tool, "all read", tool.recheck, base)

    def _changed(self, tool: Tool) -> None:
        self._up(tool, "5 % tuned", tool.up, self.version("tuned"))
        self._delta(tool)
        for name in ("inserted", "2 shards"):
            self._up(tool, name, tool.up, self.version(name))

    def _new_bucket(self, tool: Tool) -> None:
        _client(self.environment).create_bucket(Bucket=_bucket(tool.name))
        if tool.prepare:
            self._run(tool, tool.prepare)

    def _up(self, tool: Tool, step: str, command: tuple[str, ...], source: Path) -> None:
        before = _stored(self.environment, _bucket(tool.name))
        cost = self._run(tool, command, folder=str(source))
        self.seen[tool.name, step].append(cost)
        after = _stored(self.environment, _bucket(tool.name))
        sent = _written(before, after)
        self.sent[tool.name, step].append(sent)
        if not sent and step in _CHANGED:
            self.wrong.add((tool.name, step))  # what has changed is not in the bucket
        if not tool.deduplicates and step not in {"full", "unchanged"}:
            # It writes everything anew each time, and the disk has no room for all of that.
            drop_bucket(self.environment, _bucket(tool.name))
            self._new_bucket(tool)

    def _down(
        self, tool: Tool, step: str, command: tuple[str, ...], source: Path, **places: str
    ) -> None:
        target = self.folder / "target"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        os.sync()
        cost = self._run(tool, command, target=str(target), **places)
        self.seen[tool.name, step].append(cost)
        found = target / str(source).lstrip("/") if tool.name == "restic" else target
        if not models.same(source, found):
            self.wrong.add((tool.name, step))

    def _delta(self, tool: Tool) -> None:
        """Restore what was tuned over what it was tuned from."""
        if not tool.delta:
            return
        listed = sorted(_manifests(_stored(self.environment, _bucket(tool.name))))
        base = self.folder / "base"
        self._run(tool, tool.at, target=str(base), version=listed[0])
        places = {"local": str(base), "version": listed[0]}
        self._down(tool, "delta", tool.delta, self.version("tuned"), **places)
        shutil.rmtree(base)

    def _floor(self, source: Path) -> None:
        """Send the same bytes with nothing between: what the server can take at this minute."""
        bucket = _bucket("floor")
        _client(self.environment).create_bucket(Bucket=bucket)
        store = S3BackupStore(bucket=bucket, endpoint=self.environment["AWS_ENDPOINT_URL"])
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
            store.put(f"{path.name}-{at}", body, checksum=sha256_sum(body))

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
        drop_bucket(self.environment, bucket)

    def _run(self, tool: Tool, which: tuple[str, ...], **places: str) -> Cost:
        environment = {**self.environment, **dict(tool.environment)}
        command = tool.command(which, bucket=_bucket(tool.name), place="m", **places)
        cost = run(command, environment)
        if cost.exit_code:
            self.wrong.add((tool.name, which[-1]))
        return cost


def _read(folder: Path) -> None:
    """Have the files in memory, so that no tool waits for the disk because of its turn."""
    buffer = bytearray(1 << 20)
    for path in folder.rglob("*"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _bucket(name: str) -> str:
    return f"bench-{name.replace(' ', '-').lower()}"


def _client(environment: Mapping[str, str]) -> Any:
    return boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])


def _stored(environment: Mapping[str, str], bucket: str) -> dict[str, tuple[str, int]]:
    pages = _client(environment).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {
        item["Key"]: (f"{item['LastModified']} {item['ETag']}", item["Size"])
        for page in pages
        for item in page.get("Contents", ())
    }


def _manifests(keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        if key.startswith("m/manifests/m/") and key.endswith(".json"):
            yield "m@" + key.rpartition("/")[2].removesuffix(".json")


def _written(before: Mapping[str, tuple[str, int]], after: Mapping[str, tuple[str, int]]) -> int:
    return sum(size for key, (mark, size) in after.items() if before.get(key, ("", 0))[0] != mark)


def drop_bucket(environment: Mapping[str, str], bucket: str) -> None:
    """Remove a bucket with all that is in it; only then the server gives back the disk."""
    client = _client(environment)
    keys = list(_stored(environment, bucket))
    for start in range(0, len(keys), 1_000):
        listed = [{"Key": key} for key in keys[start : start + 1_000]]
        client.delete_objects(Bucket=bucket, Delete={"Objects": listed, "Quiet": True})
    client.delete_bucket(Bucket=bucket)


def _print(bench: Bench, rounds: int) -> None:
    names = list(dict.fromkeys(name for name, _ in bench.seen))
    steps = list(dict.fromkeys(step for _, step in bench.seen))
    size = bench.gigabytes
    print(f"\n{size:g} GB, {rounds} rounds, medians; CPU of the client alone")
    print(
        f"{'step':12}{'tool':18}{'wall s':>9}{'best':>8}{'sync s':>8}{'CPU s/GB':>10}{'best':>7}"
        f"{'RSS MB':>8}{'MB sent':>10}{'wall ×':>8}{'CPU ×':>7}"
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
                f"{step:12}{name:18}{wall:9.2f}{_best(costs, 'wall_s'):8.2f}"
                f"{_median(costs, 'sync_s'):8.2f}{cpu / size:10.2f}"
                f"{_best(costs, 'cpu_s') / size:7.2f}{_median(costs, 'rss_mb'):8.0f}"
                f"{statistics.median(sent) / 1e6 if sent else 0:10.1f}"
                f"{wall / mine[0]:8.2f}{cpu / mine[1]:7.2f}{wrong}"
            )
    for name, step in (("slipway", "delta"), ("slipway", "restore")):
        for cost in bench.seen.get((name, step), ())[:1]:
            print(f"{step}: {cost.said}")
    for name, step in sorted(bench.wrong):
        print(f"not right: {name}, {step}")


def _best(costs: list[Cost], name: str) -> float:
    return float(min(getattr(cost, name) for cost in costs))


def _median(costs: list[Cost], name: str) -> float:
    return statistics.median(getattr(cost, name) for cost in costs)


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--tools", default="")
    parser.add_argument("--in", type=Path, dest="folder")
    chosen = parser.parse_args()
    limits()
    with (
        tempfile.TemporaryDirectory(prefix="slipway-bench-", dir=chosen.folder) as name,
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
        environment = {**own, "PATH": os.environ["PATH"], "HOME": name}
        bench = Bench(folder=Path(name), environment=environment, gigabytes=chosen.gb)
        wanted = {name.strip() for name in chosen.tools.split(",") if name.strip()}
        candidates = [
            tool
            for tool in tools(chosen.peers, own["AWS_ENDPOINT_URL"])
            if not wanted or tool.name in wanted
        ]
        bench.prepare()
        for number in range(1, chosen.rounds + 1):
            print(f"round {number}: {', '.join(tool.name for tool in candidates)}", flush=True)
            bench.round(number, candidates)
            _print(bench, number)
        return 1 if any(name == "slipway" for name, _ in bench.wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
