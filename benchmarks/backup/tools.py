"""Slipway and its peers as commands, and what a command takes: time, processor, memory."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BIN = Path(sys.executable).parent
_MANY = {"s5cmd": ("--numworkers", "8"), "rclone": ("--transfers", "4", "--s3-chunk-size", "32M")}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one command took.

    Args:
        sync_s: until the disk had all that it left in memory, after its end.
        said: its last line.
    """

    wall_s: float
    cpu_s: float
    rss_mb: float
    exit_code: int
    sync_s: float = 0.0
    said: str = ""


def run(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command to its end, by a process so small that it adds nothing to its peak memory."""
    launcher = (sys.executable, "-I", "-S", _LAUNCHER, *command)
    done = subprocess.run(
        launcher, env=dict(environment), capture_output=True, text=True, check=True
    )
    cost = Cost(**json.loads(done.stdout))
    if cost.exit_code:
        sys.stderr.write(f"{' '.join(command[:4])}: {done.stderr[-500:]}\n")
    return cost


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program that copies a folder to a bucket and back.

    Args:
        name: for the table.
        prepare: commands that make a place for it.
        up: command; `{folder}` and `{place}` are filled in.
        down: command; `{target}` too.
        checks: whether a restore is checked against what was sent.
        deduplicates: whether it sends only what changed inside a file.
        delta: command that restores over `{local}`, where a version before lies; () has none.
        at: command that restores `{version}`.
        recheck: `up`, with all bytes read; () has none.
    """

    name: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    checks: bool
    deduplicates: bool = False
    delta: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    recheck: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, which: tuple[str, ...], **places: str) -> list[str]:
        """Return a command with its places filled in."""
        return [word.format(**places) for word in which]


def tools(peers: Path | None, endpoint: str) -> list[Tool]:
    """Return Slipway and those of its peers that are here.

    Args:
        peers: folder of their programs, a virtual environment's `bin`.
        endpoint: of the S3 server.
    """
    slipway = (sys.executable, "-m", "slipway.cli", "backup")
    found = [
        Tool(
            name=name,
            prepare=(*slipway, "init", *how, "--repository", "s3://{bucket}/{place}"),
            up=(
                *slipway,
                "take",
                "{folder}",
                "--model",
                "m",
                "--repository",
                "s3://{bucket}/{place}",
            ),
            down=(*slipway, "restore", "m", "{target}", "--repository", "s3://{bucket}/{place}"),
            checks=True,
            deduplicates=True,
            delta=(
                *slipway,
                "restore",
                "m",
                "{target}",
                "--repository",
                "s3://{bucket}/{place}",
                "--local",
                "{local}={version}",
            ),
            at=(
                *slipway,
                "restore",
                "{version}",
                "{target}",
                "--repository",
                "s3://{bucket}/{place}",
            ),
            recheck=(
                *slipway,
                "take",
                "{folder}",
                "--model",
                "m",
                "--read-all",
                "--repository",
                "s3://{bucket}/{place}",
            ),
            environment=environment,
        )
        for name, how, environment in (
            ("slipway", (), ()),
            ("slipway by blake3", ("--hash", "blake3"), ()),
            ("slipway by boto3", (), (("SLIPWAY_BACKUP_TRANSFER", "boto3"),)),
        )
    ]
    remote = f":s3,provider=Other,env_auth=true,endpoint='{endpoint}',force_path_style=true:"
    remote += "{bucket}/{place}"
    rclone = str(_BIN / "rclone")
    found.append(
        Tool(
            name="rclone",
            up=(rclone, "sync", "{folder}", remote, *_MANY["rclone"]),
            down=(rclone, "copy", remote, "{target}"),
            recheck=(rclone, "sync", "--checksum", "{folder}", remote, *_MANY["rclone"]),
            checks=True,
        )
    )
    if peers is not None:
        aws, s5cmd = str(peers / "aws"), str(peers / "s5cmd")
        quiet = ("--only-show-errors",)
        found += [
            Tool(
                name="s5cmd",
                up=(s5cmd, *_MANY["s5cmd"], "sync", "{folder}/", "s3://{bucket}/{place}/"),
                down=(s5cmd, *_MANY["s5cmd"], "cp", "s3://{bucket}/{place}/*", "{target}/"),
                checks=False,
            ),
            Tool(
                name="aws",
                up=(aws, "s3", "sync", *quiet, "{folder}", "s3://{bucket}/{place}"),
                down=(aws, "s3", "cp", "--recursive", *quiet, "s3://{bucket}/{place}", "{target}"),
                checks=False,
            ),
            Tool(
                name="obstore",
                up=(str(peers / "python"), _OBSTORE, "up", "{folder}", "{bucket}", "{place}"),
                down=(str(peers / "python"), _OBSTORE, "down", "{target}", "{bucket}", "{place}"),
                checks=False,
            ),
        ]
    restic = shutil.which("restic")
    if restic is not None:
        repository = ("-r", f"s3:{endpoint}/{{bucket}}/{{place}}", "--no-cache")
        found.append(
            Tool(
                name="restic",
                prepare=(restic, *repository, "init"),
                up=(restic, *repository, "backup", "{folder}"),
                down=(restic, *repository, "restore", "latest", "--target", "{target}"),
                recheck=(restic, *repository, "backup", "--force", "{folder}"),
                checks=True,
                deduplicates=True,
                environment=(("RESTIC_PASSWORD", "benchmark"),),
            )
        )
    return found


_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_OBSTORE = str(Path(__file__).with_name("obstore_copy.py"))


def limits() -> None:
    """Let commands open many files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
