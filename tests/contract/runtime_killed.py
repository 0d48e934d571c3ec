"""The runtime, killed at its n-th outside write: `python -m tests.contract.runtime_killed …`.

SLIPWAY_KILL_AT is `N` (before the n-th write below its root, a start of a process counts as one) or
`N+MS` (so many milliseconds after that write). Python itself reports the writes, as audit events
(docs.python.org, "Audit events table"), so a write that is added later is a new point by itself.
They are counted from the first pod on, and without the variable listed in the file `points`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

from slipway.sandbox.runtime import __main__ as runtime

_WRITES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"})
_WATCHED = _WRITES | {"open", "subprocess.Popen"}


class Killer:
    """Counts the writes below `root` and ends the process at one of them."""

    def __init__(self, root: str, at: str) -> None:
        self.root = root
        self.points = Path(root).parent / "points"
        number, _, delay_ms = at.partition("+")
        self.at = int(number or 0)
        self.delay_ms = int(delay_ms or 0)
        self.count = 0
        self.begun = False
        self.lock = threading.Lock()

    def hook(self, event: str, args: tuple[object, ...]) -> None:
        if not self._is_write(event, args):
            return
        with self.lock:
            self.count += 1
            if self.at and self.count == self.at:
                self._kill()
            if not self.at:
                with self.points.open("a") as file:  # above the root: no write of the runtime
                    file.write(f"{self.count} {event} {_short(args)}\n")

    def _is_write(self, event: str, args: tuple[object, ...]) -> bool:
        if event not in _WATCHED:
            return False
        self.begun = self.begun or str(args[0]).endswith("/last-address.new")
        if not self.begun:
            return False
        if event == "subprocess.Popen":
            return "run" in str(args[1])
        if event in {"os.remove", "os.rmdir"} and args[1] != -1:
            return True  # below a folder that is open: a whole tree is being removed
        flags = args[2] if event == "open" else os.O_WRONLY if event in _WRITES else 0
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        return bool(writes) and str(args[0]).startswith(self.root)

    def _kill(self) -> None:
        if not self.delay_ms:
            os.kill(os.getpid(), signal.SIGKILL)

        def later() -> None:
            time.sleep(self.delay_ms / 1000)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=later, daemon=True).start()


def _short(args: tuple[object, ...]) -> str:
    return " ".join(Path(str(arg)).name for arg in args[:2])


def main() -> None:
    """Run the runtime with the killer at its side."""
    options = runtime.parse(sys.argv[1:])
    sys.addaudithook(Killer(str(options.root), os.environ.get("SLIPWAY_KILL_AT", "")).hook)
    asyncio.run(runtime.serve(options))


if __name__ == "__main__":
    main()
