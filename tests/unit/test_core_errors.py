from __future__ import annotations

import pytest

from slipway.core.errors import (
    ConflictError,
    InputError,
    PermanentError,
    SlipwayError,
    TransientError,
)


@pytest.mark.parametrize("kind", [InputError, TransientError, ConflictError, PermanentError])
def test_every_error_says_what_failed_its_code_and_what_to_do(kind: type[SlipwayError]) -> None:
    error = kind("pod chat-1 failed", code="pod-failed", hint="look at its log")

    assert isinstance(error, SlipwayError)
    assert str(error) == "pod chat-1 failed [pod-failed]\n  → look at its log"
    assert (error.message, error.code, error.hint) == (
        "pod chat-1 failed",
        "pod-failed",
        "look at its log",
    )


def test_transient_error_keeps_how_long_the_other_side_asked_to_wait() -> None:
    assert TransientError("busy", code="busy", hint="wait", retry_after_s=2.5).retry_after_s == 2.5
    assert TransientError("busy", code="busy", hint="wait").retry_after_s is None
