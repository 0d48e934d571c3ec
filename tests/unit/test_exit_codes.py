"""The command line's promise to scripts."""

from __future__ import annotations

import sys

import pytest

from slipway import cli
from slipway.cli.exit_codes import exit_code
from slipway.core.errors import (
    ConflictError,
    InputError,
    PermanentError,
    SlipwayError,
    TransientError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InputError, 3),
        (TransientError, 4),
        (ConflictError, 5),
        (PermanentError, 6),
        (SlipwayError, 1),
    ],
)
def test_kind_of_error_decides_the_exit_code(kind: type[SlipwayError], code: int) -> None:
    assert exit_code(kind("what", code="some-code", hint="do this")) == code


def test_error_is_one_message_with_its_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise InputError("the file is wrong", code="bad-file", hint="mend it")

    monkeypatch.setattr(cli, "application", lambda _command: fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 3
    assert capsys.readouterr().err == "slipway: the file is wrong [bad-file]\n  → mend it\n"


def test_unknown_command_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["slipway", "nonsense"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "nonsense" in capsys.readouterr().err
