"""What the supervisor decides, without a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.sandbox.part import FileReady, Part
from slipway.sandbox.supervisor_plan import (
    Actions,
    PartState,
    check_parts,
    is_over,
    next_actions,
    overall,
)


def part(name: str, *, after: tuple[str, ...] = (), stop_after: tuple[str, ...] = ()) -> Part:
    return Part(
        name=name,
        command=("/bin/true",),
        ready=FileReady(Path("/nowhere")),
        after=after,
        stop_after=stop_after,
    )


ETCD = part("etcd", stop_after=("apiserver",))
APISERVER = part("apiserver", after=("etcd",))
S3 = part("s3")
PARTS = (ETCD, APISERVER, S3)


def states(etcd: PartState, apiserver: PartState, s3: PartState) -> dict[str, PartState]:
    return {"etcd": etcd, "apiserver": apiserver, "s3": s3}


W, S, R, F, X = (
    PartState.WAITING,
    PartState.STARTING,
    PartState.READY,
    PartState.FAILED,
    PartState.EXITED,
)
STOPPING, STOPPED = PartState.STOPPING, PartState.STOPPED


def test_nothing_started_starts_every_part_that_needs_nothing() -> None:
    assert next_actions(PARTS, states(W, W, W), stopping=False) == Actions(start=("etcd", "s3"))


@pytest.mark.parametrize("etcd", [S, F, X, STOPPING, STOPPED])
def test_needed_part_not_ready_does_not_start_the_other(etcd: PartState) -> None:
    assert next_actions(PARTS, states(etcd, W, R), stopping=False) == Actions()


def test_needed_part_ready_starts_the_other() -> None:
    assert next_actions(PARTS, states(R, W, S), stopping=False) == Actions(start=("apiserver",))


def test_broken_part_is_not_started_again() -> None:
    assert next_actions(PARTS, states(X, F, X), stopping=False) == Actions()


def test_stopping_asks_everything_but_what_must_outlive_another() -> None:
    assert next_actions(PARTS, states(R, R, S), stopping=True) == Actions(stop=("apiserver", "s3"))


def test_stopping_waits_until_the_other_has_ended() -> None:
    assert next_actions(PARTS, states(R, STOPPING, STOPPED), stopping=True) == Actions()
    assert next_actions(PARTS, states(R, STOPPED, STOPPED), stopping=True) == Actions(
        stop=("etcd",)
    )


@pytest.mark.parametrize("apiserver", [W, F, X])
def test_stopping_does_not_wait_for_a_part_that_does_not_run(apiserver: PartState) -> None:
    assert "etcd" in next_actions(PARTS, states(R, apiserver, R), stopping=True).stop


def test_stopping_starts_nothing() -> None:
    assert next_actions(PARTS, states(R, W, W), stopping=True).start == ()


@pytest.mark.parametrize(
    ("now", "stopping", "word"),
    [
        (states(R, S, R), False, "starting"),
        (states(R, W, R), False, "starting"),
        (states(R, R, R), False, "ready"),
        (states(R, F, S), False, "broken"),
        (states(R, R, X), False, "broken"),
        (states(R, STOPPING, STOPPED), True, "stopping"),
        (states(STOPPED, F, W), True, "stopped"),
    ],
)
def test_overall_sums_up(now: dict[str, PartState], word: str, *, stopping: bool) -> None:
    assert overall(now, stopping=stopping) == word


def test_is_over_only_without_any_process() -> None:
    assert is_over(states(STOPPED, F, X))
    assert not is_over(states(STOPPED, STOPPED, STOPPING))


def test_parts_of_the_sandbox_shape_are_accepted() -> None:
    check_parts(PARTS)


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ((S3, S3), "s3"),
        ((APISERVER,), "etcd"),
        ((part("a", stop_after=("b",)),), "b"),
        ((part("a", after=("b",)), part("b", after=("a",)), S3), "a, b form a ring"),
        ((part("a", stop_after=("a",)),), "a form a ring"),
    ],
)
def test_contradicting_parts_are_refused_by_name(parts: tuple[Part, ...], names: str) -> None:
    with pytest.raises(InputError, match=names) as caught:
        check_parts(parts)
    assert caught.value.code == "sandbox-parts-invalid"
