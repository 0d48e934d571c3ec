"""What the supervisor decides, without a process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.sandbox.part import FileReady, Part, Restart
from slipway.sandbox.supervisor_plan import (
    Actions,
    Life,
    PartState,
    after_end,
    became_ready,
    check_parts,
    is_over,
    next_actions,
    overall,
    waits_for,
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


W, S, R, AGAIN, DOWN, F, X = (
    PartState.WAITING,
    PartState.STARTING,
    PartState.READY,
    PartState.RESTARTING,
    PartState.DOWN,
    PartState.FAILED,
    PartState.EXITED,
)
STOPPING, STOPPED = PartState.STOPPING, PartState.STOPPED
NOW_S = 100.0
POLICY = Restart(first_s=0.5, longest_s=4.0, healthy_after_s=10.0, attempts=3)
STEADY = Life(state=R, ready_at_s=NOW_S - 60, was_ready=True)


def lives(etcd: PartState, apiserver: PartState, s3: PartState) -> dict[str, Life]:
    states = {"etcd": etcd, "apiserver": apiserver, "s3": s3}
    return {name: Life(state=state, due_at_s=NOW_S) for name, state in states.items()}


def decide(now: dict[str, Life], *, stopping: bool = False, held: tuple[str, ...] = ()) -> Actions:
    return next_actions(PARTS, now, now_s=NOW_S, stopping=stopping, held=held)


def test_nothing_started_starts_every_part_that_needs_nothing() -> None:
    assert decide(lives(W, W, W)) == Actions(start=("etcd", "s3"))


@pytest.mark.parametrize("etcd", [S, F, X, STOPPING, STOPPED])
def test_needed_part_not_ready_does_not_start_the_other(etcd: PartState) -> None:
    assert decide(lives(etcd, W, R)) == Actions()
    assert decide(lives(etcd, AGAIN, R)) == Actions()


def test_needed_part_ready_starts_the_other() -> None:
    assert decide(lives(R, W, S)) == Actions(start=("apiserver",))


def test_part_given_up_is_not_started_again() -> None:
    assert decide(lives(X, F, X)) == Actions()


def test_ended_part_is_started_again_when_its_time_has_come() -> None:
    now = lives(R, R, AGAIN)
    assert decide(now) == Actions(start=("s3",))
    early = {**now, "s3": replace(now["s3"], due_at_s=NOW_S + 2)}
    assert decide(early) == Actions(wake_at_s=NOW_S + 2)


def test_held_part_is_killed_and_settles_down_and_is_called_back() -> None:
    assert decide(lives(R, R, R), held=("s3",)) == Actions(kill=("s3",))
    for without_process in (W, AGAIN, F):
        assert decide(lives(R, R, without_process), held=("s3",)).settle == (("s3", DOWN),)
    assert decide(lives(R, R, STOPPING), held=("s3",)) == Actions()
    assert decide(lives(R, R, DOWN), held=("s3",)) == Actions()
    assert decide(lives(R, R, DOWN)) == Actions(settle=(("s3", W),))


def test_stopping_asks_everything_but_what_must_outlive_another() -> None:
    assert decide(lives(R, R, S), stopping=True) == Actions(stop=("apiserver", "s3"))


def test_stopping_waits_until_the_other_has_ended() -> None:
    assert decide(lives(R, STOPPING, STOPPED), stopping=True) == Actions()
    assert decide(lives(R, STOPPED, STOPPED), stopping=True) == Actions(stop=("etcd",))


@pytest.mark.parametrize("apiserver", [W, F, X, AGAIN, DOWN])
def test_stopping_does_not_wait_for_a_part_that_does_not_run(apiserver: PartState) -> None:
    assert "etcd" in decide(lives(R, apiserver, R), stopping=True).stop


def test_stopping_starts_nothing() -> None:
    assert decide(lives(R, AGAIN, W), stopping=True).start == ()


def test_killed_part_comes_back_after_the_first_delay() -> None:
    life = after_end(STEADY, POLICY, now_s=NOW_S, by_signal=True)
    assert (life.state, life.due_at_s, life.restarts) == (AGAIN, NOW_S + 0.5, 1)


def test_delay_grows_with_every_fall_to_its_cap_and_starts_anew_after_a_healthy_time() -> None:
    life, delays_s = STEADY, []
    for _ in range(6):
        life = after_end(life, POLICY, now_s=NOW_S, by_signal=True)
        delays_s.append(life.due_at_s - NOW_S)
        life = became_ready(replace(life, state=S), NOW_S)
    assert delays_s == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    life = after_end(life, POLICY, now_s=NOW_S + 10, by_signal=True)
    assert life.due_at_s == NOW_S + 10.5


def test_part_that_does_not_get_ready_again_is_given_up_after_its_attempts() -> None:
    life, states = after_end(STEADY, POLICY, now_s=NOW_S, by_signal=False), []
    for _ in range(3):
        life = after_end(replace(life, state=S), POLICY, now_s=NOW_S, by_signal=False)
        states.append(life.state)
    assert states == [AGAIN, AGAIN, F]


def test_part_that_ends_by_itself_before_it_was_ever_ready_is_given_up_at_once() -> None:
    assert after_end(Life(state=S), POLICY, now_s=NOW_S, by_signal=False).state is F
    assert after_end(Life(state=S), POLICY, now_s=NOW_S, by_signal=True).state is AGAIN


def test_end_that_was_asked_for_is_no_fall() -> None:
    def end(*, stopping: bool = False, held: bool = False) -> PartState:
        asked = replace(STEADY, state=STOPPING)
        life = after_end(asked, POLICY, now_s=NOW_S, by_signal=True, stopping=stopping, held=held)
        assert life.restarts == 0
        return life.state

    assert end(stopping=True) is STOPPED
    assert end(held=True) is DOWN
    assert end() is W  # called back while it was being killed


@pytest.mark.parametrize(
    ("now", "stopping", "word"),
    [
        (lives(R, S, R), False, "starting"),
        (lives(R, W, R), False, "starting"),
        (lives(R, R, R), False, "ready"),
        (lives(R, R, DOWN), False, "reduced"),
        (lives(R, S, DOWN), False, "starting"),
        (lives(R, F, S), False, "broken"),
        (lives(R, R, X), False, "broken"),
        ({**lives(R, R, R), "s3": Life(state=AGAIN, restarts=1)}, False, "recovering"),
        ({**lives(R, R, R), "s3": Life(state=S, restarts=1)}, False, "recovering"),
        (lives(R, STOPPING, STOPPED), True, "stopping"),
        (lives(STOPPED, F, W), True, "stopped"),
    ],
)
def test_overall_sums_up(now: dict[str, Life], word: str, *, stopping: bool) -> None:
    assert overall(now, stopping=stopping) == word


def test_is_over_only_without_any_process() -> None:
    assert is_over(lives(STOPPED, F, AGAIN))
    assert not is_over(lives(STOPPED, STOPPED, STOPPING))


def test_part_without_a_process_names_what_it_waits_for() -> None:
    assert waits_for(APISERVER, lives(S, AGAIN, R)) == ("etcd",)
    assert waits_for(APISERVER, lives(S, R, R)) == ()


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
