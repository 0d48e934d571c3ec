"""What the fakes wrote, in order, and the moments at which a process can die between two writes."""

from __future__ import annotations

from collections.abc import Callable

from slipway.core.errors import TransientError


class ProcessDied(BaseException):  # not an error of ours: the end of a process
    """Stands for kill -9: nothing of the process may act on the world any more."""


class Journal:
    """The sequence of all writes of all ports.

    Args:
        die_after: number of the write after which the process dies; None lets it live.
        lose_answer_of: number of the write that takes effect but whose answer never arrives.
    """

    def __init__(self, *, die_after: int | None = None, lose_answer_of: int | None = None) -> None:
        self.writes: list[str] = []
        self.die_after = die_after
        self.lose_answer_of = lose_answer_of
        self.dead = False
        self.checks: list[Callable[[str], None]] = []
        self._at: list[tuple[str, Callable[[], object]]] = []

    def reach(self) -> None:
        """Mark a call to the outside: a dead process makes none."""
        if self.dead:
            raise ProcessDied("a dead process called a port")

    def wrote(self, what: str) -> None:
        """Note a write that has just taken effect."""
        self.writes.append(what)
        for check in self.checks:
            check(what)
        due = [item for item in self._at if what.startswith(item[0])]
        self._at = [item for item in self._at if item not in due]
        for _, happening in due:
            happening()
        if self.die_after == len(self.writes):
            self.dead = True
            raise ProcessDied(f"killed after write {len(self.writes)}: {what}")
        if self.lose_answer_of == len(self.writes):
            raise TransientError(
                f"the answer to write {len(self.writes)} ({what}) was lost",
                code="answer-lost",
                hint="repeat the call",
            )

    def at_write(self, beginning: str, happening: Callable[[], object]) -> None:
        """Let something happen at the next write whose words begin so, once."""
        self._at.append((beginning, happening))

    def next_process(self) -> None:
        """Begin again as a new process: it lives, and its writes are counted anew."""
        self.writes.clear()
        self.dead = False
        self.die_after = None
        self.lose_answer_of = None
