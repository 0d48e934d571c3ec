"""What a restore drill saw."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drill:
    """A backup that was restored, started and asked.

    Args:
        backup: name of it.
        at_ns: when the drill began, since 1970 UTC.
        passed: the restored model answered as it should.
        said: what its gates said, or what went wrong.
        restored_s: until the files were back; 0 when they were not.
        recovery_s: until the model answered; 0 when it did not.
        image_as_released: the image of the restored files is the one that serves.
        answers_as_tested: golden prompts that were answered as in the release's own test, of all;
            "" where that test cannot be read.
    """

    backup: str
    at_ns: int
    passed: bool
    said: str
    restored_s: float = 0.0
    recovery_s: float = 0.0
    image_as_released: bool = False
    answers_as_tested: str = ""
