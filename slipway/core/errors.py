"""Every way Slipway can fail, each with a name.

SlipwayError
├── InputError       the user must change something; never retried
├── TransientError   the same call may work later; carries `retry_after_s`
├── ConflictError    somebody else wrote first; read again, decide again
└── PermanentError   the other side refuses for good (404, 403, quota, broken image)

A message says what failed and on which object; the hint says what to do.
"""

from __future__ import annotations


class SlipwayError(Exception):
    """Base of every error that Slipway raises on purpose.

    Args:
        message: what failed, on which object.
        code: a stable kebab-case name, for example `quota-exceeded`; programs match on it.
        hint: what the reader can do now.
    """

    def __init__(self, message: str, *, code: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]\n  → {self.hint}"


class InputError(SlipwayError):
    """The request or a file is wrong; only its author can mend it."""


class TransientError(SlipwayError):
    """The call failed for a reason that may pass; a repeat is safe.

    Args:
        retry_after_s: how long the other side asked us to wait, if it did.
    """

    def __init__(
        self, message: str, *, code: str, hint: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after_s = retry_after_s


class ConflictError(SlipwayError):
    """Somebody else changed the object since it was read."""


class PermanentError(SlipwayError):
    """The other side refuses, and will refuse the same call again."""
