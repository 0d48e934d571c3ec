"""What the supervisor needs to know of one part: a value, no behaviour.

A part is one long-running process of the sandbox. `slipway/sandbox/parts/*.py` build these values
from a `SandboxHome`; `slipway/sandbox/supervisor.py` starts, watches and stops them.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HttpReady:
    """Ready when GET `url` answers with a status below 400 (or one of `accept`).

    Args:
        url: on loopback.
        bearer: token for the Authorization header.
        accept: further statuses that count as ready.
        verify: path of the CA bundle for https; None trusts the answer on loopback as it is.
    """

    url: str
    bearer: str | None = None
    accept: tuple[int, ...] = ()
    verify: Path | None = None


@dataclass(frozen=True, slots=True)
class TcpReady:
    """Ready when a TCP connection to `host`:`port` is accepted."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class SocketReady:
    """Ready when the Unix socket at `path` accepts a connection."""

    path: Path


@dataclass(frozen=True, slots=True)
class FileReady:
    """Ready when the part has written `path` (removed by the supervisor before the start)."""

    path: Path


Ready = HttpReady | TcpReady | SocketReady | FileReady


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """What happens when a part ends although nobody asked it to.

    It is started again after `first_s`, twice that the next time, and so on up to `longest_s`; the
    count begins anew once it was ready for `healthy_after_s`. After `attempts` starts in a row that
    did not get ready it is given up. A part that was never ready is given up when it ends by
    itself, since its settings are wrong then; a signal from outside is no such sign.
    """

    first_s: float = 0.2
    longest_s: float = 10.0
    healthy_after_s: float = 10.0
    attempts: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One supervised process.

    Args:
        name: unique, lower-case with hyphens; names the log file and the data folder.
        command: argv; the first element is an absolute path.
        ready: how to see that it serves.
        environment: added to a small clean environment (PATH, HOME, LANG, the sandbox marker).
        after: parts that must be ready before this one is started.
        addresses: what a person may open or call, label → URL, shown by `status`.
        stop_signal: asks the process to end; after `stop_grace_s` it is killed.
        stop_after: parts that must have stopped before this one is stopped (etcd after apiserver).
        start_timeout_s: not ready after this long is a failed start.
        restart: when and how often it is started again.
        node: the simulated machine it belongs to: `sandbox node kill` ends all parts of one.
        keeps: folder of processes that outlive this part (containers): a loss of the node ends
            every process whose command line names a path below it.
    """

    name: str
    command: tuple[str, ...]
    ready: Ready
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 5.0
    stop_after: tuple[str, ...] = ()
    start_timeout_s: float = 180.0
    restart: Restart = Restart()
    node: str = ""
    keeps: Path | None = None
