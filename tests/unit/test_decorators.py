"""Retries of the adapters: only what may be repeated, as often as said, when the server said."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.adapters import decorators
from slipway.adapters.decorators import RetryingKubernetesApi
from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.core.errors import ConflictError, PermanentError, SlipwayError, TransientError
from slipway.retries import call_with_retries
from tests.fakes.clock import FakeClock


class Flaky:
    """Fails with the given errors, then answers."""

    def __init__(self, *errors: SlipwayError) -> None:
        self._errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


def _busy(retry_after_s: float | None = None) -> TransientError:
    return TransientError("busy", code="api-busy", hint="wait", retry_after_s=retry_after_s)


def test_call_that_works_is_made_once_without_waiting() -> None:
    clock, call = FakeClock(), Flaky()
    assert call_with_retries(call, sleep=clock.sleep) == "answer"
    assert (call.calls, clock.waits_s) == (1, [])


def test_passing_errors_are_repeated_with_growing_waits() -> None:
    clock, call = FakeClock(), Flaky(_busy(), _busy())
    assert call_with_retries(call, sleep=clock.sleep) == "answer"
    assert clock.waits_s == [pytest.approx(0.2), pytest.approx(0.4)]


def test_last_error_is_raised_as_it_is() -> None:
    last = _busy()
    clock, call = FakeClock(), Flaky(_busy(), _busy(), last, _busy())
    with pytest.raises(TransientError) as caught:
        call_with_retries(call, sleep=clock.sleep)
    assert caught.value is last
    assert (call.calls, len(clock.waits_s)) == (3, 2)


def test_retry_after_is_obeyed_up_to_its_limit() -> None:
    clock, call = FakeClock(), Flaky(_busy(1.5), _busy(600))
    call_with_retries(call, sleep=clock.sleep)
    assert clock.waits_s == [1.5, 5.0]


@pytest.mark.parametrize("kind", [PermanentError, ConflictError])
def test_error_that_does_not_pass_is_not_repeated(kind: type[SlipwayError]) -> None:
    clock, call = FakeClock(), Flaky(kind("no", code="no", hint="no"))
    with pytest.raises(kind):
        call_with_retries(call, sleep=clock.sleep)
    assert (call.calls, clock.waits_s) == (1, [])


class Connectionless(RetryingKubernetesApi):
    """The retrying API without a cluster behind it."""

    def __init__(self) -> None:
        """Connect to nothing."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def fail(self: KubernetesApi, method: str, path: str, **_: Any) -> dict[str, Any]:
        made.append(method)
        raise _busy()

    monkeypatch.setattr(KubernetesApi, "call", fail)
    monkeypatch.setattr(
        decorators,
        "call_with_retries",
        lambda call: call_with_retries(call, sleep=FakeClock().sleep),
    )
    return made


@pytest.mark.parametrize(
    ("method", "content_type", "times"),
    [
        ("GET", "application/json", 3),
        ("DELETE", "application/json", 3),
        ("PATCH", "application/apply-patch+yaml", 3),
        ("PATCH", "application/merge-patch+json", 1),
        ("POST", "application/json", 1),
        ("PUT", "application/json", 1),
    ],
)
def test_only_idempotent_calls_are_repeated(
    calls: list[str], method: str, content_type: str, times: int
) -> None:
    with pytest.raises(TransientError):
        Connectionless().call(method, "/api/v1/pods", content_type=content_type)
    assert calls == [method] * times


def test_number_of_the_lock_is_stamped_again_after_a_passing_failure(calls: list[str]) -> None:
    with pytest.raises(TransientError):
        Connectionless().stamp("VirtualService", "serving", "chat", fence=3, dry_run=True)
    assert calls == ["PATCH"] * 3
