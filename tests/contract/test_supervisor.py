"""The supervisor with real processes: order, death, ends, and nothing left behind."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slipway.core.errors import ConflictError, InputError, PermanentError, TransientError
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.lifecycle_steps import Step, finish_start
from slipway.sandbox.supervisor_child import LARGEST_LOG_BYTES
from slipway.sandbox.supervisor_client import (
    kill_node,
    launch,
    only_one,
    revive_node,
    running,
    stop,
)
from slipway.sandbox.supervisor_plan import PartState
from slipway.sandbox.supervisor_process import (
    is_alive,
    kill_processes_of,
    memory_bytes,
    processes_of,
    seen,
    send,
)
from slipway.sandbox.supervisor_status import PartStatus, ProcessId, SandboxStatus
from tests.contract import supervisor_toys as toys

FACTORY = "tests.contract.supervisor_toys:parts"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[SandboxHome]:
    made = SandboxHome(tmp_path / "sb")
    made.create()
    yield made
    stop(made)
    assert processes_of(made) == ()


def start(home: SandboxHome, *described: dict[str, object]) -> SandboxStatus:
    toys.write(home, *described)
    return launch(home, parts=FACTORY)


def until(home: SandboxHome, holds: Callable[[SandboxStatus], bool]) -> SandboxStatus:
    deadline_s = time.monotonic() + 15
    while time.monotonic() < deadline_s:
        status = running(home)
        if status and holds(status):
            return status
        time.sleep(0.02)
    raise AssertionError(f"did not happen; last: {running(home)}")


def wait_for(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def is_ready(status: SandboxStatus) -> bool:
    return status.state == "ready"


def named(status: SandboxStatus | None, name: str) -> PartStatus:
    assert status is not None
    part = status.part(name)
    assert part is not None
    return part


def process(status: SandboxStatus | None, name: str) -> ProcessId:
    found = named(status, name).process
    assert found is not None
    return found


def lines(home: SandboxHome, file: str) -> list[str]:
    return (home.root / file).read_text().split()


def test_part_starts_once_the_ones_it_needs_are_ready(home: SandboxHome) -> None:
    start(home, {"name": "b", "after": ["a"]}, {"name": "a"}, {"name": "c", "after": ["b"]})
    status = until(home, is_ready)
    assert lines(home, "started.txt") == ["a", "b", "c"]
    a, b = named(status, "a"), named(status, "b")
    assert b.started_ns >= a.since_ns
    assert is_alive(process(status, "a"))


def test_killed_part_comes_back_and_the_others_go_on(home: SandboxHome) -> None:
    start(home, {"name": "a"}, {"name": "b"})
    first = until(home, is_ready)
    send(process(first, "a"), signal.SIGKILL)
    status = until(home, lambda now: named(now, "a").restarts == 1 and is_ready(now))
    assert process(status, "a") != process(first, "a")
    assert process(status, "b") == process(first, "b")
    assert lines(home, "started.txt").count("a") == 2
    log = (home.logs / "supervisor.log").read_text()
    assert "a was killed by SIGKILL: restarting" in log


def test_part_on_its_way_back_is_reported_with_its_log(home: SandboxHome) -> None:
    start(home, {"name": "a", "restart": {"first_s": 60.0}}, {"name": "b"})
    send(process(until(home, is_ready), "a"), signal.SIGKILL)
    status = until(home, lambda now: now.state == "recovering")
    dead = named(status, "a")
    assert (dead.state, dead.exit_code, dead.reason, dead.last_lines) == (
        PartState.RESTARTING,
        -signal.SIGKILL,
        "was killed by SIGKILL",
        ("a speaks",),
    )
    assert named(status, "b").state is PartState.READY


def test_part_that_waits_for_its_restart_is_not_started_by_a_stop(home: SandboxHome) -> None:
    start(home, {"name": "a", "restart": {"first_s": 60.0}})
    send(process(until(home, is_ready), "a"), signal.SIGKILL)
    until(home, lambda now: now.state == "recovering")
    assert stop(home) == 0
    assert lines(home, "started.txt") == ["a"]


def test_part_that_does_not_come_back_is_given_up_with_its_reason(home: SandboxHome) -> None:
    policy = {"first_s": 0.01, "attempts": 3}
    start(home, {"name": "a", "kind": "once", "restart": policy})
    send(process(until(home, is_ready), "a"), signal.SIGKILL)
    failed = named(until(home, lambda now: now.state == "broken"), "a")
    assert (failed.state, failed.reason) == (
        PartState.FAILED,
        "ended with exit code 4 before it was ready",
    )
    assert failed.last_lines == ("a speaks",)
    assert lines(home, "started.txt") == ["a"] * 4


def test_restarted_part_waits_for_what_it_needs(home: SandboxHome) -> None:
    policy = {"first_s": 0.4}
    start(home, {"name": "a", "restart": policy}, {"name": "b", "after": ["a"]})
    first = until(home, is_ready)
    for name in ("a", "b"):
        send(process(first, name), signal.SIGKILL)
    status = until(home, lambda now: named(now, "b").restarts == 1 and is_ready(now))
    assert named(status, "b").started_ns >= named(status, "a").since_ns


def test_status_knows_of_an_end_before_the_supervisor_does(home: SandboxHome) -> None:
    start(home, {"name": "a"}, {"name": "b"})
    status = until(home, is_ready)
    # A supervisor that does not run cannot write; the look at the processes still tells.
    send(status.supervisor, signal.SIGSTOP)
    try:
        send(process(status, "a"), signal.SIGKILL)
        wait_for(lambda: not is_alive(process(status, "a")))
        shown = seen(status, supervised=True)
        assert shown.state == "recovering"
        assert named(shown, "a").state is PartState.RESTARTING
        assert named(shown, "b").state is PartState.READY
        assert named(seen(status, supervised=False), "a").state is PartState.EXITED
    finally:
        send(status.supervisor, signal.SIGCONT)


# -- a node that is down on purpose ---------------------------------------------------------------


def start_node(home: SandboxHome) -> SandboxStatus:
    keeps = home.root / "containers"
    keeps.mkdir(exist_ok=True)
    runtime: dict[str, object] = {"name": "runtime", "node": "n1", "kind": "runtime"}
    runtime["keeps"] = str(keeps)
    start(home, runtime, {"name": "kubelet", "node": "n1", "after": ["runtime"]}, {"name": "s3"})
    return until(home, is_ready)


def containers(home: SandboxHome) -> int:
    """Return how many processes of the runtime's containers live."""
    name = f"{home.root / 'containers'}/1".encode()
    found = (_words(process.pid) for process in processes_of(home))
    return sum(name in words and b"sleep" in words for words in found)


def test_killed_node_is_gone_with_its_containers_and_stays_down(home: SandboxHome) -> None:
    first = start_node(home)
    assert containers(home) == 1
    kill_node(home, "n1")
    status = running(home)
    assert status is not None
    assert status.state == "reduced"
    assert {part.name for part in status.parts if part.state is PartState.DOWN} == {
        "runtime",
        "kubelet",
    }
    assert process(status, "s3") == process(first, "s3")
    assert containers(home) == 0
    assert not (home.root / "stopped.txt").exists()  # nothing was asked: the power was gone
    kill_node(home, "n1")  # twice equals once
    assert lines(home, "started.txt").count("runtime") == 1


_SIGNALS_GO_TO_ANOTHER_THREAD = """
import signal, sys, threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
from slipway.sandbox.supervisor import main
sys.exit(main(sys.argv[1:]))
"""


def test_signal_that_the_kernel_gives_to_another_thread_is_heard(home: SandboxHome) -> None:
    """It does so with one of two that come at once; Python's handler waits for the main thread."""
    toys.write(home)
    command = (sys.executable, "-c", _SIGNALS_GO_TO_ANOTHER_THREAD, "--foreground")
    with subprocess.Popen((*command, "--home", str(home.root), "--parts", FACTORY)) as supervisor:
        try:
            until(home, is_ready)
            supervisor.terminate()
            assert supervisor.wait(15) == 0
        finally:
            supervisor.kill()


def test_revived_node_comes_back_in_order(home: SandboxHome) -> None:
    start_node(home)
    kill_node(home, "n1")
    revive_node(home, "n1")
    status = running(home)
    assert status is not None
    assert status.state == "ready"
    assert lines(home, "started.txt")[-2:] == ["runtime", "kubelet"]
    assert named(status, "kubelet").restarts == 0


def test_node_stays_down_under_the_next_supervisor(home: SandboxHome) -> None:
    first = start_node(home)
    kill_node(home, "n1")
    send(first.supervisor, signal.SIGKILL)
    wait_for(lambda: not is_alive(first.supervisor))
    kill_processes_of(home)
    launch(home, parts=FACTORY)
    status = until(home, lambda now: now.state == "reduced")
    assert named(status, "runtime").process is None


def test_unknown_node_is_refused_by_the_names_there_are(home: SandboxHome) -> None:
    start_node(home)
    with pytest.raises(InputError, match="n2") as caught:
        kill_node(home, "n2")
    assert "n1" in caught.value.hint


def test_node_of_a_sandbox_that_does_not_run_is_refused(home: SandboxHome) -> None:
    with pytest.raises(TransientError) as caught:
        kill_node(home, "n1")
    assert caught.value.code == "sandbox-not-running"


def test_part_that_ends_early_has_failed_and_blocks_the_ones_that_need_it(
    home: SandboxHome,
) -> None:
    start(home, {"name": "a", "kind": "dies"}, {"name": "b", "after": ["a"]})
    status = until(home, lambda now: bool(now.broken))
    failed = named(status, "a")
    assert (failed.state, failed.exit_code) == (PartState.FAILED, 3)
    assert failed.reason == "ended with exit code 3 before it was ready"
    assert failed.last_lines == ("a speaks",)
    waiting = named(status, "b")
    assert (waiting.state, waiting.waits_for, waiting.process) == (PartState.WAITING, ("a",), None)


def test_part_that_is_not_ready_in_time_has_failed_and_is_ended(home: SandboxHome) -> None:
    start(home, {"name": "a", "kind": "never", "start_timeout_s": 0.4})
    status = until(home, lambda now: named(now, "a").exit_code is not None)
    assert named(status, "a").state is PartState.FAILED
    assert named(status, "a").reason == "was not ready after 0.4 s"
    assert not is_alive(process(status, "a"))


def test_program_that_does_not_exist_has_failed(home: SandboxHome) -> None:
    start(home, {"name": "a", "command": ["/nowhere/program"]}, {"name": "b"})
    status = until(home, lambda now: named(now, "b").state is PartState.READY)
    assert "/nowhere/program" in named(status, "a").reason


def test_stop_goes_in_order_and_kills_what_does_not_listen(home: SandboxHome) -> None:
    start(
        home,
        {"name": "etcd", "stop_after": ["apiserver", "deaf"]},
        {"name": "apiserver"},
        {"name": "deaf", "kind": "deaf"},
    )
    status = until(home, is_ready)
    began_s = time.monotonic()
    assert stop(home) == 0
    assert time.monotonic() - began_s >= 0.3
    assert lines(home, "stopped.txt") == ["apiserver", "etcd"]
    assert not is_alive(status.supervisor)


def test_second_supervisor_of_the_folder_is_refused_and_another_folder_is_not(
    home: SandboxHome, tmp_path: Path
) -> None:
    start(home, {"name": "a"})
    until(home, is_ready)  # nothing is reported any more
    with pytest.raises(ConflictError, match=str(home.root)) as caught:
        launch(home, parts=FACTORY)
    assert caught.value.code == "sandbox-already-running"
    other = SandboxHome(tmp_path / "other")
    other.create()
    start(other, {"name": "a"})
    until(other, is_ready)
    stop(other)
    until(home, is_ready)


def test_killed_supervisor_leaves_nothing_after_stop_and_the_next_start_works(
    home: SandboxHome,
) -> None:
    start(home, {"name": "a", "kind": "parent"}, {"name": "b"})
    first = until(home, is_ready)
    assert len(processes_of(home)) == 5
    send(first.supervisor, signal.SIGKILL)
    while is_alive(first.supervisor):
        time.sleep(0.01)
    assert running(home) is None
    assert is_alive(process(first, "b"))
    # The supervisor is gone; left are two parts, a child of one in a session of its own, and one
    # whose environment lost the marker.
    assert kill_processes_of(home) == 4
    start(home, {"name": "a"})
    assert process(until(home, is_ready), "a") != process(first, "a")


def test_signal_spares_a_later_process_of_the_same_number(home: SandboxHome) -> None:
    start(home, {"name": "a"})
    part = process(until(home, is_ready), "a")
    former = ProcessId(pid=part.pid, start_ticks=part.start_ticks - 1)
    assert not send(former, signal.SIGKILL)
    assert is_alive(part)
    assert not is_alive(former)


def test_end_of_a_part_takes_its_group_with_it(home: SandboxHome) -> None:
    start(home, {"name": "a", "kind": "parent", "restart": {"first_s": 60.0}})
    send(process(until(home, is_ready), "a"), signal.SIGKILL)
    until(home, lambda now: now.state == "recovering")
    # Left: the supervisor, and the child that chose a session of its own.
    wait_for(lambda: len(processes_of(home)) == 2)


def test_part_gets_a_clean_environment(home: SandboxHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    start(home, {"name": "a", "kind": "environment", "environment": {"PORT": "1"}})
    until(home, is_ready)
    seen = ast.literal_eval((home.run / "environment").read_text())
    assert seen["SLIPWAY_SANDBOX_HOME"] == str(home.root)
    assert seen["PORT"] == "1"
    assert seen["HOME"] == str(home.data("a"))
    assert not {"HTTPS_PROXY", "USER"} & seen.keys()


def test_long_log_is_put_aside_at_the_start(home: SandboxHome) -> None:
    log = home.logs / "a.log"
    with log.open("wb") as file:
        file.truncate(LARGEST_LOG_BYTES + 1)
    start(home, {"name": "a"})
    until(home, is_ready)
    assert log.read_text() == "a speaks\n"
    assert log.with_name("a.log.1").stat().st_size == LARGEST_LOG_BYTES + 1


def test_supervisor_of_ready_parts_sleeps(home: SandboxHome) -> None:
    start(home, {"name": "a"}, {"name": "b"})
    pid = until(home, is_ready).supervisor.pid
    time.sleep(0.3)  # the threads of the probes end
    before = _wake_ups(pid)
    time.sleep(1.0)
    assert _wake_ups(pid) == before


def test_memory_counts_descendants(home: SandboxHome) -> None:
    start(home, {"name": "a", "kind": "parent"}, {"name": "b"})
    status = until(home, is_ready)
    alone_bytes = memory_bytes(process(status, "b"))
    assert alone_bytes is not None
    assert 1_000_000 < alone_bytes < 20_000_000
    # Each of the two children takes the 20 MB it holds; they may still be on their way there.
    deadline_s = time.monotonic() + 5
    while (memory_bytes(process(status, "a")) or 0) < 40_000_000:
        assert time.monotonic() < deadline_s
    assert memory_bytes(ProcessId(pid=status.supervisor.pid, start_ticks=1)) is None


def test_steps_run_when_their_needs_are_there(home: SandboxHome) -> None:
    done: list[str] = []
    steps = (
        Step("late", lambda: done.append("late"), needs=("early", "a")),
        Step("early", lambda: done.append("early"), needs=("a",)),
    )
    start(home, {"name": "a"}, {"name": "b", "after": ["a"]})
    told: list[str] = []
    assert finish_start(home, steps, told.append).state == "ready"
    assert done == ["early", "late"]
    assert set(told) == {"a ready", "b ready", "early done", "late done"}


def test_failed_step_is_raised(home: SandboxHome) -> None:
    def fail() -> None:
        raise TransientError("no bucket", code="no-bucket", hint="wait")

    start(home, {"name": "a"})
    with pytest.raises(TransientError, match="no bucket"):
        finish_start(home, (Step("buckets", fail),), lambda _line: None)


def test_failed_part_is_raised_with_the_end_of_its_log(home: SandboxHome) -> None:
    start(home, {"name": "a", "kind": "dies"})
    with pytest.raises(PermanentError, match="part a ended with exit code 3") as caught:
        finish_start(home, (), lambda _line: None)
    assert "a speaks" in caught.value.hint
    assert str(home.logs / "a.log") in caught.value.hint


def test_part_out_of_time_may_be_tried_again(home: SandboxHome) -> None:
    start(home, {"name": "a", "kind": "never", "start_timeout_s": 0.2})
    with pytest.raises(TransientError, match="part a was not ready after"):
        finish_start(home, (), lambda _line: None)


def test_contradicting_parts_end_the_start(home: SandboxHome) -> None:
    with pytest.raises(PermanentError, match="names nobody, which is no part"):
        start(home, {"name": "a", "after": ["nobody"]})


def test_second_command_is_refused_while_one_is_at_it(home: SandboxHome) -> None:
    with only_one(home):
        with pytest.raises(ConflictError) as caught, only_one(home):
            raise AssertionError("both went in")
        assert f"pid {os.getpid()}" in caught.value.message
    with only_one(home):
        pass


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _wake_ups(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total
