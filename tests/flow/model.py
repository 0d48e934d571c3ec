"""The version under release, as a fake: what it answers, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from slipway.bench.values import STABLE, BenchmarkPlan, RequestRow, RequestTable, Status
from slipway.core.errors import TransientError
from slipway.evaluation.endpoint import ChatAnswer


@dataclass
class FakeModel:
    """How the version under release behaves; a test makes it bad.

    Attributes:
        answer: what it says to every golden prompt; empty is no answer at all.
        ttft_ms: its time to first token under load.
        error_percent: of its requests under load.
        stable_ttft_ms: the live version's time to first token when the two are compared.
        stable_fails: the live version answers no request then.
        warm_after: how many times its pods fail to answer when it serves again.
        invalid_tables: how many of the next tables break the rules of a table.
        benchmarks: how often it was loaded.
        while_benchmarked: called when the load begins.
    """

    answer: str = "pong"
    ttft_ms: float = 50.0
    error_percent: int = 0
    stable_ttft_ms: float = 50.0
    stable_fails: bool = False
    warm_after: int = 0
    invalid_tables: int = 0
    benchmarks: int = 0
    while_benchmarked: list[Callable[[], None]] = field(default_factory=list)

    def row(self, request_id: str, plan: BenchmarkPlan, status: int, index: int) -> RequestRow:
        """Return what came of one request of a benchmark."""
        failed = status != 200 or index * 100 < self.error_percent * plan.requests
        ttft_ms, itl_ms = self.ttft_ms, 10.0
        if plan.scenario == STABLE:
            ttft_ms = self.stable_ttft_ms
            failed = failed or self.stable_fails
        latency_ms = ttft_ms + itl_ms * (plan.max_tokens - 1)
        return RequestRow(
            request_id=request_id,
            scenario=plan.scenario,
            start_ns=1 + index,
            ttft_ms=None if failed else ttft_ms,
            latency_ms=None if failed else latency_ms,
            itl_ms=None if failed else itl_ms,
            input_tokens=None if failed else 8,
            output_tokens=0 if failed else plan.max_tokens,
            status=Status.ERROR if failed else Status.OK,
            error=f"status {status}" if failed else "",
        )


def table(rows: Iterable[RequestRow], *, ended_at_ns: int) -> RequestTable:
    """Return the table of a benchmark of ten seconds."""
    return RequestTable(
        rows=tuple(rows),
        started_ns=1,
        window_s=10.0,
        ended_at_ns=ended_at_ns,
        client_cpu_percent=1.0,
    )


class FakeEndpoint:
    """A model server that answers every prompt alike."""

    def __init__(self, behaviour: FakeModel) -> None:
        self._behaviour = behaviour

    def ask(self, prompt: str, *, model: str, max_tokens: int) -> ChatAnswer:
        """Return the answer."""
        if not self._behaviour.answer:
            raise TransientError("no answer", code="endpoint-unreachable", hint="look at its log")
        return ChatAnswer(text=self._behaviour.answer, latency_ms=5.0)
