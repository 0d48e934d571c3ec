"""The supervisor's plan under any order of ends, probes, requests and times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slipway.sandbox.part import FileReady, Part, Restart
from slipway.sandbox.supervisor_plan import (
    RUNNING,
    Life,
    PartState,
    after_end,
    became_ready,
    is_over,
    next_actions,
)


def _part(name: str, *, after: tuple[str, ...] = (), stop_after: tuple[str, ...] = ()) -> Part:
    return Part(
        name=name,
        command=("/bin/true",),
        ready=FileReady(Path("/nowhere")),
        after=after,
        stop_after=stop_after,
        restart=Restart(first_s=0.5, longest_s=4, healthy_after_s=10, attempts=3),
    )


PARTS = (
    _part("etcd", stop_after=("apiserver",)),
    _part("apiserver", after=("etcd",)),
    _part("runtime", stop_after=("kubelet",)),
    _part("kubelet", after=("apiserver", "runtime")),
)
BY_NAME = {part.name: part for part in PARTS}
NODE = frozenset({"runtime", "kubelet"})
NAMES = st.sampled_from(sorted(BY_NAME))


class Supervised(RuleBasedStateMachine):
    """The supervisor's loop with processes that are names in a set."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = {part.name: Life() for part in PARTS}
        self.processes: set[str] = set()
        self.held: frozenset[str] = frozenset()
        self.stopping = False
        self.now_s = 0.0
        self.act()

    def act(self) -> None:
        for _ in range(100):
            actions = next_actions(
                PARTS, self.lives, now_s=self.now_s, stopping=self.stopping, held=self.held
            )
            if not actions.any:
                return
            for name in actions.start:
                assert name not in self.processes, f"a second process of {name}"
                assert all(self.lives[other].state is PartState.READY for other in _needs(name))
                assert name not in self.held
                self.processes.add(name)
                self.turn(name, PartState.STARTING)
            for name in (*actions.stop, *actions.kill):
                assert name in self.processes
                self.turn(name, PartState.STOPPING)
            for name, state in actions.settle:
                assert name not in self.processes
                self.lives[name] = Life(state=state)
        raise AssertionError("the plan does not come to rest")

    def turn(self, name: str, state: PartState) -> None:
        self.lives[name] = replace(self.lives[name], state=state)

    @rule(name=NAMES, by_signal=st.booleans())
    def process_ends(self, name: str, *, by_signal: bool) -> None:
        if name not in self.processes:
            return
        self.processes.discard(name)
        self.lives[name] = after_end(
            self.lives[name],
            BY_NAME[name].restart,
            now_s=self.now_s,
            by_signal=by_signal,
            stopping=self.stopping,
            held=name in self.held,
        )
        self.act()

    @rule(name=NAMES)
    def probe_passes(self, name: str) -> None:
        if self.lives[name].state is PartState.STARTING:
            self.lives[name] = became_ready(self.lives[name], self.now_s)
            self.act()

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.act()

    @rule()
    def node_is_killed(self) -> None:
        self.held = NODE
        self.act()

    @rule()
    def node_is_revived(self) -> None:
        self.held = frozenset()
        self.act()

    @precondition(lambda self: not self.stopping)
    @rule()
    def stop_is_asked(self) -> None:
        self.stopping = True
        self.act()

    @invariant()
    def running_states_have_a_process_and_the_others_none(self) -> None:
        running = {name for name, life in self.lives.items() if life.state in RUNNING}
        assert running == self.processes

    @invariant()
    def part_without_a_process_comes_back_or_says_why_not(self) -> None:
        if self.stopping:
            return
        for name, life in self.lives.items():
            if name in self.processes:
                continue
            if name in self.held:
                assert life.state is PartState.DOWN
            elif life.state is PartState.FAILED:
                assert life.misses == BY_NAME[name].restart.attempts or not life.was_ready
            elif life.state is PartState.RESTARTING:
                assert life.due_at_s <= self.now_s + BY_NAME[name].restart.longest_s
                assert life.due_at_s > self.now_s or self.waits(name)
            else:
                assert life.state is PartState.WAITING
                assert self.waits(name)

    def waits(self, name: str) -> bool:
        return any(self.lives[other].state is not PartState.READY for other in _needs(name))

    def teardown(self) -> None:
        """A stop ends whatever came before it, once every process that is asked to end does."""
        self.stopping = True
        self.act()
        for _ in PARTS:
            for name in sorted(self.processes):
                if self.lives[name].state is PartState.STOPPING:
                    self.process_ends(name, by_signal=True)
        assert is_over(self.lives)
        assert not self.processes


def _needs(name: str) -> tuple[str, ...]:
    return BY_NAME[name].after


TestSupervised = Supervised.TestCase
TestSupervised.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
