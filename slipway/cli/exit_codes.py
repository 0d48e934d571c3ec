"""Exit codes of the command line: one number for each kind of failure.

| code | meaning | repeat? |
|---|---|---|
| 0 | done | |
| 1 | a fault of Slipway itself: a traceback is shown, please report it | no |
| 2 | the command line is wrong | after correcting it |
| 3 | `InputError`: a file or value of yours is wrong | after correcting it |
| 4 | `TransientError`: may pass by itself | yes |
| 5 | `ConflictError`: somebody else is at it | after looking |
| 6 | `PermanentError`: the other side refuses for good | no |
| 130 | interrupted with Ctrl-C | |
"""

from __future__ import annotations

from slipway.core.errors import (
    ConflictError,
    InputError,
    PermanentError,
    SlipwayError,
    TransientError,
)

FAULT = 1
USAGE = 2
PERMANENT = 6
INTERRUPTED = 130

_BY_KIND: tuple[tuple[type[SlipwayError], int], ...] = (
    (InputError, 3),
    (TransientError, 4),
    (ConflictError, 5),
    (PermanentError, PERMANENT),
)


def exit_code(error: SlipwayError) -> int:
    """Return the exit code of an error, by its kind."""
    return next((code for kind, code in _BY_KIND if isinstance(error, kind)), FAULT)
