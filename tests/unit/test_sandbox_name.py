"""Commands in messages mean the sandbox that the command line meant."""

from __future__ import annotations

from contextvars import copy_context
from pathlib import Path

import pytest

from slipway.cli import sandbox_name
from slipway.cli.sandbox_name import home_of, spelled_out

HINT = "`slipway sandbox fault remove --all`, slipway sandbox logs PART; slipway sandbox list"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLIPWAY_HOME", "SLIPWAY_SANDBOX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def said(name: str | None) -> str:
    def run() -> str:
        home_of(name)
        return spelled_out(HINT)

    return copy_context().run(run)


def test_commands_in_a_message_name_the_sandbox_that_was_meant() -> None:
    assert said("second") == (
        "`slipway sandbox fault remove --name second --all`, "
        "slipway sandbox logs --name second PART; slipway sandbox list"
    )
    again = spelled_out("start it: slipway sandbox up --name second")
    assert again == "start it: slipway sandbox up --name second"


def test_commands_stay_as_they_are_without_a_name() -> None:
    assert said(None) == HINT
    assert copy_context().run(sandbox_name.spelled_out, HINT) == HINT
