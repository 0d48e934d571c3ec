"""What the sandbox says of the machine it is started on."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from slipway.core.errors import PermanentError, TransientError
from slipway.sandbox.machine import explained, require_linux, require_space, told_losses


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_other_system_is_refused_with_what_works_there(platform: str) -> None:
    with pytest.raises(PermanentError, match=platform) as caught:
        require_linux(platform)
    assert caught.value.code == "system-unsupported"
    assert "make test-unit" in caught.value.hint


def test_linux_is_not_refused() -> None:
    require_linux("linux")


def test_machine_that_permits_all_loses_nothing() -> None:
    assert told_losses("", kernel_log=True) == ()


def test_each_loss_is_one_sentence_with_its_reason() -> None:
    (containers,) = told_losses(
        "unshare the user namespace: No space left on device", kernel_log=True
    )
    assert "unshare the user namespace: their permitted number is reached" in containers
    assert "sysctl" in containers
    (events,) = told_losses("", kernel_log=False)
    assert "events" in events
    assert len(told_losses("no", kernel_log=False)) == 2


def given_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    usage = SimpleNamespace(free=free_bytes)
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)


def test_start_without_room_is_refused_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_free(monkeypatch, 42_000_000)
    with pytest.raises(PermanentError, match=f"42 MB are free for {tmp_path}") as caught:
        require_space(tmp_path)
    assert caught.value.code == "disk-full"
    assert "500 MB" in caught.value.hint
    given_free(monkeypatch, 600_000_000)
    require_space(tmp_path)


@pytest.mark.parametrize(
    ("free_bytes", "error", "full"),
    [
        (1_000_000, TransientError("503", code="registry-unreachable", hint=""), True),
        (1_000_000_000, TransientError("503", code="registry-unreachable", hint=""), False),
        (1_000_000_000, OSError(errno.ENOSPC, "No space left on device"), True),
        (1_000_000_000, OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_full_disk_is_named_as_the_cause_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_bytes: int,
    error: TransientError | OSError,
    full: bool,  # a column of the table
) -> None:
    given_free(monkeypatch, free_bytes)
    found = explained(error, tmp_path)
    assert (found is not None and found.code == "disk-full") is full
