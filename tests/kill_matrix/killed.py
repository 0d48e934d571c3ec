"""`slipway`, killed at one of its writes to the outside: `python -m tests.kill_matrix.killed ARGS`.

`SLIPWAY_KILL` says where: `before:12` or `after:12` ends the process by SIGKILL right before or
after its twelfth write; `count` kills nobody and leaves a line of JSON a write in the file that
`SLIPWAY_KILL_LOG` names.
Counted are the calls to the API server that change something (but the lock's own renewals, which
come from a thread), image pushes, the registry's alias and evidence.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tasks.session
from slipway import cli
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.bootstrap import releases as bootstrap
from slipway.bootstrap.releases import Ports

WHERE = "SLIPWAY_KILL"
LOG = "SLIPWAY_KILL_LOG"


class Counter:
    """Counts writes, and ends the process at the one that was chosen."""

    def __init__(self, where: str, log: Path | None) -> None:
        self._side, _, number = where.partition(":")
        self._number = int(number or 0)
        self._log = log
        self._count = 0
        self._ended_s = time.monotonic()

    def around(self, what: str, write: Callable[[], Any]) -> Any:
        """Carry out a write, if this process lives to do so."""
        self._count += 1
        began_s = time.monotonic()
        chosen = self._count == self._number
        if chosen and self._side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = write()
        if chosen and self._side == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._log is not None:
            line = {"what": in_short(what), "idle_s": began_s - self._ended_s}
            self._ended_s = time.monotonic()
            with self._log.open("a") as log:
                log.write(json.dumps(line) + "\n")
        return answer


def in_short(what: str) -> str:
    """Return a write in few words: the verb, and the last parts of its path."""
    verb, _, path = what.partition(" ")
    return f"{verb} {'/'.join(path.split('?')[0].split('/')[-2:])}".rstrip()


class Watched:
    """A port, some of whose verbs are counted."""

    def __init__(self, port: Any, verbs: tuple[str, ...], counter: Counter) -> None:
        self._port = port
        self._verbs = verbs
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name not in self._verbs:
            return found

        @wraps(found)
        def counted(*args: Any, **words: Any) -> Any:
            on = "/".join(each for each in args[:2] if isinstance(each, str))
            return self._counter.around(f"{name} /{on}", lambda: found(*args, **words))

        return counted


def watch_writes(counter: Counter) -> None:
    """Let every write of this process pass by `counter`."""
    send = KubernetesApi._send

    def sent(api: KubernetesApi, method: str, path: str, *rest: Any) -> bytes:
        query = rest[1] if len(rest) > 1 and rest[1] else {}
        reads = method == "GET" or "/leases/" in path or "dryRun" in query
        if reads:
            return send(api, method, path, *rest)
        answer: bytes = counter.around(f"{method} {path}", lambda: send(api, method, path, *rest))
        return answer

    connect = bootstrap.connect

    def connected(*args: Any, **words: Any) -> Ports:
        ports = connect(*args, **words)
        return replace(
            ports,
            registry=Watched(ports.registry, ("set_alias",), counter),
            images=Watched(ports.images, ("append",), counter),
            objects=Watched(ports.objects, ("put",), counter),
        )

    patch.object(KubernetesApi, "_send", sent).start()
    patch.object(tasks.session, "connect", connected).start()


def main() -> None:
    """Be `slipway`, watched as the variables say."""
    log = os.environ.get(LOG)
    watch_writes(Counter(os.environ.get(WHERE, ""), Path(log) if log else None))
    cli.main()


if __name__ == "__main__":
    main()
