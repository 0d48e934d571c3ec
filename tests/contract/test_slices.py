"""Slices of pod addresses: held by sockets, passed on to processes, free when the last one ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from slipway.core.errors import ConflictError, TransientError
from slipway.sandbox import slices
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.supervisor_lock import own_folder

NODES = ("node-a", "node-b")
SLEEP = (sys.executable, "-S", "-c", "import time; print('here', flush=True); time.sleep(60)")


@pytest.fixture
def home(tmp_path: Path) -> SandboxHome:
    return new_home(tmp_path / "one")


def new_home(root: Path) -> SandboxHome:
    home = SandboxHome(root)
    home.create()
    return home


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes that sleep; they are killed at the end."""
    with ExitStack() as stack:

        def start(command: tuple[str, ...] = SLEEP) -> subprocess.Popen[bytes]:
            started = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=slices.held())
            )
            stack.callback(started.kill)
            assert started.stdout is not None
            assert started.stdout.readline() == b"here\n"
            return started

        yield start


def taken_by(home: SandboxHome) -> tuple[int, ...]:
    return tuple(home.slice_of(node) for node in NODES)


def test_two_homes_at_once_get_different_slices(home: SandboxHome, tmp_path: Path) -> None:
    other = new_home(tmp_path / "other")
    with slices.taken(home, NODES), slices.taken(other, NODES):
        numbers = (*taken_by(home), *taken_by(other))
        assert len(set(numbers)) == 4
        assert slices.held_numbers() == tuple(sorted(numbers))
        assert not any(slices.is_free(number) for number in numbers)
    assert slices.held_numbers() == ()


def test_next_start_gets_the_same_slices_again(home: SandboxHome, tmp_path: Path) -> None:
    with slices.taken(new_home(tmp_path / "below"), NODES), slices.taken(home, NODES):
        before = taken_by(home)
    with slices.taken(home, NODES):
        assert taken_by(home) == before


def test_slice_held_by_another_is_replaced(home: SandboxHome, tmp_path: Path) -> None:
    other = new_home(tmp_path / "other")
    with slices.taken(home, NODES):
        before = taken_by(home)
    other.remember_slices({"node-a": before[0]})
    with slices.taken(other, ("node-a",)), slices.taken(home, NODES):
        after = taken_by(home)
    assert other.slice_of("node-a") == before[0]
    assert before[0] not in after
    assert after[1] == before[1]


def test_slice_is_held_until_the_last_process_ends(
    home: SandboxHome, process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    with slices.taken(home, NODES):
        number = home.slice_of("node-a")
        first, last = process(), process()
    first.kill()
    first.wait()
    assert not slices.is_free(number)
    last.kill()
    last.wait()
    until(lambda: slices.is_free(number))


def test_slice_goes_on_from_process_to_process(
    home: SandboxHome, process: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """As from `up` over the supervisor and a runtime to the keeper of a container."""
    body = (
        "import subprocess, sys, slipway.sandbox.slices as slices\n"
        f"child = subprocess.Popen({SLEEP!r}, pass_fds=slices.held())\n"
        "child.wait()\n"
    )
    with slices.taken(home, NODES):
        number = home.slice_of("node-b")
        parent = process((sys.executable, "-c", body))
    (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.wait()
    assert not slices.is_free(number)
    subprocess.run(("kill", "-9", child), check=True)
    until(lambda: slices.is_free(number))


def test_other_descriptors_are_not_passed_on(home: SandboxHome) -> None:
    with (home.root / "file").open("w"), slices.taken(home, NODES):
        assert len(slices.held()) == 2


def test_all_slices_held_is_said(
    home: SandboxHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slices.taken(home, NODES):
        monkeypatch.setattr(slices, "SLICES", taken_by(home))
        with (
            pytest.raises(TransientError) as caught,
            slices.taken(new_home(tmp_path / "other"), NODES),
        ):
            raise AssertionError("there was one more")
    assert caught.value.code == "slices-exhausted"
    assert slices.held() == ()


def test_second_supervisor_of_a_folder_is_refused_while_the_first_lives(
    home: SandboxHome, tmp_path: Path
) -> None:
    with own_folder(home):
        with pytest.raises(ConflictError, match=str(home.root)) as caught:
            own_folder(home)
        assert caught.value.code == "sandbox-already-running"
        own_folder(new_home(tmp_path / "other")).close()
    own_folder(home).close()
