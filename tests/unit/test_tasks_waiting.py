"""Waiting: on a monotonic clock, with a limit, saying each new thing once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from slipway.core.errors import PermanentError
from tasks import waiting
from tasks.waiting import wait_until
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


def _looks(*answers: str | None) -> Callable[[], str | None]:
    left: Iterator[str | None] = iter(answers)
    return lambda: next(left)


def test_wait_true_at_once_neither_waits_nor_speaks(clock: FakeClock) -> None:
    said: list[str] = []
    waited_s = wait_until(_looks(None), timeout_s=5, what="it was there", report=said.append)
    assert (waited_s, said, clock.waits_s) == (0.0, [], [])


def test_wait_says_each_new_reason_once_and_returns_the_seconds(clock: FakeClock) -> None:
    said: list[str] = []
    waited_s = wait_until(
        _looks("0 of 2", "0 of 2", "1 of 2", None),
        timeout_s=5,
        what="pods were ready",
        report=said.append,
        poll_s=0.5,
    )
    assert said == ["0 of 2", "1 of 2"]
    assert waited_s == pytest.approx(1.5)


def test_wait_without_end_names_what_it_waited_for(clock: FakeClock) -> None:
    with pytest.raises(PermanentError) as caught:
        wait_until(
            lambda: "1 of 2 pods ready",
            timeout_s=3,
            what="slot blue was ready",
            report=lambda _: None,
        )
    assert caught.value.code == "not-in-time"
    assert "slot blue was ready not within 3 s: 1 of 2 pods ready" in caught.value.message
    assert sum(clock.waits_s) == pytest.approx(3.25)


def test_wait_with_no_time_still_looks_once(clock: FakeClock) -> None:
    wait_until(_looks(None), timeout_s=0, what="it was there", report=lambda _: None)
