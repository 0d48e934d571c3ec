"""A clock that moves only when somebody waits."""

from __future__ import annotations

_START_NS = 1_800_000_000_000_000_000


class FakeClock:
    """Has the functions of the module `time` that Slipway uses, without any waiting."""

    def __init__(self) -> None:
        self.now_ns = _START_NS
        self.waits_s: list[float] = []

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now_ns += int(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        """Wait, at once."""
        self.waits_s.append(seconds)
        self.advance(seconds)

    def monotonic(self) -> float:
        """Return seconds since some moment."""
        return self.now_ns / 1e9

    def time(self) -> float:
        """Return Unix seconds."""
        return self.now_ns / 1e9

    def time_ns(self) -> int:
        """Return Unix nanoseconds."""
        return self.now_ns
