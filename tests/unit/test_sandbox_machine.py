"""What the sandbox says of the machine it is started on."""

from __future__ import annotations

import pytest

from slipway.core.errors import PermanentError
from slipway.sandbox.machine import require_linux, told_losses


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
