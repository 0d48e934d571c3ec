"""`place` makes one version of a service's weights be there and right; `sweep` removes the others.

The last words go to the container's termination message, where a release reads them. Exit codes:
0 done, 65 refused (a repeat would not help), 75 not now (a repeat may).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from slipway.adapters.s3 import S3ObjectStore
from slipway.adapters.weights_volume.placing import place
from slipway.adapters.weights_volume.versions import sweep
from slipway.core.errors import SlipwayError, TransientError
from slipway.core.weights import PLACING_FAILED, PLACING_REFUSED

TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes' default `terminationMessagePath`; the kubelet puts a file there."""

_LONGEST_MESSAGE = 2000  # of 4096 bytes that the kubelet takes
_ENDED_BY_SIGNAL = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    chosen = _parser().parse_args(arguments)
    # Process 1 of a container ignores signals that it has not asked for. Every step may be cut off.
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(_ENDED_BY_SIGNAL + number))
    try:
        if chosen.command == "place":
            place(chosen.folder, chosen.version, _source(chosen.source), say=_say)
        else:
            removed = sweep(chosen.folder, frozenset(chosen.keep))
            _say(f"removed {len(removed)}: {' '.join(removed) or 'nothing'}")
    except SlipwayError as error:
        _last_words(f"{error.code}: {error.message} ({error.hint})")
        return PLACING_FAILED if isinstance(error, TransientError) else PLACING_REFUSED
    return 0


def _source(folder: str) -> S3ObjectStore:
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return S3ObjectStore(bucket=bucket, prefix=prefix, endpoint=endpoint or None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    placing = commands.add_parser("place")
    placing.add_argument("--version", type=_digest, required=True)
    placing.add_argument("--source", type=_s3, required=True)
    sweeping = commands.add_parser("sweep")
    sweeping.add_argument("--keep", type=_digest, action="append", required=True)
    for command in (placing, sweeping):
        command.add_argument("--folder", type=Path, required=True)
    return parser


def _digest(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no sha256 in hex")
    return text


def _s3(text: str) -> str:
    if re.fullmatch(r"s3://[^/]+/.+", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not s3://BUCKET/PREFIX")
    return text


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _last_words(message: str) -> None:
    _say(message)
    try:
        # Opened, not made: outside of a pod there is none.
        with Path(TERMINATION_LOG).open("r+") as file:
            file.write(message[:_LONGEST_MESSAGE])
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main())
