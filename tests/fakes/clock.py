"""A clock that moves only when somebody waits."""

from __future__ import annotations

from collections.abc import Callable

_START_NS = 1_800_000_000_000_000_000


class FakeClock:
    """Has the functions of the module `time` that Slipway uses, without any waiting.

    Attributes:
        while_waiting: called at every wait, after it.
    """

    def __init__(self) -> None:
        self.now_ns = _START_NS
        self.stepped_ns = 0
        self.waits_s: list[float] = []
        self.while_waiting: list[Callable[[], None]] = []

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now_ns += int(seconds * 1e9)

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back, while no time passes."""
        self.stepped_ns += int(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        """Wait, at once."""
        self.waits_s.append(seconds)
        self.advance(seconds)
        for happening in tuple(self.while_waiting):
            happening()

    def monotonic(self) -> float:
        """Return seconds since some moment; never steps."""
        return self.now_ns / 1e9

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some moment; never steps."""
        return self.now_ns

    def time(self) -> float:
        """Return Unix seconds."""
        return self.time_ns() / 1e9

    def time_ns(self) -> int:
        """Return Unix nanoseconds."""
        return self.now_ns + self.stepped_ns
