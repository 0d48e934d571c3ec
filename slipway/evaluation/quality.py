"""The model test: does it answer what everybody knows, and twice the same?"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from slipway.core.errors import SlipwayError
from slipway.core.service import GoldenPrompt, QualityPolicy
from slipway.core.verdicts import (
    Bound,
    Evidence,
    Gate,
    GateResult,
    Measurement,
    Verdict,
    judge,
    overall,
)
from slipway.evaluation.endpoint import ChatEndpoint

SOURCE = "model test"

ACCURACY = "accuracy"
DETERMINISM = "determinism"

_ALL = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRow:
    """One golden prompt, asked twice at temperature 0.

    Args:
        answer: the first answer; empty when there was none.
        expected: regular expression that it must match somewhere.
        right: it matches.
        deterministic: the second answer is the same text.
        latency_ms: of the first answer; None when there was none.
        error: why there is no answer, empty otherwise.
    """

    prompt: str
    answer: str
    expected: str
    right: bool
    deterministic: bool
    latency_ms: float | None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What the model test measured and what its gates say.

    Args:
        rows: one per golden prompt, in their order.
        evidence: `accuracy` and `determinism`, shares of 0..1; NaN when a prompt got no answer.
        results: of the gates.
    """

    rows: tuple[AnswerRow, ...]
    evidence: tuple[Evidence, ...]
    results: tuple[GateResult, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the gates."""
        return overall(self.results)

    def to_json(self) -> dict[str, Any]:
        """Return everything as strict JSON values: a figure that does not exist is None."""
        found: dict[str, Any] = _finite({"verdict": self.verdict.value, **asdict(self)})
        return found


def evaluate(
    endpoint: ChatEndpoint,
    policy: QualityPolicy,
    model: str,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
    monotonic: Callable[[], float] = time.monotonic,
) -> EvaluationResult:
    """Ask every golden prompt twice and judge the answers.

    A server that does not answer makes the figures NaN, which the gates judge ERROR: what could not
    be asked is neither right nor wrong.

    Args:
        endpoint: the server under test.
        policy: prompts and limits.
        model: name the server knows the model by.
        clock_ns: Unix time.
        monotonic: clock in seconds that the window is counted on.
    """
    began_s = monotonic()
    rows = tuple(_ask(endpoint, golden, model, policy.max_tokens) for golden in policy.golden)
    measured = Measurement(window_s=monotonic() - began_s, source=SOURCE, taken_at_ns=clock_ns())
    answered = all(not row.error for row in rows)

    def share(name: str, count: int) -> Evidence:
        value = count / len(rows) if answered and rows else math.nan
        return measured.figure(name, value, "", len(rows))

    evidence = (
        share(ACCURACY, sum(row.right for row in rows)),
        share(DETERMINISM, sum(row.deterministic for row in rows)),
    )
    return EvaluationResult(
        rows=rows,
        evidence=evidence,
        results=tuple(judge(gate, evidence) for gate in gates(policy)),
    )


def gates(policy: QualityPolicy) -> tuple[Gate, ...]:
    """Return the gates of the model test: right often enough, and always the same."""
    count = len(policy.golden)
    return (
        Gate(
            name="share of golden prompts right",
            evidence=ACCURACY,
            bound=Bound.AT_LEAST,
            threshold=policy.accuracy_min,
            n_min=count,
        ),
        Gate(
            name="share of answers the same twice",
            evidence=DETERMINISM,
            bound=Bound.AT_LEAST,
            threshold=_ALL,
            n_min=count,
        ),
    )


def _ask(endpoint: ChatEndpoint, golden: GoldenPrompt, model: str, max_tokens: int) -> AnswerRow:
    try:
        first = endpoint.ask(golden.prompt, model=model, max_tokens=max_tokens)
        second = endpoint.ask(golden.prompt, model=model, max_tokens=max_tokens)
    except SlipwayError as error:
        return AnswerRow(
            prompt=golden.prompt,
            answer="",
            expected=golden.expect,
            right=False,
            deterministic=False,
            latency_ms=None,
            error=error.message,
        )
    return AnswerRow(
        prompt=golden.prompt,
        answer=first.text,
        expected=golden.expect,
        right=re.search(golden.expect, first.text, re.IGNORECASE) is not None,
        deterministic=first.text == second.text,
        latency_ms=first.latency_ms,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
